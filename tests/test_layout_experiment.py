"""Cases of `layout` and `ilgd`: which guidance they name, what is compared with what, sizes, iLGD's own examples."""

import json
import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml

from helpers import summary
from helpers.backbones import load_backbone
from helpers.conditions import Layout, Region
from helpers.drawn import Drawn
from helpers.experiments import ilgd as ablations
from helpers.experiments import layout as experiment
from helpers.experiments.fixtures import FIXTURES
from helpers.experiments.ilgd import Point, measure, points
from helpers.experiments.layout import METHODS, chosen, concepts_of, guidance_of, watching
from helpers.guidance import CFG, Recurrence, Window
from helpers.guidance.attend_excite import AttendExcite
from helpers.guidance.boxdiff import BoxDiff
from helpers.guidance.composable import Composable
from helpers.guidance.densediffusion import DenseDiffusion
from helpers.guidance.dga import DGA
from helpers.guidance.directed import Directed
from helpers.guidance.ilgd import ILGD
from helpers.guidance.layout_guidance import LayoutGuidance
from helpers.guidance.multidiffusion import MultiDiffusion
from helpers.guidance.strength import Exploding, Raw, Unit
from helpers.guidance.watch import Watch
from helpers.miniature.benchmark import load_captioned, load_cases
from helpers.miniature.captions import PLACES
from helpers.miniature.text import WORDS
from helpers.params import Ablation, load
from helpers.paths import ROOT
from helpers.sampling import sample
from helpers.score import Scored

PARAMS = load("smoke")
SCENES = load_cases("test")[:3]
MADE = {  # method -> what it is made of
    "none": [CFG],
    "dga": [CFG, DGA],
    "ilgd": [CFG, ILGD],
    "attend_excite": [CFG, AttendExcite],
    "boxdiff": [CFG, BoxDiff],
    "layout_guidance": [CFG, LayoutGuidance],
    "densediffusion": [CFG, DenseDiffusion],
    "multidiffusion": [MultiDiffusion],
    "composable": [Composable],
    "directed": [CFG, Directed],
    "ilgd_dga": [CFG, DGA, ILGD],
}


def asked(prompt, **boxes):
    """A scene; keywords are phrases with _ for a blank."""
    regions = [Region(phrase=phrase.replace("_", " "), box=box) for phrase, box in boxes.items()]
    return SimpleNamespace(prompt=prompt, layout=Layout(prompt=prompt, regions=regions))


CAR = asked("a red car left of a blue fish on grass", red_car=(0, 0, 0.5, 0.5), blue_fish=(0.5, 0.5, 1, 1))
TREE = asked("an orange tree in the snow", orange_tree=(0.25, 0.25, 0.75, 0.75))
NOWHERE = asked("a red car and a ball", red_car=(0, 0, 0.5, 0.5), ball=(0.5, 0.5, 1, 1))


def made(method, options=None, scenes=SCENES, params=PARAMS, **settings):
    return guidance_of(params, method, options or {}, scenes, "segmenter", **settings)


def became(methods, name):
    """What an option has become."""
    dga = next((method for method in methods if isinstance(method, DGA)), None)
    if dga and name in ("scale", "times"):
        return {"scale": dga.strength.scale, "times": dga.recurrence.times}[name]
    return getattr(methods[-1], name)


def meant(value):
    """What an option of params.yaml stands for."""
    if isinstance(value, str) and value.startswith("unit "):
        return Unit(float(value.removeprefix("unit ")))
    return Window(*value) if isinstance(value, tuple) else value


def told(methods):
    """All settings of a guidance list: "<method>.<setting>" -> value."""
    return {f"{m.name}.{key}": value for m in methods for key, value in m.settings().items()}


# --- from names to guidance ------------------------------------------------------------------------------------------


def test_every_method_is_known_here():
    assert set(MADE) == set(METHODS)
    assert {case.method for case in PARAMS.layout.cases.values()} == set(METHODS)


@pytest.mark.parametrize("name", PARAMS.layout.cases)
def test_a_case_is_its_method_with_its_options(name):
    method, options = chosen(PARAMS, name)
    methods = made(method, options)
    assert [type(m) for m in methods] == MADE[method]
    assert all(m.layouts == [scene.layout.boxes_only() for scene in SCENES] for m in methods if hasattr(m, "layouts"))
    assert all(m.cfg_scale == PARAMS.sampling.cfg_scale for m in methods if hasattr(m, "cfg_scale"))
    assert {key: became(methods, key) for key in options} == {key: meant(value) for key, value in options.items()}


