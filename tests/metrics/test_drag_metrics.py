"""The drag benchmark and its metrics, on pictures made by hand: the source, the rendered edit, and edits gone wrong."""

import numpy as np
import pytest
import torch

from helpers.benchmarks import files
from helpers.benchmarks.miniature_drags import DragCase, load_drags
from helpers.benchmarks.miniature_edits import edited
from helpers.judges.base import Found
from helpers.judges.loading import load_judge
from helpers.metrics.drag import background_psnr, centre_distance, dense, find, mean_distance, perceptual_distance
from helpers.miniature.drags import FORMS, make_case, store
from helpers.miniature.items import Moved
from helpers.miniature.scene import shifted
from helpers.miniature.vocabulary import SIDE
from helpers.miniature.world import render
from helpers.pipeline.score import drag_rows
from helpers.training import drawn_drags

CASES = [make_case("test", k) for k in range(16)]


def images(arrays):
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255


SOURCES = torch.stack([case.drag.image() for case in CASES])
EDITED = images([edited(case) for case in CASES])


@pytest.fixture(scope="module")
def judge():
    return load_judge("judge")


def score(cases, pictures, judge):
    return drag_rows(cases, pictures, judge.recognise(pictures), judge)


def lengths(case):
    handles, targets = case.drag.points()
    return torch.linalg.vector_norm(targets - handles, dim=1)


# --- the benchmark ---------------------------------------------------------------------------------------------------


def test_cases_are_what_they_say():
    assert [case.form for case in CASES] == 2 * FORMS
    for case in CASES:
        before, after = render(case.scene), render(shifted(case.scene, case.shifts))
        kinds = {thing.kind for thing in case.scene.things}
        assert 1 <= len(case.scene.things) == len(kinds) <= 3
        assert torch.equal(case.drag.image(), images([before.image])[0])
        assert len(case.shifts) == len(case.moved) == (2 if case.form == "two objects" else 1)
        assert len(case.drag.moves) == (1 if case.form in ("one", "partly outside") else 2)
        for index, _, _ in case.shifts:
            whole = after.amodal[index].sum() / before.amodal[index].sum()
            assert 0.75 <= whole <= 0.95 if case.form == "partly outside" else whole == 1
        assert (after.visible.sum((1, 2)) >= 0.85 * after.amodal.sum((1, 2))).all(), "no object lands on another"
        assert (lengths(case) > 5).all() and (lengths(case) < 28).all()


