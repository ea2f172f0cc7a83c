"""Cases of `layout` and `ilgd`: what they are given, what is compared with what, iLGD's own examples."""

import json
import re
from functools import partial

import pytest
import torch
import yaml
from single_steps import layout

from helpers.benchmarks.miniature import load_captioned, load_cases
from helpers.experiments import ilgd as ablations
from helpers.experiments import layout as experiment
from helpers.experiments.dga import Experiment as DenseGeometry
from helpers.experiments.fixtures import FIXTURES
from helpers.experiments.ilgd import Ablation, Point, measure, points
from helpers.experiments.layout import chosen, guidance_of, watching
from helpers.guidance.composable import concepts
from helpers.miniature.vocabulary import PLACES
from helpers.params import load
from helpers.paths import ROOT
from helpers.pipeline import summary
from helpers.pipeline.samples import Samples
from helpers.pipeline.score import Scored
from helpers.sampling.attention_maps import AttentionMaps
from helpers.sampling.hooks import Window
from helpers.sampling.loop import sample
from helpers.training.text import WORDS

PARAMS = load(experiment.Experiment, "smoke")
ABLATIONS = load(ablations.Experiment, "smoke")
CASES = PARAMS.experiment.cases
SCENES = load_cases("test")[:3]
EARLY = {"start": 0.0, "stop": 0.22}
ONE = "a red car left of a blue fish on the grass"
SCENE = SCENES[1].model_copy(
    update={"prompt": ONE, "layout": layout(ONE, red_car=(0, 0, 0.5, 0.5), blue_fish=(0.5, 0.5, 1, 1))}
)


def made(name, scenes=SCENES, masks=False, **settings):
    """The guidance of a case, with other settings."""
    return guidance_of(PARAMS, PARAMS.case(name).stating(**settings), scenes, "segmenter", masks)


def told(methods):
    """All settings of a guidance list."""
    return [(method.name, method.settings()) for method in methods]


# --- from cases to guidance ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_given_the_layouts_of_the_scenes(name):
    *_, method = made(name)
    assert name == "none" or method.layouts == [scene.layout.boxes_only() for scene in SCENES]


def test_layouts_are_boxes_unless_masks_are_asked_for():
    (_, boxes), (_, masks) = made("ilgd"), made("ilgd", masks=True)
    assert all(region.mask is None for one in boxes.layouts for region in one.regions)
    assert masks.layouts == [scene.layout.masks_only() for scene in SCENES]


def test_dga_acts_as_the_full_case_of_its_own_experiment():
    own = load(DenseGeometry, "smoke").case("full")
    (stated,), (_, method) = own.methods, made("dga")
    told = method.settings()
    assert method.segmenter == "segmenter" and stated.settings == {key: told[key] for key in stated.settings}


def test_both_are_dga_with_its_defaults_and_ilgd_as_its_case():
    _, ilgd, dga = made("ilgd_dga")
    assert told([dga]) == told(made("dga")[1:])
    alone = made("ilgd", recurrence=ilgd.settings()["recurrence"])
    assert told([ilgd]) == told(alone[1:]) and ilgd.recurrence.times == 10


# --- prompts of regions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["dev", "test", "many"])
def test_every_case_of_the_benchmark_has_a_place(split):
    scenes = load_cases(split)
    texts = [concepts(scene.layout) for scene in scenes]
    assert all(said.endswith(PLACES[scene.background]) for scene, of in zip(scenes, texts, strict=True) for said in of)
    words = {word for of in texts for said in of for word in re.findall(r"\w+", said)}
    assert words <= set(WORDS)


@pytest.fixture(scope="module")
def wide(mini):
    return mini.at(64, 96)


@pytest.fixture(scope="module")
def plain(wide, segmenter):
    return sample(wide, ONE, made("none"), steps=STEPS).images


STEPS = 6  # the second lies in every window
QUICK = {"dga": {"recurrence": {"times": 1}}, "ilgd_dga": {"recurrence": {"times": 1}, "beside": None}}