@pytest.mark.parametrize("name", PARAMS.layout.search)
def test_every_searched_option_is_set_and_nothing_else_changes(name):
    method, before = PARAMS.layout.case(name).method, told(made(PARAMS.layout.case(name).method))
    for options in PARAMS.layout.search[name]:
        methods = made(method, options)
        assert [type(m) for m in methods] == MADE[method]
        for key, value in options.items():
            assert became(methods, key) == meant(value)
        turned = {key.split(".")[1] for key, value in told(methods).items() if value != before[key]}
        assert turned <= {*options, *({"strength", "recurrence"} if MADE[method][1:2] == [DGA] else ())}


@pytest.mark.parametrize("name", ["ilgd", "attend_excite", "boxdiff", "layout_guidance", "densediffusion", "directed"])
def test_without_options_a_method_is_its_papers(name):
    layouts = [scene.layout.boxes_only() for scene in SCENES]
    assert made(name)[1].settings() == MADE[name][1](layouts).settings()


def test_dga_acts_as_the_full_case_of_its_own_experiment():
    _, method = made("dga")
    case, block = PARAMS.dga.case("full"), PARAMS.dga
    assert method.segmenter == "segmenter" and method.weight == case.weight and method.window == Window(0, case.window)
    assert method.weights == {term: getattr(case, f"{term}_weight") for term in method.weights}
    assert method.strength.scale == block.strength.scale and method.recurrence.times == block.recurrence.times


def test_scale_and_times_of_dga_are_its_strength_and_its_repeats():
    again = PARAMS.dga.recurrence.model_copy(update={"noise": False})
    params = PARAMS.model_copy(update={"dga": PARAMS.dga.model_copy(update={"recurrence": again})})
    (_, plain), (_, turned) = (made("dga", options, params=params) for options in ({}, {"scale": 3.0, "times": 2}))
    assert turned.strength == replace(plain.strength, scale=3.0)
    assert turned.recurrence == Recurrence(2, plain.recurrence.window, plain.recurrence.noise)
    assert isinstance(turned.recurrence.times, int)
    changed = {key for key, value in turned.settings().items() if value != plain.settings()[key]}
    assert changed == {"strength", "recurrence"}


def test_both_are_dga_with_its_options_and_ilgd_with_its_own():
    _, dga, ilgd = made("ilgd_dga", {"scale": 1.0, "injection": 1.5, "injection_window": (0, 0.22)})
    assert dga.settings() == made("dga", {"scale": 1.0})[1].settings()
    assert ilgd.settings() == made("ilgd", {"injection": 1.5, "injection_window": (0, 0.22)})[1].settings()


def test_windows_are_windows_and_strengths_are_rules():
    def ilgd(**options):
        return made("ilgd", options)[1]

    read = ilgd(window=[0.1, 0.4], injection_window=(0.0, 0.22), strength="unit 0.2")
    assert (read.window, read.injection_window, read.strength) == (Window(0.1, 0.4), Window(0, 0.22), Unit(0.2))
    assert ilgd(strength="raw").strength == Raw(1.0) and type(ilgd(strength="raw").strength) is Raw
    assert type(ilgd().strength) is Exploding
    with pytest.raises(ValueError, match="must satisfy 0 <= start <= stop <= 1"):
        ilgd(window=(0.5, 0.2))


def test_an_unknown_method_lists_the_known_ones():
    with pytest.raises(ValueError, match=f"unknown method 'igld': use one of {', '.join(METHODS)}"):
        made("igld")


@pytest.mark.parametrize(
    ("method", "option", "known"),
    [
        ("ilgd", "scale", "injection, weight, injection_window, window, strength, loss"),
        ("dga", "injection", "scale, times"),
        ("ilgd_dga", "bootstrap", "scale, times, injection, weight"),
        ("boxdiff", "weight", "scale, window, refined, most"),
        ("composable", "prompts", "scale, window"),
        ("multidiffusion", "prompts", "cfg_scale, bootstrap, window"),
    ],
)
def test_an_option_of_another_method_lists_its_own(method, option, known):
    with pytest.raises(ValueError, match=f"'{method}' has no option '{option}': use one of {known}"):
        made(method, {option: 1.0})


@pytest.mark.parametrize(("said", "rule"), [("unti 0.2", "unti"), ("", "")])
def test_an_unknown_strength_rule_lists_the_known_ones(said, rule):
    with pytest.raises(
        ValueError, match=f"unknown strength rule '{rule}' in '{said}': use one of raw, exploding, unit"
    ):
        made("ilgd", {"strength": said})
    assert made("ilgd", {"strength": "unit 0.2"})[1].strength == Unit(0.2)
    assert made("ilgd", {"strength": "raw"})[1].strength == Raw()


