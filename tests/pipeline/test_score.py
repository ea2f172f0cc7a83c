"""Pictures are judged by the items of the benchmark that they were drawn for: layouts, drags, or both."""

from functools import partial

import numpy as np
import pytest
import torch

from helpers.benchmarks.miniature import load_captioned
from helpers.benchmarks.miniature_combined import load_combined
from helpers.benchmarks.miniature_drags import load_drags
from helpers.benchmarks.miniature_edits import edited
from helpers.judges.loading import load_judge
from helpers.miniature.cases import SPLITS, case_scene
from helpers.miniature.world import render
from helpers.pipeline import samples, score, summary
from helpers.pipeline.samples import Samples
from helpers.pipeline.score import OF_SOURCE, judge_drags, judged
from helpers.sampling.trace import Record, Trace

TEST = load_drags("test")
SCENES = load_combined("test")[:2]
COST = {"seconds": 2.0, "nfe": 20.0, "peak_mb": 500.0, "eff_cfg": float("nan")}


@pytest.fixture(scope="module")
def judge():
    return load_judge("judge")


@pytest.fixture(scope="module", autouse=True)
def judges(judge):
    """Loaded once; the head of clip_iqa is a result of the pipeline, so a stand-in says what it would."""
    loaded = {"judge": judge, "judge-clip": load_judge("judge-clip"), "quality": lambda images: images.mean((1, 2, 3))}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "load_judge", loaded.__getitem__)
        yield


def sources(cases):
    return torch.stack([case.drag.image() for case in cases])


def edits(cases):
    return torch.from_numpy(np.stack([edited(case) for case in cases])).permute(0, 3, 1, 2) / 255


def as_drawn(cases, images, /, **settings):
    """These pictures as if a run had drawn them, without CFG."""
    return Samples(images, [{"id": case.id, "seed": case.seed, **COST} for case in cases], [], settings=settings)


# --- by the benchmark's own items ------------------------------------------------------------------------------------


@pytest.mark.parametrize("caption", ["short", "long"])
def test_layouts_are_judged_by_what_their_captions_name(caption):
    items = load_captioned("dev", caption)[:4]
    true = np.stack([render(case_scene("dev", k, SPLITS["dev"][k])[0]).image for k in range(4)])
    images = torch.from_numpy(true).permute(0, 3, 1, 2) / 255
    found = judged(as_drawn(items, images), "miniature", "dev", caption=caption)
    for row, item, image in zip(found.rows, items, images, strict=True):
        assert row["id"] == item.id and row["recall"] == row["attribute_acc"] == 1 and row["box_iou"] > 0.8
        assert np.isnan(row["relation_acc"]) == (not item.relations)
        assert row["clip_iqa"] == pytest.approx(image.mean().item()) and 0 < row["clip_score"] <= 100
        assert not set(OF_SOURCE) & set(row) and row["nfe"] == 20


def test_drags_are_judged_against_their_own_sources():
    own = load_drags("test", "drawn")[:2]
    (row, _) = judged(as_drawn(own, sources(own)), "miniature_drags", "test", source="drawn").rows
    assert row["image_fidelity"] == pytest.approx(1, abs=1e-4) and np.isnan(row["edit_fidelity"])
    (row, _) = judged(as_drawn(TEST[:2], sources(TEST[:2])), "miniature_drags", "test", source="rendered").rows
    assert row["image_fidelity"] == pytest.approx(1, abs=1e-4) and 0 < row["edit_fidelity"] < 1
    assert not {"box_iou", "clip_score", "relation_acc"} & set(row)


@pytest.fixture(scope="module")
def combined():
    """sourced -> scores of the rendered edits, as if a combination with or without a source had drawn them."""
    drawn = partial(as_drawn, SCENES, edits([case.drag for case in SCENES]))
    return {sourced: judged(drawn(sourced=sourced), "miniature_combined", "test") for sourced in (False, True)}


def test_without_a_source_nothing_is_compared_with_one(combined):
    for free, dragged in zip(combined[False].rows, combined[True].rows, strict=True):
        assert set(free) == set(dragged) and np.isnan([free[key] for key in OF_SOURCE]).all()
        np.testing.assert_equal({**free, **dict.fromkeys(OF_SOURCE)}, {**dragged, **dict.fromkeys(OF_SOURCE)})


def test_the_true_edit_gets_both_kinds_of_full_marks(combined):
    found = combined[True]
    for row, case in zip(found.rows, SCENES, strict=True):
        assert (row["id"], row["seed"], row["seconds"]) == (case.id, case.seed, 2.0)
        assert np.isfinite([row[key] for key in OF_SOURCE]).all()
        assert row["drag_md"] < 2 and row["center_dist"] < 2 and row["edit_fidelity"] > 0.99
        assert row["box_iou"] > 0.8 and row["attribute_acc"] == row["recall"] == 1 and 0 < row["clip_score"] <= 100
    assert len(found.found) == len(found.features) == len(SCENES)


