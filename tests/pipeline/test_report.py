"""Reports: what is published where, and that an error leaves what was there."""

import json
import re
from copy import deepcopy
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
import yaml
from test_dag import CASES  # what the pipeline's test keeps of params.yaml

from helpers.conditions import Layout, Region
from helpers.judges.base import Found
from helpers.params import read
from helpers.paths import ROOT
from helpers.pipeline import report
from helpers.pipeline.score import Scored, load_score, save, shown, whole
from helpers.reports import common
from helpers.sampling.trace import Record, Trace

PARAMS = read()  # read it anew where it is changed


@pytest.fixture
def places(monkeypatch, tmp_path):
    """figures/ and results/ in a folder of their own."""
    figures, results = tmp_path / "figures", tmp_path / "results"
    for module in (common, report):
        monkeypatch.setattr(module, "FIGURES", figures)
        monkeypatch.setattr(module, "RESULTS", results)
    return figures, results


def drawn(mean: float):
    def write(folder):
        (folder / "dga.png").write_text(f"picture of {mean}")
        return {"none": {"recall": {"mean": mean}}}

    return write


def test_pictures_and_numbers_are_published(places):
    figures, results = places
    common.publish("dga", drawn(0.25))
    assert (figures / "dga.png").read_text() == "picture of 0.25"
    assert json.loads((results / "metrics" / "dga.json").read_text()) == {"none": {"recall": {"mean": 0.25}}}
    assert [path.name for path in figures.parent.iterdir() if path.name.startswith("figures")] == ["figures"]


def test_an_error_leaves_the_old_ones(places):
    figures, results = places
    common.publish("dga", drawn(0.25))

    def broken(folder):
        drawn(0.5)(folder)
        raise FileNotFoundError("no scores")

    with pytest.raises(FileNotFoundError, match="no scores"):
        common.publish("dga", broken)
    assert (figures / "dga.png").read_text() == "picture of 0.25"
    assert json.loads((results / "metrics" / "dga.json").read_text())["none"]["recall"]["mean"] == 0.25
    common.publish("dga", drawn(0.75))
    assert (figures / "dga.png").read_text() == "picture of 0.75", "what the error left is cleared away"


def test_a_report_keeps_the_pictures_of_the_others(places):
    figures, _ = places
    figures.mkdir()
    (figures / "layout.png").write_text("another's")
    common.publish("dga", drawn(0.25))
    assert sorted(path.name for path in figures.iterdir()) == ["dga.png", "layout.png"]


def test_all_numbers_are_gathered(places, monkeypatch, tmp_path):
    figures, _ = places
    monkeypatch.setattr(report, "TEMPLATE", tmp_path / "results.md.j2")
    report.TEMPLATE.write_text("{{ metrics.dma.full.drag_md | mean }}")
    for place, name in enumerate(report.reports()):
        metric = report.MAIN.get(name, "other")
        common.publish(name, lambda folder, metric=metric, place=place: {"full": {metric: {"mean": place / 10}}})
    report.main()
    gathered = json.loads((figures / "metrics.json").read_text())
    assert list(gathered) == report.reports() and {"dga", "ilgd", "miniature"} <= set(gathered)
    assert gathered["dma"] == {"full": {"drag_md": {"mean": 0.2}}}
    assert json.loads((figures / "summary.json").read_text())["dma"] == {"drag_md": {"full": 0.2}}
    assert (figures / "README.md").read_text() == ".2"


def test_a_report_that_is_not_there_is_named(places):
    common.publish("dga", drawn(0.25))
    with pytest.raises(FileNotFoundError, match="no numbers of dca, dma, .*: run `dvc repro report_dca`"):
        report.main()


