"""What benchmarks offer: the stored cases are those that their seeds give, and each is loaded by its name."""

import pytest

from helpers.benchmarks import files
from helpers.benchmarks.base import load_benchmark
from helpers.benchmarks.miniature import load_captioned, load_cases, load_scenes, scene_of
from helpers.conditions import decode_mask
from helpers.judges.loading import JUDGES
from helpers.miniature.cases import SPLITS, make_case
from helpers.miniature.scene import is_held_out, mask_box
from helpers.miniature.vocabulary import BACKGROUNDS, RELATIONS, SIDE
from helpers.miniature.world import render


@pytest.mark.parametrize(
    ("name", "parts", "variants"),
    [
        ("miniature", {"layout", "things", "relations", "background"}, [{}, {"caption": "long"}]),
        ("miniature_drags", {"drag", "moved"}, [{}, {"source": "drawn"}]),
        ("miniature_combined", {"scene", "drag"}, [{}]),
        ("miniature_free", {"layout", "things", "relations", "background"}, [{}]),
    ],
)
def test_a_benchmark_is_known_by_its_name(name, parts, variants):
    benchmark = load_benchmark(name)
    assert benchmark.JUDGE in JUDGES
    for variant in variants:
        ids = []
        for split in benchmark.SPLITS:
            items = benchmark.items(split, **variant)
            assert all(item.prompt and 0 <= item.seed < 2**32 for item in items)
            assert all(hasattr(items[0], part) for part in parts)
            ids += [item.id for item in items]
        assert len(set(ids)) == len(ids) > 60


def test_an_unknown_benchmark_is_refused_with_the_known_ones():
    known = "miniature, miniature_combined, miniature_drags, miniature_free, miniature_many"
    with pytest.raises(ValueError, match=f"'coco'; choose one of {known}$"):
        load_benchmark("coco")
    with pytest.raises(ValueError, match="unknown benchmark 'base'"):
        load_benchmark("base")


def test_benchmark_cases_follow_from_their_seed():
    for split, counts in SPLITS.items():
        case = make_case(split, 7, counts[7])
        assert case == make_case(split, 7, counts[7])
        assert case == load_captioned(split, "short")[7]
        assert case.model_copy(update={"relations": ()}) == load_cases(split)[7]
        assert len(case.things) == counts[7]
        for region, thing in zip(case.layout.regions, case.things):
            assert thing.kind in region.phrase and thing.color in region.phrase
            assert mask_box(decode_mask(region.mask)) == tuple(v * SIDE for v in region.box)


def test_stored_scenes_are_what_the_renderer_draws():
    arrays, captions = load_scenes()
    assert len(captions) == len(arrays["images"]) == 1000
    for i in range(0, 1000, 111):
        drawn = render(scene_of(arrays, i))
        assert (drawn.image == arrays["images"][i]).all()
        assert (drawn.visible == arrays["visible"][i, : len(drawn.visible)]).all()
    assert not any(is_held_out(scene_of(arrays, i)) for i in range(800))
    assert set(arrays["background"]) == set(range(len(BACKGROUNDS)))


def test_missing_data_says_dvc_pull(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "DATA", tmp_path / "data")
    for name, load in (("layouts.json", load_cases), ("scenes.npz", load_scenes)):
        with pytest.raises(FileNotFoundError, match=f"data/{name} is missing; fetch it with `dvc pull`"):
            load.__wrapped__(*["dev"][: load is load_cases])
    monkeypatch.undo()
    with pytest.raises(ValueError, match="unknown split 'train'; choose one of dev, test, many"):
        load_cases("train")


@pytest.mark.parametrize("caption", ["short", "long", "shuffled"])
def test_captions_describe_the_cases_they_belong_to(caption):
    for case, plain in zip(load_captioned("test", caption), load_cases("test"), strict=True):
        assert (case.id, case.seed, case.background) == (plain.id, plain.seed, plain.background)
        assert case.layout.prompt == case.prompt
        boxes = {(r.phrase.split()[-1], r.box): t for r, t in zip(case.layout.regions, case.things, strict=True)}
        assert {box for _, box in boxes} == {r.box for r in plain.layout.regions}
        assert all(kind == thing.kind for (kind, _), thing in boxes.items())
        if caption == "long" and len(case.things) > 1:
            assert len(case.relations) == len(case.things) - 1
            for i, words, j in case.relations:
                assert words in RELATIONS and i != j


def test_the_short_caption_is_the_case_itself():
    one, plain = load_captioned("dev", "short")[1], load_cases("dev")[1]
    assert one.layout == plain.layout and one.things == plain.things and one.relations
    with pytest.raises(ValueError, match="unknown caption 'tall'; choose one of short, long, shuffled"):
        load_captioned("dev", "tall")