def test_layouts_are_boxes_unless_masks_are_asked_for():
    (_, boxes), (_, masks) = made("ilgd"), made("ilgd", masks=True)
    assert all(region.mask is None for layout in boxes.layouts for region in layout.regions)
    assert masks.layouts == [scene.layout.masks_only() for scene in SCENES]


# --- prompts of regions ----------------------------------------------------------------------------------------------


def test_a_concept_is_a_region_at_the_place_of_the_scene():
    texts = concepts_of([CAR.layout, TREE.layout])
    assert texts == [["a red car on grass", "a blue fish on grass"], ["an orange tree in the snow"]]
    (composable,) = made("composable", scenes=[CAR, TREE])
    assert composable.prompts == texts and composable.scale == PARAMS.sampling.cfg_scale


def test_a_scene_without_a_place_says_nothing_of_it():
    assert concepts_of([NOWHERE.layout]) == [["a red car", "a ball"]]


def test_every_region_has_a_prompt_and_the_rest_is_the_whole_one():
    (regions,) = made("multidiffusion", scenes=[CAR, TREE])
    assert regions.prompts == [
        ["a red car on grass", "a blue fish on grass", CAR.prompt],
        ["an orange tree in the snow", TREE.prompt],
    ]


@pytest.mark.parametrize("split", ["dev", "test", "many"])
def test_every_case_of_the_benchmark_has_a_place(split):
    scenes = load_cases(split)
    texts = concepts_of([scene.layout for scene in scenes])
    assert all(said.endswith(PLACES[scene.background]) for scene, of in zip(scenes, texts, strict=True) for said in of)
    words = {word for of in texts for said in of for word in re.findall(r"\w+", said)}
    assert words <= set(WORDS)


@pytest.fixture(scope="module")
def mini():
    return load_backbone("mini-sd", "cpu").at(64, 96)


@pytest.fixture(scope="module")
def plain(mini):
    return sample(mini, CAR.prompt, made("none"), steps=4).images


@pytest.mark.parametrize("name", METHODS)
def test_every_method_draws_wide_pictures_of_its_own(mini, plain, segmenter, name):
    options = {"times": 1.0} if "dga" in name else {}
    run = sample(mini, CAR.prompt, guidance_of(PARAMS, name, options, [CAR], segmenter), steps=4)
    assert run.images.shape == (1, 3, 64, 96) and run.images.std() > 0.01 and not run.warnings
    assert torch.equal(run.images, plain) == (name == "none")


def test_watching_adds_attention_over_boxes_and_changes_no_picture(tiny, segmenter):
    methods = partial(guidance_of, PARAMS, "ilgd", {}, segmenter=segmenter)
    *others, watch = watching(methods)(SCENES)
    assert told(others) == told(methods(SCENES)) and isinstance(watch, Watch)
    assert watch.layouts == [scene.layout.boxes_only() for scene in SCENES]
    seen, alone = (sample(tiny, CAR.prompt, some([CAR]), steps=2) for some in (watching(methods), methods))
    assert torch.equal(seen.images, alone.images)


# --- what the search found -------------------------------------------------------------------------------------------


def test_a_tuned_case_is_what_its_search_found(monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "RESULTS", tmp_path)
    found = {"method": "ilgd", "options": {"injection": 1.5, "injection_window": [0.0, 0.22]}}
    folder = tmp_path / "layout" / "search" / "ilgd_loss"
    folder.mkdir(parents=True)
    (folder / "best.json").write_text(json.dumps(found))
    assert chosen(PARAMS, "ilgd_loss_tuned") == ("ilgd", found["options"])
    assert made(*chosen(PARAMS, "ilgd_loss_tuned"))[1].injection_window == Window(0, 0.22)
    assert chosen(PARAMS, "ilgd_loss") == ("ilgd", {"injection": 0.0}), "the case itself stays as it is"


def test_a_case_that_was_not_searched_says_how(monkeypatch, tmp_path):
    monkeypatch.setattr(experiment, "RESULTS", tmp_path)
    path = tmp_path / "layout" / "search" / "boxdiff" / "best.json"
    with pytest.raises(FileNotFoundError, match=re.escape(f"{path} is not there: run `dvc repro search_layout`")):
        chosen(PARAMS, "boxdiff_tuned")
    with pytest.raises(ValueError, match="unknown case 'boxdif': use one of none, dga"):
        chosen(PARAMS, "boxdif")


# --- parameters ------------------------------------------------------------------------------------------------------


def written(tmp_path, block, **changes):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values[block] |= changes
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return load(path=tmp_path / "params.yaml")