@pytest.mark.parametrize(
    ("name", "items"),
    [("miniature", load_captioned("test")[:2]), ("miniature_drags", TEST[:2]), ("miniature_combined", SCENES)],
)
def test_pictures_of_other_items_are_refused(name, items):
    drawn = as_drawn(items[::-1], torch.zeros(2, 3, 64, 64), sourced=True)
    with pytest.raises(ValueError, match=f"image 0 was drawn for case '{items[1].id}', not for '{items[0].id}'"):
        judged(drawn, name, "test")


def test_an_unknown_benchmark_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown benchmark 'photos'; choose one of miniature, miniature_combined"):
        judged(as_drawn(TEST[:1], None), "photos", "test")


def test_a_stage_scores_what_was_sampled(monkeypatch, tmp_path, capsys):
    """The folder of a case: pictures and their benchmark in, rows, showcase and the first pictures out."""
    monkeypatch.setattr(score, "RESULTS", tmp_path)
    items, trace = load_captioned("many", "long")[:2], Trace([0])
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    final = (images[0] * 255).byte().permute(1, 2, 0).numpy()
    trace.records = [Record(0, items[0].prompt, items[0].seed, items[0].layout, None, final[None], final, {}, {})]
    trace.timesteps, trace.sigmas = [9], [0.9]
    drawn = as_drawn(items, images)
    drawn.trace = trace
    about = {"items": {"benchmark": "miniature", "split": "many", "caption": "long"}, "settings": {}}
    samples.save(drawn, tmp_path / "dca" / "sample" / "full_many", about)
    score.main("dca", "full_many")
    found = score.load_score(tmp_path / "dca" / "score" / "full_many")
    assert [row["id"] for row in found.rows] == [item.id for item in items] and found.pictures.shape == (2, 64, 64, 3)
    assert Trace.load(tmp_path / "dca" / "score" / "full_many" / "showcase").records[0].prompt == items[0].prompt
    assert capsys.readouterr().out.startswith("full_many: 2 images, recall")


# --- drags -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(judge):
    """The sources and the rendered edits of eight drags, one of every form."""
    part = TEST[:8]
    return {
        "none": judge_drags(as_drawn(part, sources(part)), part, judge),
        "full": judge_drags(as_drawn(part, edits(part)), part, judge),
    }


def test_pictures_and_drags_in_another_order_are_refused(judge):
    part = TEST[:2]
    with pytest.raises(ValueError, match="image 0 was drawn for case 'test-001', not for 'test-000': keep their order"):
        judge_drags(as_drawn(part[::-1], sources(part)), part, judge)
    with pytest.raises(ValueError, match="image 1 was drawn for case 'test-002', not for 'test-001'"):
        score.check(as_drawn([TEST[0], TEST[2]], None), part)
    with pytest.raises(ValueError, match="zip"):
        score.check(as_drawn(TEST[:3], None), part)
    assert score.check(as_drawn(part, None), part) is None


def test_scores_of_drags_hold_what_the_run_cost_and_what_the_judge_says(scored):
    for name, found in scored.items():
        assert [row["id"] for row in found.rows] == [case.id for case in TEST[:8]], name
        assert found.features.shape == (8, 64) and len(found.found) == 8
        assert all(row["nfe"] == 20 and np.isnan(row["eff_cfg"]) and row["contrast"] > 0 for row in found.rows)
    before, after = (np.mean([row["drag_md"] for row in scored[name].rows]) for name in ("none", "full"))
    assert after < 1 < before


def test_drags_have_no_precision_of_boxes_and_layouts_do(scored, monkeypatch):
    monkeypatch.setattr(summary.stats, "resampled", partial(summary.stats.resampled, draws=20))
    reference = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
    part = TEST[:8]
    found = summary.summarise(scored["full"], part, reference)
    assert {"drag_md", "kernel_distance", "nfe"} <= set(found) and not {"box_ap50", "box_ap"} & set(found)
    assert found["drag_md"]["n"] == 8 and found["eff_cfg"]["n"] == 0 and np.isnan(found["eff_cfg"]["mean"])
    change = summary.differences(scored["full"], scored["none"], part, reference)
    assert set(change) == set(found) and change["drag_md"]["hi"] < 0 < change["edit_fidelity"]["lo"]
    layouts = score.Scored(scored["full"].rows[:2], scored["full"].found[:2], scored["full"].features[:2])
    evaluated = summary.evaluate(layouts, [case.scene for case in SCENES], reference)
    assert {"box_ap50", "box_ap"} <= set(evaluated.drawn)