@pytest.mark.parametrize("name", CASES)
def test_every_case_draws_wide_pictures_of_its_own(wide, plain, segmenter, name):
    case = PARAMS.case(name).stating(**QUICK.get(name, {}))
    run = sample(wide, ONE, guidance_of(PARAMS, case, [SCENE], segmenter), steps=STEPS)
    assert run.images.shape == (1, 3, 64, 96) and run.images.std() > 0.01 and not run.warnings
    assert torch.equal(run.images, plain) == (name == "none")


def test_watching_adds_attention_over_boxes_and_changes_no_picture(tiny, segmenter):
    methods = partial(guidance_of, PARAMS, PARAMS.case("ilgd"), segmenter=segmenter)
    *others, watch = watching(methods)(SCENES)
    assert told(others) == told(methods(SCENES)) and isinstance(watch, AttentionMaps)
    assert watch.layouts == [scene.layout.boxes_only() for scene in SCENES]
    seen, alone = (sample(tiny, ONE, some([SCENE]), steps=2) for some in (watching(methods), methods))
    assert torch.equal(seen.images, alone.images)


# --- what the search found -------------------------------------------------------------------------------------------


def test_a_tuned_case_is_what_its_search_found(monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "RESULTS", tmp_path)
    folder = tmp_path / "layout" / "search" / "ilgd_loss"
    folder.mkdir(parents=True)
    (folder / "best.json").write_text(json.dumps({"injection": 1.5, "injection_window": EARLY}))
    tuned, base = chosen(PARAMS, "ilgd_loss_tuned"), chosen(PARAMS, "ilgd_loss")
    assert base == PARAMS.case("ilgd_loss") and base.methods[0].settings == {"injection": 0.0}, "the case itself stays"
    assert tuned == base.stating(injection=1.5, injection_window=EARLY) and tuned.paper
    assert guidance_of(PARAMS, tuned, SCENES, None)[1].injection_window == Window(0, 0.22)


def test_a_case_that_was_not_searched_says_how(monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "RESULTS", tmp_path)
    path = tmp_path / "layout" / "search" / "boxdiff" / "best.json"
    with pytest.raises(
        FileNotFoundError, match=re.escape(f"{path} is not there: run `dvc repro search_layout@boxdiff`")
    ):
        chosen(PARAMS, "boxdiff_tuned")
    with pytest.raises(ValueError, match="unknown case 'boxdif': use one of none, dga"):
        chosen(PARAMS, "boxdif")


# --- parameters ------------------------------------------------------------------------------------------------------


def written(tmp_path, kind, **changes):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values[kind.block] |= changes
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return load(kind, path=tmp_path / "params.yaml")


MINE = {"none": {"images": "headline"}, "mine": {"images": "headline", "method": "ilgd"}}
TRIED = [{"weight": 1.0}, {"window": {"start": 0, "stop": 0.5}}]


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"mine": TRIED, "none": [{}]}, "the search tries 1 settings of 'none': every method gets as many"),
        ({"mine": TRIED, "yours": TRIED}, "unknown case 'yours': use one of none, mine"),
        ({"mine": []}, "layout.search.mine: Tuple should have at least 1 item"),
        ({"none": [{"weight": 3.0}]}, "a case without a method is unguided: leave out weight"),
    ],
)
def test_a_search_is_fair_and_of_settings_that_there_are(tmp_path, search, said):
    good = written(tmp_path, experiment.Experiment, cases=MINE, search={"mine": TRIED})
    assert good.experiment.search == {"mine": tuple(TRIED)}
    with pytest.raises(ValueError, match=re.escape(said)):
        written(tmp_path, experiment.Experiment, cases=MINE, search=search)


def test_every_method_is_drawn_on_the_same_layouts(tmp_path):
    with pytest.raises(ValueError, match="layout.cases.mine.images: Input should be 'headline'"):
        written(tmp_path, experiment.Experiment, cases=MINE | {"mine": {"images": "subset"}}, search={})


def test_an_ablation_without_a_grid_is_refused(tmp_path):
    own = {"losses": {"grid": {"loss": ["peak"]}}, "masks": {"grid": {"layout": ["masks"]}}}
    with pytest.raises(ValueError, match="unknown case 'loses': use one of losses, masks"):
        written(tmp_path, ablations.Experiment, cases=own).case("loses")
    for grid, said in (({}, "losses.grid: Dictionary should have at least 1 item"), ({"loss": []}, "losses.grid.loss")):
        with pytest.raises(ValueError, match=f"ilgd.cases.{said}"):
            written(tmp_path, ablations.Experiment, cases={"losses": {"grid": grid}})


