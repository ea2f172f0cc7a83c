"""The experiment `dca` in numbers and figures."""

from pathlib import Path

import pandas as pd

from helpers.benchmarks.miniature import load_captioned
from helpers.experiments.dca import Experiment
from helpers.figures.best_of import best_of_grid, budget_plot
from helpers.figures.dots import dots_plot
from helpers.figures.grids import prompt_grid
from helpers.figures.plots import objects_plot
from helpers.figures.style import BASE, save
from helpers.figures.words import DISTANCE, called
from helpers.params import Params, load
from helpers.pipeline.score import Scored
from helpers.pipeline.summary import plain
from helpers.reports.common import about, experiment_metrics, publish, real, rows_of, scores, showcase, table

PLOTTED = ("attribute_acc", "relation_acc", "recall", "clip_score", "extra_objects", "kernel_distance")
AGAIN = {"unguided": ("none", "none_again", "none_best"), "guided": ("full", "full_again", "full_best")}  # more tries
TRIES = ("once", "again", "by relation")  # what these cases are
BOUGHT = ("attribute_acc", "relation_acc", "clip_score")
KEPT = ("attribute_acc", "relation_acc", "recall", "clip_score", "extra_objects")
NAMES = {
    "none": "unguided",
    "attributes_relations": "DCA, the paper's losses",
    "attributes": "DCA, attributes only",
    "relations": "DCA, relations only",
    "presence": "presence only (ours)",
    "full": "DCA with presence (ours)",
    "none_again": "unguided, drawn again",
    "full_again": "with presence, drawn again",
    "none_best": "unguided, by relation too",
    "full_best": "with presence, by relation too",
    "parts": "DCA, texts in parts",
    "stated": "DCA, relations as stated",
    "none_short": "short captions: unguided",
    "full_short": "short captions: guided",
    "none_shuffled": "shuffled captions: unguided",
    "full_shuffled": "shuffled captions: guided",
    "none_many": "5, 6 objects: unguided",
    "full_many": "5, 6 objects: guided",
    "none_many_short": "5, 6 objects, short: unguided",
    "full_many_short": "5, 6 objects, short: guided",
}


def by_objects(params: Params, scored: dict[str, Scored], scenes: dict) -> pd.DataFrame:
    """A line per image of the cases with every term and of their baselines: how many objects, which caption."""
    rows, baselines = [], {params.case(case).baseline for case in scored}
    for case, found in scored.items():
        chosen = params.case(case)
        if case in baselines or chosen.baseline != "none" or case == "full":
            known = {scene.id: len(scene.things) for scene in scenes[case]}
            label = {"guidance": "none" if chosen.method is None else "full", "caption": chosen.caption}
            rows += [{**label, "case": case, "objects": known[row["id"]], **row} for row in found.rows]
    return pd.DataFrame(rows)


def write(folder: Path, params: Params, reference) -> dict:
    """Tables and pictures into `folder`; returns the metrics."""
    chosen = params.experiment.cases
    folders = rows_of("dca", chosen)
    scored = scores(folders)
    scenes = {case: load_captioned(c.split, c.caption) for case, c in chosen.items()}
    same = {case for case, c in chosen.items() if (c.split, c.caption) == ("test", "long")}
    ours = {case: "attributes_relations" if case in same else c.baseline for case, c in chosen.items()}
    baselines = {
        "diff": {case: c.baseline for case, c in chosen.items()},
        "diff_attributes_relations": ours,
        "diff_once": {case: cases[0] for cases in AGAIN.values() for case in cases[1:]},
        "diff_unguided": dict(zip(AGAIN["guided"][1:], AGAIN["unguided"][1:], strict=True)),
    }
    metrics = experiment_metrics(scored, scenes, baselines, reference)
    images = by_objects(params, scored, scenes)
    table(plain(metrics), list(baselines)).to_csv(folder / "dca.csv", index=False)
    means = images.groupby(["guidance", "caption", "objects"], sort=False)[list(KEPT)].mean().reset_index()
    means.round(4).to_csv(folder / "dca_by_objects.csv", index=False)
    headline = [case for case in scored if chosen[case].images == "headline" and chosen[case].tries == 1]
    traces = {called(NAMES, case): showcase(folders[case]) for case in headline}
    shown = {called(NAMES, case): scored[case].rows for case in headline}
    unguided = {called(NAMES, c.baseline) for c in chosen.values()}
    named = {called(NAMES, case): found for case, found in metrics.items()}
    shares = {case: metrics[case]["relation_acc"]["mean"] for case in ("none", "full") if case in metrics}
    message = ", ".join(f"{share:.2f} {called(NAMES, case)}" for case, share in shares.items())
    known = about(params)
    pictures = {
        "dca_cases": prompt_grid(
            traces, shown, "The same noise, unguided and with dense concept alignment (DCA)", known
        ),
        "dca_metrics": dots_plot(
            {"": named},
            PLOTTED,
            f"Share of right relations: {message}",
            f"{known}. Grey: unguided, dashed to the cases that are compared with it. {DISTANCE}",
            colors=dict.fromkeys(unguided, BASE),
        ),
        "dca_table": dots_plot(
            {"": {case: found for case, found in named.items() if case not in unguided}},
            PLOTTED,
            "What DCA, its parts and drawing again change",
            f"{known}; paired differences to unguided, on the same prompts, captions and noise",
            "diff",
        ),
        "dca_objects": objects_plot(
            images,
            KEPT[:3],
            "Prompts of more objects; five and six lie outside the training",
            f"{known}. Guided: DCA with presence",
        ),
    }
    lines = {
        label: {case: tries for case, tries in zip(cases, TRIES, strict=True) if case in scored}
        for label, cases in AGAIN.items()
    }
    pairs = {label: list(cases)[:2] for label, cases in lines.items() if len(cases) > 1}
    if pairs:
        tries = {
            label: tuple((scored[case].pictures, scored[case].rows) for case in pair) for label, pair in pairs.items()
        }
        pictures["dca_again"] = best_of_grid(tries, [scene.prompt for scene in scenes["none"]], known)
        pictures["dca_budget"] = budget_plot(
            metrics,
            lines,
            BOUGHT,
            "What more tries buy, with and without guidance",
            f"{known}. Again: up to 4 tries until the detector finds what is asked for; by relation: until CLIP "
            "prefers the stated relations, too (unguided up to 8 tries)",
        )
    save(pictures, folder)
    return metrics


if __name__ == "__main__":
    publish("dca", lambda folder: write(folder, load(Experiment), real()))