def test_a_report_is_of_every_case_and_of_no_other(places):
    _, results = places
    for name in ("none", "full", "old"):
        (results / "dga" / "score" / name).mkdir(parents=True)
    found = common.rows_of("dga", ["none", "full"])
    assert found == {name: results / "dga" / "score" / name for name in ("none", "full")}
    assert {path.name for path in (results / "dga" / "score").iterdir()} == {"none", "full"}, "the old one is deleted"
    with pytest.raises(FileNotFoundError, match="has no rows of coverage: run `dvc repro report_dga`"):
        common.rows_of("dga", ["none", "coverage", "full"])


def test_scores_are_kept_without_masks(tmp_path):
    found = Found("car", "red", "plain", 0.75, (1, 2, 30, 40), np.ones((64, 64), bool))
    rows = [
        {"id": "one", "seed": 2**32 - 1, "recall": 1.0, "eff_cfg": None},
        {"id": "two", "seed": 7, "recall": np.nan, "eff_cfg": 5.0},
    ]
    pictures = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    save(Scored(rows, [[], [found, found]], torch.linspace(-1, 1, 128).view(2, 64), pictures), tmp_path / "full")
    stored = load_score(tmp_path / "full")
    assert [list(row) for row in stored.rows] == [list(row) for row in rows]
    assert stored.rows[0]["id"] == "one" and stored.rows[0]["seed"] == 2**32 - 1 and stored.rows[0]["recall"] == 1
    assert np.isnan(stored.rows[1]["recall"]) and np.isnan(stored.rows[0]["eff_cfg"])
    assert stored.found[0] == [] and len(stored.found[1]) == 2
    assert stored.found[1][0].box == found.box and stored.found[1][0].score == 0.75
    assert (stored.found[1][0].kind, stored.found[1][0].color, stored.found[1][0].pattern) == ("car", "red", "plain")
    torch.testing.assert_close(stored.features, torch.linspace(-1, 1, 128).view(2, 64), atol=1e-3, rtol=0)
    assert (stored.pictures == pictures).all()


def test_a_showcase_keeps_frames_and_maps_of_one_image(tmp_path):
    regions = [Region(phrase=name, box=(0, 0, 0.5, 0.5)) for name in ("red car", "blue fish")]
    trace = Trace(range(3))
    trace.timesteps, trace.sigmas, trace.settings = [9, 1], [0.9, 0.1], {"steps": 2}
    for k in range(3):
        layout = Layout(prompt="a red car and a blue fish", regions=tuple(regions[: 1 + (k > 0)]))
        frames, curves = np.full((2, 8, 8, 3), k, np.uint8), {"dga": np.float32([k, 1])}
        trace.records.append(
            Record(k, layout.prompt, k, layout, None, frames, frames[0], {"dga.masks": frames[..., 0]}, curves)
        )
    shown(trace).save(tmp_path / "showcase")
    kept = Trace.load(tmp_path / "showcase")
    assert whole(kept) == 1, "the first with several regions"
    assert (kept.records[1].frames == 1).all() and "dga.masks" in kept.records[1].maps
    for k, record in enumerate(kept.records):
        assert (record.final == k).all() and record.curves["dga"][0] == k and record.layout == trace.records[k].layout
    assert not kept.records[2].maps and len(trace.records[2].maps) == 1, "the trace itself stays as it is"


METRICS = """nfe mask_iou box_iou box_ap50 recall color_acc extra_objects size_error distance_error attribute_acc
relation_acc clip_score clip_iqa contrast kernel_distance drag_md center_dist drag_recall image_fidelity edit_fidelity
background_psnr ceiling filled inside centred off_centre candidate_min candidate_median candidate_max seconds
faster""".split()
DIFFERENCES = """diff diff_coverage diff_boxdiff diff_attributes_relations diff_once diff_unguided diff_displacement
diff_text diff_layout diff_drag diff_dga diff_boxes diff_searched diff_best""".split()
MINIATURE = {
    "vae": "psnr", "mini-sd": "recall recall_single recall_four extra_objects", "guide_segmenter": "mask_iou",
    "detector": "ap50 ap50_x0", "sam": "mask_iou mask_iou_x0_hat_50", "raft": "epe_moving epe_moving_x0_hat_50",
    "clip": "top1 top1_x0_hat_50 swapped_relation swapped_relation_x0_hat_50", "dino": "pck pck_x0_hat_50",
    "judge": "recall color_acc mask_iou", "judge_clip": "caption_top1 swapped_relation", "quality": "auc",
    "parser": "f1_relations", "fgdm.autoencoder": "objects objects_half",
    "fgdm.segmentation": "recall_5 recall_10 recall_20", "fgdm.image": "box_iou_segmentation box_iou_sketch",
}  # fmt: skip
POINTS = {"many": ("many, none", "many, ilgd"), "loss_strength": ("0", "10")}