# --- ablations of iLGD -----------------------------------------------------------------------------------------------


WINDOWS = ({"start": 0, "stop": 0.5}, {"start": 0.02, "stop": 1})


def test_points_are_every_combination_of_a_grid():
    found = points(
        Ablation(case="ilgd", settings={"loss": "peak"}, grid={"window": WINDOWS, "weight": (1.0, 10.0)}), CASES
    )
    assert [p.label for p in found] == ["0 0.5, 1", "0 0.5, 10", "0.02 1, 1", "0.02 1, 10"]
    assert found[2].case == CASES["ilgd"].stating(loss="peak", window=WINDOWS[1], weight=1.0)
    assert {(p.split, p.masks, p.size) for p in found} == {("test", False, (64, 64))}


def test_a_strength_is_labelled_by_its_rule():
    grid = {"strength": ({"rule": "unit", "scale": 0.2}, {"rule": "raw"})}
    assert [p.label for p in points(Ablation(case="ilgd", grid=grid), CASES)] == ["unit 0.2", "raw"]


def test_an_unknown_case_of_a_grid_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown case 'igld': use one of none, dga"):
        points(Ablation(grid={"case": ("igld",)}), CASES)


def sizes(*pairs):
    return tuple({"height": height, "width": width} for height, width in pairs)


def test_case_split_layout_and_size_are_no_settings():
    grid = {"size": sizes((48, 96)), "case": ("none", "ilgd"), "split": ("many",), "layout": ("boxes", "masks")}
    found = points(Ablation(case="ilgd", grid=grid), CASES)
    assert found[0] == Point("48 96, none, many, boxes", CASES["none"], "many", False, (48, 96))
    found = points(
        Ablation(case="ilgd", grid=grid | {"case": ("ilgd",), "weight": (2.0,)}, settings={"injection": 1.0}), CASES
    )
    turned = CASES["ilgd"].stating(injection=1.0, weight=2.0)
    assert found[1] == Point("48 96, ilgd, many, masks, 2", turned, "many", True, (48, 96))
    assert all(isinstance(side, int) for side in found[0].size)


@pytest.mark.parametrize("name", ABLATIONS.experiment.cases)
def test_every_point_of_params_yaml_has_scenes_and_a_size(mini, name):
    for point in points(ABLATIONS.case(name), CASES):
        assert load_captioned(point.split, "short") and mini.at(*point.size).image_size == point.size


IOU = {"none": 0.1, "ilgd": 0.4, "ilgd_dga": 0.8}  # of the fakes, on "test" at 64 x 64


@pytest.fixture
def measured(tiny, monkeypatch):
    """Points -> what `measure` makes of them, and what was drawn: (first case, size, methods). Box IoU is IOU, twice as
    much on the split many, ten times as much at another size."""
    monkeypatch.setattr(summary.stats, "bootstrap", partial(summary.stats.bootstrap, draws=5))
    drawn = []

    def draw(params, backbone, scenes, methods):
        kinds = [m.name for m in methods(scenes) if m.name != "cfg"]
        drawn.append((scenes[0].id, backbone.image_size, "_".join(sorted(kinds, reverse=True)) or "none"))
        iou = IOU.get(drawn[-1][2], IOU["ilgd_dga"]) * (2 if "many" in scenes[0].id else 1)
        iou *= 10 if backbone.image_size != (64, 64) else 1
        assert params is ABLATIONS and len(scenes) == params.profile.curve
        images = torch.rand(len(scenes), 3, *backbone.image_size, generator=torch.Generator().manual_seed(len(drawn)))
        return Samples(images, [{"id": scene.id, "seed": scene.seed, "box_iou": iou} for scene in scenes], [])

    def judged(drawn, scenes, judge):
        assert judge == "judge" and drawn.images.shape[-2:] == (64, 64)
        features = torch.randn(len(scenes), 64, generator=torch.Generator().manual_seed(0))
        return Scored(drawn.rows, [[]] * len(scenes), features)

    monkeypatch.setattr(ablations, "draw_benchmark", draw)
    monkeypatch.setattr(ablations, "judge_images", judged)
    reference = torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    return lambda chosen: (*measure(ABLATIONS, tiny, "segmenter", "judge", reference, chosen), drawn)