def test_handles_lie_on_the_object_and_move_with_it():
    for case in CASES:
        visible = render(case.scene).visible
        handles, targets = case.drag.points()
        per_object = len(handles) // len(case.shifts)
        for k, (h, q) in enumerate(zip(handles, targets)):
            index, dx, dy = case.shifts[k // per_object]
            assert visible[index, int(h[1]), int(h[0])] and (q - h).tolist() == [dx, dy]
            assert 0 <= q.min() and q.max() <= SIDE - 1


def test_splits_differ_and_repeat():
    assert make_case("dev", 3) == make_case("dev", 3) != make_case("test", 3)
    assert len({make_case(split, k).seed for split in ("dev", "test") for k in range(8)}) == 16


def test_stored_and_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DATA", tmp_path / "data")
    with pytest.raises(FileNotFoundError, match=r"data/drags.json is missing; fetch it with `dvc pull`"):
        load_drags.__wrapped__("dev")
    store({"dev": CASES[:2]}, tmp_path / "data" / "drawn_drags.json")
    assert load_drags.__wrapped__("dev", "drawn") == tuple(CASES[:2])
    with pytest.raises(ValueError, match="unknown split 'train'; choose one of dev"):
        load_drags.__wrapped__("train", "drawn")
    with pytest.raises(ValueError, match="unknown source 'painted'; choose one of rendered, drawn"):
        load_drags("dev", "painted")
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["drawn_drags.json"]


def test_a_drawn_case_has_no_edited_picture():
    drawn = CASES[0].model_copy(update={"scene": None, "shifts": ()})
    with pytest.raises(ValueError, match="test-000 was drawn by a model: no edited picture is known"):
        edited(drawn)
    assert DragCase.model_validate_json(drawn.model_dump_json()) == drawn


# --- the metrics -----------------------------------------------------------------------------------------------------


def test_the_source_itself_is_one_drag_away(judge):
    for case, row in zip(CASES, score(CASES, SOURCES, judge), strict=True):
        assert row["drag_md"] == pytest.approx(lengths(case).mean().item(), abs=0.05)
        ways = [np.hypot(dx, dy) for _, dx, dy in case.shifts]
        # a box that ends partly outside has its centre further in
        assert row["center_dist"] == pytest.approx(np.mean(ways), abs=6 if case.form == "partly outside" else 1.5)
        assert row["image_fidelity"] == pytest.approx(1, abs=1e-5) and row["background_psnr"] == pytest.approx(100)
        assert row["drag_recall"] == 1 and row["edit_fidelity"] < 0.95


def test_the_rendered_edit_has_arrived(judge):
    rows = score(CASES, EDITED, judge)
    assert np.mean([row["drag_md"] for row in rows]) < 0.5
    assert np.mean([row["center_dist"] for row in rows]) < 1
    assert min(row["edit_fidelity"] for row in rows) == pytest.approx(1, abs=1e-5)
    assert max(row["image_fidelity"] for row in rows) < 0.95
    assert min(row["background_psnr"] for row in rows) > 60


def test_without_a_renderer_there_is_no_edit_fidelity(judge):
    drawn = CASES[0].model_copy(update={"scene": None, "shifts": ()})
    rows = score([drawn, CASES[1]], SOURCES[:2], judge)
    assert np.isnan(rows[0]["edit_fidelity"]) and rows[1]["edit_fidelity"] < 1
    with pytest.raises(ValueError, match="1 images for 2 drags: give one per case"):
        score(CASES[:2], SOURCES[:1], judge)


def thing(kind, box):
    return Found(kind, "red", "plain", 0.9, box, np.zeros((64, 64), bool))


def test_centre_distance():
    moved = Moved(kind="ball", color="red", box=(10, 10, 20, 20), edited_box=(30, 10, 40, 20))
    assert centre_distance(moved, [thing("ball", (27, 14, 37, 24))]) == 5
    assert centre_distance(moved, []) == 20 and centre_distance(moved, [thing("car", (30, 10, 40, 20))]) == 20
    copied = [thing("ball", (30, 10, 40, 20)), thing("ball", (10, 10, 20, 20))]
    assert centre_distance(moved, copied) == 20


def test_a_point_is_found_where_its_feature_is():
    features = torch.nn.functional.normalize(torch.randn(8, 64, 64, generator=torch.Generator().manual_seed(0)), dim=0)
    moved = features.roll((5, -9), (1, 2))
    assert find(features, moved, torch.tensor([[30.0, 20.0], [40.2, 7.9]])).tolist() == [[21, 25], [31, 13]]


@pytest.mark.parametrize("cells", [64, 32])
def test_the_mean_distance_is_in_pixels_of_the_source_whatever_the_features_grid(cells):
    case = CASES[0]
    handles, targets = case.drag.points()
    dx, dy = ((targets - handles)[0] * cells / 64).round().int().tolist()
    features = torch.nn.functional.normalize(
        torch.randn(8, cells, cells, generator=torch.Generator().manual_seed(0)), dim=0
    )
    assert mean_distance(case, features, features) == pytest.approx(lengths(case).mean().item(), abs=64 / cells)
    assert mean_distance(case, features, features.roll((dy, dx), (1, 2))) <= 64 / cells


def test_perceptual_distance_on_hand_made_features():
    a = torch.zeros(1, 2, 4, 4)
    a[:, 0] = 3
    b = torch.zeros(1, 2, 4, 4)
    b[:, 1, :2], b[:, 0, 2:] = 5, 1  # the upper half at right angles: |(1, 0) - (0, 1)|^2 = 2
    assert perceptual_distance([a, a], [b, a]).item() == pytest.approx(0.5)
    assert perceptual_distance([a], [-a]).item() == 4


def test_judge_features_are_unit_norm_and_tell_pixels_apart(judge):
    features = dense(judge.pyramid(SOURCES[:2]))
    assert features.shape[2:] == (64, 64)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2, 64, 64), atol=0.05, rtol=0)


def test_background_psnr_ignores_the_object():
    case = CASES[0]
    image = case.drag.image().clone()
    for x0, y0, x1, y1 in (case.moved[0].box, case.moved[0].edited_box):
        image[:, y0:y1, x0:x1] = 0
    assert background_psnr(case, image) == pytest.approx(100)
    assert background_psnr(case, case.drag.image() + 0.01) == pytest.approx(40, abs=0.01)


def test_a_drawn_case_is_about_an_object_that_its_prompt_names(judge, mini):
    case = drawn_drags.make_case("dev", 0, mini, judge)
    assert case == drawn_drags.make_case("dev", 0, mini, judge)
    (moved,), (found,) = case.moved, judge.recognise(case.drag.image()[None])
    assert f"{moved.color} {moved.kind}" in case.prompt and case.scene is None
    handles, targets = case.drag.points()
    ((dx, dy),) = (targets - handles).tolist()
    assert moved.edited_box == tuple(v + d for v, d in zip(moved.box, (dx, dy, dx, dy)))
    assert min(moved.edited_box) >= 0 and max(moved.edited_box) <= SIDE
    ((x, y),) = handles.long().tolist()
    mask = next(f.mask for f in found if (f.kind, f.color) == (moved.kind, moved.color))
    others = [f.mask for f in found if (f.kind, f.color) != (moved.kind, moved.color)]
    x0, y0, x1, y1 = map(int, moved.edited_box)
    assert mask[y, x] and not any(other[y0:y1, x0:x1].any() for other in others)
    row = score([case], case.drag.image()[None], judge)[0]
    assert row["center_dist"] == pytest.approx(np.hypot(dx, dy), abs=0.01) and np.isnan(row["edit_fidelity"])