def by_hand(params: dict, lo: float | None = 0.1, hi: float | None = 0.3) -> dict:
    """Metrics of every case of params.yaml: .5 each, and all differences with this interval."""
    diff = {"mean": None if lo is None else (lo + hi) / 2, "lo": lo, "hi": hi}

    def entries() -> dict:
        entry = {"mean": 0.5, "lo": 0.4, "hi": 0.6, "n": 24} | {key: dict(diff) for key in DIFFERENCES}
        return {name: deepcopy(entry) for name in METRICS} | {
            "iou_gain": diff | {"n": 24},
            "within_60": {"mean": 0.25, "lo": 0.2, "hi": 0.3, "n": 24, "nfe": 40.0},
            "within_any": None,
        }

    metrics = {}
    for name, block in params.items():
        if "cases" in block:
            tuned = [f"{case}_tuned" for case in block.get("search", ())]
            metrics[name] = {case: entries() for case in (*block["cases"], *tuned)}
    for curve, settings in params["robustness"]["cases"].items():
        values = [f"{value:g}" for value in settings["values"]]
        metrics["robustness"][curve] = {value: entries() for value in ("none", *values)}
    for ablation in params["ilgd"]["cases"]:
        metrics["ilgd"][ablation] = {point: entries() for point in POINTS.get(ablation, ("one", "other"))}
    return metrics | {"miniature": {model: dict.fromkeys(names.split(), 0.9) for model, names in MINIATURE.items()}}


def compute(results, metrics: dict) -> None:
    (results / "metrics").mkdir(parents=True, exist_ok=True)
    for name, numbers in metrics.items():
        (results / "metrics" / f"{name}.json").write_text(json.dumps(numbers))