def test_a_point_is_compared_with_the_prompt_alone_of_its_split_and_size(measured):
    grid = {"split": ("test", "many"), "size": sizes((64, 64), (64, 96)), "weight": (1.0, 10.0)}
    entries, _, _ = measured(points(Ablation(case="ilgd", grid=grid), CASES))
    assert len(entries) == 8
    for label, found in entries.items():
        times = (2 if "many" in label else 1) * (10 if "64 96" in label else 1)
        assert found["box_iou"]["mean"] == pytest.approx(0.4 * times)
        assert found["box_iou"]["diff"]["mean"] == pytest.approx(0.3 * times)
        assert {"mean", "lo", "hi"} == set(found["kernel_distance"]["diff"]) and found["box_ap50"]["n"] == 2


def test_the_prompt_alone_is_drawn_once_per_split_and_size(measured):
    grid = {"split": ("test", "many"), "size": sizes((64, 64), (64, 96)), "weight": (1.0, 10.0)}
    _, _, drawn = measured(points(Ablation(case="ilgd", grid=grid), CASES))
    alone = [(case, size) for case, size, kind in drawn if kind == "none"]
    assert len(alone) == len(set(alone)) == 4 and len(drawn) == 8 + 4
    assert {case for case, _ in alone} == {load_captioned(split, "short")[0].id for split in ("test", "many")}


def test_pictures_of_any_size_come_back_as_the_judge_sees_them(measured):
    _, pictures, _ = measured(points(Ablation(case="ilgd", grid={"size": sizes((48, 48), (64, 96), (64, 64))}), CASES))
    assert list(pictures) == ["48 48", "64 96", "64 64"]
    assert {tuple(images.shape) for images in pictures.values()} == {(2, 3, 64, 64)}
    assert all(0 <= images.min() and images.max() <= 1 for images in pictures.values())


@pytest.mark.parametrize("grid", [{"case": ("none", "ilgd")}, {"split": ("many",), "case": ("none", "ilgd_dga")}])
def test_the_prompt_alone_differs_from_itself_by_nothing(measured, grid):
    entries, _, _ = measured(points(Ablation(case="ilgd", grid=grid), CASES))
    none, other = entries.values()
    assert none["box_iou"]["diff"] == {"mean": 0, "lo": 0, "hi": 0} and other["box_iou"]["diff"]["mean"] > 0.1


# --- iLGD's own examples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["mini-sd", "sd15"])
def test_six_examples_have_a_box_inside_the_picture_for_every_phrase(backbone):
    layouts = [fixture.layout(backbone) for fixture in FIXTURES]
    assert len(layouts) == 6
    for fixture, asked in zip(FIXTURES, layouts, strict=True):
        prompt, phrases = fixture.miniature if backbone == "mini-sd" else fixture.real
        assert asked.prompt == prompt and [region.phrase for region in asked.regions] == list(phrases)
        assert all(phrase in prompt for phrase in phrases)
        assert all(0 <= low < high <= 1 for r in asked.regions for low, high in (r.box[::2], r.box[1::2]))
    assert layouts[0].regions[1].box == pytest.approx((37 / 64, 4 / 64, 45 / 64, 59 / 64))


def test_both_worlds_have_as_many_phrases_in_the_same_boxes():
    for fixture in FIXTURES:
        here, there = fixture.layout("mini-sd"), fixture.layout("stable-diffusion-v1-5/stable-diffusion-v1-5")
        assert [region.box for region in here.regions] == [region.box for region in there.regions]


def test_the_miniature_examples_only_use_words_that_its_world_knows():
    words = {word for fixture in FIXTURES for word in re.findall(r"\w+", fixture.miniature[0])}
    assert words <= set(WORDS), words - set(WORDS)