CASES = {"none": {"images": "headline", "method": "none"}, "mine": {"images": "headline", "method": "ilgd"}}
TRIED = [{"weight": 1.0}, {"window": [0, 0.5]}]


def test_a_search_has_as_many_options_for_every_case(tmp_path):
    good = {"run": ["none", "mine"], "tuned": ["mine"], "cases": CASES, "search": {"mine": TRIED}}
    assert written(tmp_path, "layout", **good).layout.search["mine"] == ({"weight": 1.0}, {"window": (0.0, 0.5)})
    with pytest.raises(ValueError, match="the search tries 1 options of 'none': every method gets as many"):
        written(tmp_path, "layout", **good | {"search": {"mine": TRIED, "none": [{}]}})
    with pytest.raises(ValueError, match="'none' shall be tuned, but nothing is searched for it: state its options"):
        written(tmp_path, "layout", **good | {"tuned": ["mine", "none"]})
    with pytest.raises(ValueError, match="unknown case 'yours': use one of none, mine"):
        written(tmp_path, "layout", **good | {"search": {"mine": TRIED, "yours": TRIED}})


def test_an_unknown_ablation_lists_the_known_ones(tmp_path):
    own = {"losses": {"grid": {"loss": ["peak"]}}, "masks": {"grid": {"layout": ["masks"]}}}
    with pytest.raises(ValueError, match="unknown ablation 'loses': use one of losses, masks"):
        written(tmp_path, "ilgd", run=["masks", "loses"], ablations=own)
    with pytest.raises(ValueError, match="ilgd.ablations.losses.grid: Dictionary should have at least 1 item"):
        written(tmp_path, "ilgd", run=["losses"], ablations={"losses": {"grid": {}}})


# --- ablations of iLGD -----------------------------------------------------------------------------------------------


def test_points_are_every_combination_of_a_grid():
    found = points(Ablation(options={"loss": "peak"}, grid={"window": ((0, 0.5), (0.02, 1)), "weight": (1.0, 10.0)}))
    assert [p.label for p in found] == ["0 0.5, 1.0", "0 0.5, 10.0", "0.02 1, 1.0", "0.02 1, 10.0"]
    assert found[2].options == {"loss": "peak", "window": (0.02, 1), "weight": 1.0}
    assert {(p.method, p.split, p.masks, p.size) for p in found} == {("ilgd", "test", False, (64, 64))}


def test_method_split_layout_and_size_are_no_options():
    grid = {"size": ((48.0, 96.0),), "method": ("none", "ilgd"), "split": ("many",), "layout": ("boxes", "masks")}
    found = points(Ablation(grid=grid | {"weight": (2.0,)}, options={"injection": 1.0}))
    assert found[0] == Point("48 96, none, many, boxes, 2.0", "none", {}, "many", False, (48, 96))
    assert found[3] == Point(
        "48 96, ilgd, many, masks, 2.0", "ilgd", {"injection": 1.0, "weight": 2.0}, "many", True, (48, 96)
    )
    assert all(isinstance(side, int) for side in found[0].size)


@pytest.mark.parametrize("name", PARAMS.ilgd.ablations)
def test_every_point_of_params_yaml_can_be_drawn(mini, name):
    found = points(PARAMS.ilgd.ablation(name))
    assert len({p.label for p in found}) == len(found) > 1
    for point in found:
        assert [type(m) for m in made(point.method, point.options, masks=point.masks)] == MADE[point.method]
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
        assert params is PARAMS and len(scenes) == PARAMS.profile.curve
        images = torch.rand(len(scenes), 3, *backbone.image_size, generator=torch.Generator().manual_seed(len(drawn)))
        return Drawn(images, [{"id": scene.id, "seed": scene.seed, "box_iou": iou} for scene in scenes], [])

    def judged(drawn, scenes, judge):
        assert judge == "judge" and drawn.images.shape[-2:] == (64, 64)
        features = torch.randn(len(scenes), 64, generator=torch.Generator().manual_seed(0))
        return Scored(drawn.rows, [[]] * len(scenes), features)

    monkeypatch.setattr(ablations, "draw_benchmark", draw)
    monkeypatch.setattr(ablations, "judge_images", judged)
    reference = torch.randn(20, 64, generator=torch.Generator().manual_seed(1))
    return lambda chosen: (*measure(PARAMS, tiny, "segmenter", "judge", reference, chosen), drawn)