def test_the_page_is_filled_in_from_the_numbers(places):
    figures, results = places
    metrics = by_hand(read())
    metrics["dga"]["full"]["box_iou"] |= {"mean": 0.8765, "n": 123, "diff": {"mean": 0.7531, "lo": 0.71, "hi": 0.789}}
    metrics["miniature"]["vae"]["psnr"] = 45.678
    compute(results, metrics)
    report.main()
    page = (figures / "README.md").read_text()
    assert "box IoU rises from .50 to .88, +.75 (.71 to .79)." in page
    assert "| DGA: all three | 123 | .88 | +.75 (.71 to .79) |" in page and "dB ↑ | 45.7 |" in page
    assert json.loads((figures / "metrics.json").read_text()) == metrics
    for title in ("dga", "layout", "free", "sbpc", "guided_factors", "dca", "dma", "combinations", "robustness"):
        assert re.search(rf"^## .*\(`{title}`", page, re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, f"rows of one length:\n{table}"
    assert not re.search(r"None|nan|\{|\}|\n\n\n", page)


VERBS = {"up": r"\brises?\b", "down": r"\bfalls?\b", "same": r"\bnot change measurably\b"}


@pytest.mark.parametrize(
    ("lo", "hi", "told"),
    [(0.1, 0.3, "up"), (-0.3, -0.1, "down"), (-0.1, 0.3, "same"), (0.0, 0.3, "same"), (None, None, "same")],
)
def test_a_verb_follows_the_interval(lo, hi, told):
    page = report.page(by_hand(read(), lo, hi), read()).replace('verdicts such as "rises"', "")
    assert {name: bool(re.search(words, page)) for name, words in VERBS.items()} == {n: n == told for n in VERBS}
    lost = {"up": "(0.25, 1, 2)", "down": "(0.25, 0.5, 1, 2, 4)", "same": "(0.25, 1, 2)"}[told]  # drags, or layouts
    assert f"strength: {'layout' if told == 'down' else 'drag'} {lost}" in page


@pytest.mark.parametrize("words", [("rises", "falls", "stays"), ("more", "less", "as much")])
def test_of_three_words_one_is_chosen(words):
    def said(lo, hi):
        return report.verb(report.Block({"mean": 0.0, "lo": lo, "hi": hi}, "diff"), *words)

    assert (said(0.01, 0.2), said(-0.2, -0.01), said(-0.2, 0.01)) == words
    assert said(0.0, 0.2) == said(-0.2, 0.0) == said(None, None) == words[2]


def test_numbers_have_the_digits_of_their_metric():
    entry = {"mean": 0.0321, "diff": {"mean": -0.0321, "lo": -0.2, "hi": 0.0004}}
    block = report.Block({"nfe": {"mean": 51.4}, "recall": entry, "contrast": entry}, "metrics")
    assert [report.mean(block[name]) for name in ("nfe", "recall", "contrast")] == ["51", ".03", ".032"]
    assert report.change(block["recall"]["diff"]) == "-.03 (-.20 to .00)"
    assert report.change(block["contrast"]["diff"]) == "-.032 (-.200 to .000)"
    told = report.Block({"mean": 0.05, "lo": 0.0021, "hi": 1.5}, "diff")
    assert report.change(told) == "+.050 (.002 to 1.500)", "a bound that is told from zero is not shown as zero"
    assert (
        report.change(report.Block({"mean": 0.172, "lo": -0.02, "hi": 0.2}, "d"), relative=True)
        == "+17 % (-2 % to 20 %)"
    )
    assert report.change(report.Block({"mean": None, "lo": None, "hi": None}, "diff")) == report.mean(
        report.Block({"mean": None}, "recall")
    )
    assert report.share({"mean": 0.3}, {"mean": 0.4}) == "75 %" and report.share({"mean": 0.3}, {"mean": 0}) == "–"


@pytest.mark.parametrize(
    "place", ["dga.full.box_iou", "layout.ilgd_dga_tuned", "dca.none_again.attribute_acc.diff_once"]
)
def test_a_number_that_is_missing_is_named_and_the_old_page_stays(places, place):
    figures, results = places
    metrics = by_hand(read())
    compute(results, metrics)
    figures.mkdir()
    old = {name: f"the old {name}" for name in ("README.md", "metrics.json", "summary.json")}
    for name, text in old.items():
        (figures / name).write_text(text)
    *path, last = place.split(".")
    block = metrics
    for name in path:
        block = block[name]
    del block[last]
    compute(results, metrics)
    around = ".".join(["metrics", *path])
    cure = f"correct the template, or compute it: `dvc repro report_{path[0]}`"
    with pytest.raises(ValueError, match=f"^results.md.j2 asks for metrics.{place}, but {around} has .*: {cure}$"):
        report.main()
    assert {path.name: path.read_text() for path in figures.iterdir()} == old


def test_a_wrong_name_in_the_template_is_told(places, monkeypatch, tmp_path):
    template = tmp_path / "results.md.j2"
    monkeypatch.setattr(report, "TEMPLATE", template)
    for text, told in {
        "{{ metrics.dga.fulll.box_iou | mean }}": "asks for metrics.dga.fulll, but metrics.dga has none, coverage, ",
        "{{ params.sampling.cfg }}": "asks for params.sampling.cfg, but params.sampling has backbone, cfg_scale: ",
        "{{ metrix.dga }}": "'metrix' is undefined",
    }.items():
        template.write_text(text)
        with pytest.raises(ValueError, match=f"^results.md.j2 {told}"):
            report.page(by_hand(read()), read())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("one\n{% if %}", "results.md.j2, line 2: Expected an expression, got 'end of statement block': correct the"),
        ("{% if true %}", "results.md.j2, line 1: Unexpected end of template."),
        ("\n\n{{ 3 | meen }}", "results.md.j2, line 3: No filter named 'meen': correct the template"),
        (b"\xe9", "results.md.j2 is not UTF-8 (unexpected end of data at byte 0): save it as UTF-8"),
        (None, "results.md.j2 is missing: run `git checkout "),
        (
            "\n{{ metrics.dga.full | mean }}",
            "results.md.j2, line 2: `mean` is given metrics.dga.full, which has no mean",
        ),
        ("{{ metrics.dga.full.box_iou.mean | mean }}", "results.md.j2, line 1: `mean` is given 0.5, which has no mean"),
        ("{{ metrics.dga.full.box_iou | number }}", "`number` is given metrics.dga.full.box_iou, which is none: name"),
        ("{{ metrics.dga.full.box_iou | percent }}", "`number` is given metrics.dga.full.box_iou, which is none: name"),
        ("{{ 'much' | percent }}", "`number` is given 'much', which is none"),
        ("{{ true | number }}", "`number` is given True, which is none"),
        ("{{ metrics.dga.full.box_iou.mean | change }}", "`change` is given 0.5, which has no mean, lo, hi: give it"),
        ("{{ metrics.dga.full.box_iou.mean | verb }}", "`verb` is given 0.5, which has no lo, hi: give it lo and hi"),
        ("{{ metrics.dga | verb }}", "`verb` is given metrics.dga, which has no lo, hi"),
        ("{{ metrics.dga.full.box_iou | share(0.5) }}", "`share` is given 0.5, which has no mean"),
        ("{{ metrics.dga.fulll | mean }}", "results.md.j2 asks for metrics.dga.fulll, but metrics.dga has none, "),
        ("{{ metrics.dga.full.box_iou.diff_last | verb }}", "asks for metrics.dga.full.box_iou.diff_last, but "),
        ("{{ metrics.dga.full.box_iou.means | number }}", "asks for metrics.dga.full.box_iou.means, but "),
        ("{{ metrics.dga + 1 }}", "results.md.j2, line 1: unsupported operand"),
        ("{{ 1 / 0 }}", "results.md.j2, line 1: division by zero"),
        ("\n{% if ran('dag.full') %}.{% endif %}", "line 2: ran('dag.full') names no case of an experiment: use <exp"),
        (
            "{% if ran('dga.full', 'full') %}.{% endif %}",
            "ran('full') names no case of an experiment: use <experiment>",
        ),
        (
            "{% if ran('dga') %}.{% endif %}",
            "ran('dga') names no case of an experiment: use <experiment>.<case>, of dga",
        ),
    ],
)
def test_what_is_wrong_with_the_template_is_told_with_its_line(monkeypatch, tmp_path, text, told):
    template = tmp_path / "results.md.j2"
    monkeypatch.setattr(report, "TEMPLATE", template)
    if text is not None:
        template.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=re.escape(told)):
        report.page(by_hand(PARAMS), PARAMS)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is damaged (Expecting value: line 1 column 1 (char 0))"),
        ('{"full": {"box_iou"', "is damaged (Expecting ':' delimiter"),
        (b"\xe9", "is damaged ('utf-8' codec can't decode"),
        ("[1]", "holds [1], not metrics of cases"),
        ('{"full": 3}', "holds {'full': 3}, not metrics of cases"),
    ],
)
def test_a_damaged_file_of_numbers_is_named_and_the_old_page_stays(places, content, told):
    figures, results = places
    compute(results, by_hand(PARAMS))
    report.main()
    old = {path.name: path.read_bytes() for path in figures.iterdir()}
    (results / "metrics" / "dca.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        report.main()
    assert "dca.json" in str(error.value) and str(error.value).endswith(": run `dvc repro report_dca`")
    assert {path.name: path.read_bytes() for path in figures.iterdir()} == old


@pytest.mark.parametrize("lost", ["metric", "mean"])
@pytest.mark.parametrize("name", report.MAIN)
def test_a_main_metric_that_is_missing_is_named(name, lost):
    metrics, metric = by_hand(PARAMS), report.MAIN[name]
    case = list(metrics[name])[-1]
    if lost == "metric":
        del metrics[name][case][metric]
    else:
        metrics[name][case][metric] = 0.5
    with pytest.raises(ValueError, match=f"metrics of {name} lack the mean of {metric} of the case '{case}', .*MAIN"):
        report._summary(metrics)


def test_what_speaks_of_cases_that_are_no_more_is_left_out():
    params = read()
    for name, cases in CASES.items():
        params[name]["cases"] = {case: params[name]["cases"][case] for case in cases}
    params["layout"]["search"] = {"ilgd": params["layout"]["search"]["ilgd"]}
    page = report.page(by_hand(params), params)
    assert "**Told boxes" in page and "further terms" not in page and "BoxDiff" not in page
    params["layout"]["cases"]["mine"] = {"method": "darker"}
    assert "| mine | .50 |" in report.page(by_hand(params), params), "a case that nobody has words for has its name"


def test_no_number_that_was_measured_is_typed():
    template = report.TEMPLATE.read_text()
    assert not re.findall(r"\.\d", template), "neither in a sentence nor in an expression"
    text = re.sub(r"(?s)\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", "", template)
    names = r"95 % bootstrap|AP50|F1|DINOv2|md\.j2"
    assert not re.findall(r"\d+", re.sub(names, "", text))
    assert not re.findall(r"\b(third|quarter|twice|thrice|double|two|three|four|ten) (of|as|times)\b", text)


def test_the_template_speaks_of_cases_that_there_are():
    params = read()
    known = {f"{name}.{case}" for name, block in params.items() for case in block.get("cases", ())}
    known |= {f"layout.{case}_tuned" for case in params["layout"]["search"]}
    asked = re.findall(r"\bran\(([^~)]*)\)", report.TEMPLATE.read_text())
    names = {name for group in asked for name in re.findall(r'"([\w.]+)"', group)}
    assert len(names) > 20 and names <= known


def test_all_that_the_page_asks_of_params_yaml_is_a_case_there(monkeypatch):
    """Also names that the template puts together: on the file as it is nothing is left out."""
    asked, ran = [], report._ran
    monkeypatch.setattr(report, "_ran", lambda cases, *names: asked.extend(names) or ran(cases, *names))
    params = read()
    report.page(by_hand(params), params)
    known = {f"{name}.{case}" for name, block in params.items() for case in block.get("cases", ())}
    known |= {f"layout.{case}_tuned" for case in params["layout"]["search"]}
    assert {"combinations.text", "dga.full"} <= set(asked) <= known


def test_what_the_page_links_is_there():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    written = {
        str(PurePosixPath(next(iter(out))).relative_to("figures"))
        for name, stage in stages.items()
        if name.startswith("report")
        for out in stage["outs"]
        if isinstance(out, dict)
    }
    assert "README.md" in written
    links = re.findall(r"\]\(([^)]*)\)", report.page(by_hand(read()), read()))
    assert len([link for link in links if link.endswith(".png")]) > 20
    for link in links:
        path, _, anchor = link.partition("#")
        assert path in written or (ROOT / "figures" / path).exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.*)", (ROOT / "figures" / path).read_text(), re.MULTILINE)
            assert anchor in {title.lower().replace(" ", "-") for title in titles}