def test_a_point_is_compared_with_the_prompt_alone_of_its_split_and_size(measured):
    grid = {"split": ("test", "many"), "size": ((64, 64), (64, 96)), "weight": (1.0, 10.0)}
    entries, _, _ = measured(points(Ablation(grid=grid)))
    assert len(entries) == 8
    for label, found in entries.items():
        times = (2 if "many" in label else 1) * (10 if "64 96" in label else 1)
        assert found["box_iou"]["mean"] == pytest.approx(0.4 * times)
        assert found["box_iou"]["diff"]["mean"] == pytest.approx(0.3 * times)
        assert {"mean", "lo", "hi"} == set(found["kernel_distance"]["diff"]) and found["box_ap50"]["n"] == 2


def test_the_prompt_alone_is_drawn_once_per_split_and_size(measured):
    grid = {"split": ("test", "many"), "size": ((64, 64), (64, 96)), "weight": (1.0, 10.0)}
    _, _, drawn = measured(points(Ablation(grid=grid)))
    alone = [(case, size) for case, size, kind in drawn if kind == "none"]
    assert len(alone) == len(set(alone)) == 4 and len(drawn) == 8 + 4
    assert {case for case, _ in alone} == {load_captioned(split, "short")[0].id for split in ("test", "many")}


def test_pictures_of_any_size_come_back_as_the_judge_sees_them(measured):
    _, pictures, _ = measured(points(Ablation(grid={"size": ((48, 48), (64, 96), (64, 64))})))
    assert list(pictures) == ["48 48", "64 96", "64 64"]
    assert {tuple(images.shape) for images in pictures.values()} == {(2, 3, 64, 64)}
    assert all(0 <= images.min() and images.max() <= 1 for images in pictures.values())


@pytest.mark.parametrize("grid", [{"method": ("none", "ilgd")}, {"split": ("many",), "method": ("none", "ilgd_dga")}])
def test_the_prompt_alone_differs_from_itself_by_nothing(measured, grid):
    entries, _, _ = measured(points(Ablation(grid=grid)))
    none, other = entries.values()
    assert none["box_iou"]["diff"] == {"mean": 0, "lo": 0, "hi": 0} and other["box_iou"]["diff"]["mean"] > 0.1


# --- iLGD's own examples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["mini-sd", "sd15"])
def test_six_examples_have_a_box_inside_the_picture_for_every_phrase(backbone):
    layouts = [fixture.layout(backbone) for fixture in FIXTURES]
    assert len(layouts) == 6
    for fixture, layout in zip(FIXTURES, layouts, strict=True):
        prompt, phrases = fixture.miniature if backbone == "mini-sd" else fixture.real
        assert layout.prompt == prompt and [region.phrase for region in layout.regions] == list(phrases)
        assert all(phrase in prompt for phrase in phrases)
        assert all(0 <= low < high <= 1 for r in layout.regions for low, high in (r.box[::2], r.box[1::2]))
    assert layouts[0].regions[1].box == pytest.approx((37 / 64, 4 / 64, 45 / 64, 59 / 64))


def test_both_worlds_have_as_many_phrases_in_the_same_boxes():
    for fixture in FIXTURES:
        here, there = fixture.layout("mini-sd"), fixture.layout("stable-diffusion-v1-5/stable-diffusion-v1-5")
        assert [region.box for region in here.regions] == [region.box for region in there.regions]


def test_the_miniature_examples_only_use_words_that_its_world_knows():
    words = {word for fixture in FIXTURES for word in re.findall(r"\w+", fixture.miniature[0])}
    assert words <= set(WORDS), words - set(WORDS)


# --- other sizes of pictures -----------------------------------------------------------------------------------------


def test_a_backbone_of_another_size_leaves_the_first_as_it_was(tiny):
    wide = tiny.at(64, 96)
    assert (wide.latent_shape, wide.image_size) == ((4, 16, 24), (64, 96))
    assert (tiny.latent_shape, tiny.image_size) == ((4, 16, 16), (64, 64))
    assert wide.pipe is tiny.pipe and wide.at(64, 64).latent_shape == tiny.latent_shape


@pytest.mark.parametrize(("size", "said"), [((64, 60), "width=60"), ((0, 64), "height=0"), ((-8, 64), "height=-8")])
def test_a_size_that_does_not_fit_the_coarsest_block_is_refused(tiny, size, said):
    with pytest.raises(ValueError, match=f"{said} must be a multiple of 8, a pixel of the coarsest block"):
        tiny.at(*size)


def test_pictures_have_the_size_that_was_asked_for(tiny):
    draw = partial(sample, prompts="a red car", guidance=[CFG(3)], steps=2)
    run = draw(tiny.at(64, 96))
    assert run.images.shape == (1, 3, 64, 96) and run.latents.shape == (1, 4, 16, 24)
    assert torch.equal(draw(tiny.at(64, 64)).images, draw(tiny).images)
