"""Prompts, layouts and drags at once: the benchmark's scenes, which methods a case adds up, and how far they agree."""

import numpy as np
import pytest
import torch

from helpers.conditions import decode_mask
from helpers.drawn import Drawn
from helpers.experiments import dca, dma
from helpers.experiments.combinations import Nets, guidance_of
from helpers.guidance import CFG, STRENGTHS, Guidance, Raw, Recurrence, Unit, Window
from helpers.guidance.gradient import gradient_update
from helpers.metrics.concepts import holds
from helpers.metrics.judge import Found, Judge
from helpers.miniature.captions import PLACES
from helpers.miniature.combined import load_combined
from helpers.miniature.drags import load_drags, shifted
from helpers.miniature.world import mask_box, render
from helpers.params import CombinationCase, load
from helpers.paths import weights
from helpers.perception.scene_graph import parse
from helpers.sampling import sample
from helpers.score import OF_SOURCE, of_combinations
from helpers.trace import Trace

PARAMS = load("smoke")
DEV, TEST = load_combined("dev"), load_combined("test")
CASES = DEV + TEST
PROMPTS = ["a red car", "a blue fish on the grass"]
STEPS = 5


# --- the benchmark ---------------------------------------------------------------------------------------------------


def edited(case):
    return shifted(case.drag.scene, case.drag.shifts)


def places(case, scene):
    """Which object of a scene each thing of the case is; no kind occurs twice."""
    kinds = [thing.kind for thing in scene.things]
    return [kinds.index(thing.kind) for thing in case.scene.things]


def true_in(scene, i, word, j):
    """A relation by the scene's coordinates and depth."""
    a, b = scene.things[i], scene.things[j]
    if word in ("in front of", "behind"):
        masks = render(scene).amodal
        return (masks[i] & masks[j]).any() and (i > j) == (word == "in front of")
    along, across = (a.x - b.x, a.y - b.y) if word in ("left of", "right of") else (a.y - b.y, a.x - b.x)
    return abs(along) >= abs(across) and (along < 0) == (word in ("left of", "above"))


def stated(case, scene):
    of = places(case, scene)
    return [true_in(scene, of[i], word, of[j]) for i, word, j in case.scene.relations]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_every_drag_among_several_objects_is_a_case_and_no_other(split):
    several = [drag for drag in load_drags(split) if len(drag.scene.things) > 1]
    cases = load_combined(split)
    assert [case.id for case in cases] == [drag.id for drag in several] and len(cases) < len(load_drags(split))
    assert [case.seed for case in cases] == [drag.seed for drag in several]
    assert all(len(case.scene.things) == len(drag.scene.things) for case, drag in zip(cases, several))


def test_cases_repeat_exactly():
    assert load_combined.__wrapped__("dev") == DEV
    assert {case.prompt for case in DEV}.isdisjoint(case.prompt for case in TEST)
    with pytest.raises(ValueError, match="unknown split 'train'"):
        load_combined("train")


def test_the_prompt_names_what_the_edited_scene_shows():
    for case in CASES:
        scene, graph = edited(case), parse(case.prompt)
        things = [scene.things[k] for k in places(case, scene)]
        looks = [{t.size, t.color} | ({"striped"} if t.pattern == "striped" else set()) for t in things]
        assert [(o.noun, set(o.attributes)) for o in graph.objects] == [(t.kind, w) for t, w in zip(things, looks)]
        assert graph.relations == case.scene.relations and len(graph.relations) == len(things) - 1
        assert case.prompt.endswith(f"the scene is {PLACES[scene.background]}.")
        assert case.scene.background == scene.background


def test_stated_relations_are_true_after_the_edit_and_not_all_before_it():
    assert all(all(stated(case, edited(case))) for case in CASES)
    assert not all(all(stated(case, case.drag.scene)) for case in CASES), "the caption is not that of the source"


def test_the_metric_finds_stated_relations_in_the_true_masks():
    """Not all: it compares centres of what is visible, and in front of and behind by what lies in both boxes."""
    right = []
    for case in CASES:
        scene = edited(case)
        things = zip(scene.things, render(scene).visible, strict=True)
        found = [Found(t.kind, t.color, t.pattern, 1.0, mask_box(mask), mask) for t, mask in things]
        of = places(case, scene)
        right += [holds(word, found[of[i]], found[of[j]]) for i, word, j in case.scene.relations]
    assert np.mean(right) >= 0.9


def test_the_layout_is_that_of_the_edited_picture():
    moved = 0
    for case in CASES:
        scene = edited(case)
        before, after = render(case.drag.scene).visible, render(scene).visible
        assert [region.phrase.split()[-1] for region in case.scene.layout.regions] == [
            t.kind for t in case.scene.things
        ]
        for region, k in zip(case.scene.layout.regions, places(case, scene), strict=True):
            assert tuple(64 * v for v in region.box) == mask_box(after[k])
            assert (decode_mask(region.mask) == after[k]).all()
            moved += tuple(64 * v for v in region.box) != mask_box(before[k])
    assert moved >= len(CASES), "in every case some object lies elsewhere than in the source"


def test_the_drag_is_the_benchmarks_own_under_the_cases_prompt():
    drags = {drag.id: drag for split in ("dev", "test") for drag in load_drags(split)}
    for case in CASES:
        own = drags[case.id]
        assert case.drag.drag.prompt == case.prompt == case.drag.prompt == case.scene.layout.prompt
        assert case.drag.drag.moves == own.drag.moves and case.drag.drag.source == own.drag.source
        assert case.drag.model_copy(update={"drag": own.drag}) == own


# --- which methods a case adds up ------------------------------------------------------------------------------------

METHODS = {
    "none": ["cfg"],
    "source": ["dma"],
    "text": ["cfg", "dca"],
    "layout": ["cfg", "dga"],
    "drag": ["dma"],
    "text_layout": ["cfg", "dca", "dga"],
    "text_drag": ["dca", "dma"],
    "layout_drag": ["dga", "dma"],
    "text_layout_drag": ["dca", "dga", "dma"],
}
PAPER = {"dca": 60.0, "dga": 25.0, "dma": 90.0}
NETS = Nets(dca.Nets("clip", "detector", "masks"), "segmenter", dma.Nets("raft", "sam", "dino"))


def methods(name, scenes=DEV[:2]):
    return {method.name: method for method in guidance_of(PARAMS, PARAMS.combinations.case(name), scenes, NETS)}


@pytest.mark.parametrize("name", PARAMS.combinations.run)
def test_a_case_has_its_methods_in_order_and_cfg_only_without_a_source(name):
    assert list(methods(name)) == METHODS[name.removesuffix("_paper")]


@pytest.mark.parametrize("name", [name for name in PARAMS.combinations.run if name.endswith("_paper")])
def test_with_the_papers_weights_losses_are_added_as_they_are(name):
    acting = {key: method for key, method in methods(name).items() if key != "cfg"}
    assert {key: method.weight for key, method in acting.items()} == {key: PAPER[key] for key in acting}
    assert all(m.strength == Raw() and m.recurrence == Recurrence() for m in acting.values())
    windows = {key: Window(0, getattr(PARAMS, key).case("full").window) for key in acting}
    assert {key: method.window for key, method in acting.items()} == windows


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("none", "source")])
def test_tuned_methods_keep_the_rules_of_their_experiments(name):
    acting = {key: method for key, method in methods(name).items() if key != "cfg"}
    for key, method in acting.items():
        block = getattr(PARAMS, key)
        again = block.recurrence
        assert method.strength == STRENGTHS[block.strength.rule](block.strength.scale, block.strength.clip)
        assert method.recurrence == Recurrence(again.times, Window(0, again.window), again.noise)
        assert method.weight == PAPER[key]
    assert len({method.strength for method in acting.values()}) == len(acting), "each has a gradient of its own"


def test_every_method_is_asked_for_the_edited_scene_and_looks_through_its_own_nets():
    made = methods("text_layout_drag")
    assert (made["dca"].similarity, made["dca"].detector) == ("clip", "detector")
    assert made["dga"].segmenter == "segmenter"
    assert made["dga"].layouts == [case.scene.layout.boxes_only() for case in DEV[:2]]
    assert (made["dma"].flow, made["dma"].clicks.clicks, made["dma"].features) == ("raft", "sam", "dino")
    assert made["dma"].drags == [case.drag.drag for case in DEV[:2]]


def test_the_source_is_drawn_again_by_a_method_that_never_acts():
    (drawn_again,) = methods("source").values()
    assert drawn_again.window == drawn_again.blend == Window(0, 0)
    acting = methods("drag")["dma"]
    assert acting.window.stop > 0 and acting.blend == Window(0, 1)


# --- scores ----------------------------------------------------------------------------------------------------------

SCENES = TEST[:2]


@pytest.fixture(scope="module")
def scored():
    """module -> scores of the rendered edits, as if a case with this module had drawn them."""
    judge = Judge.from_pretrained(weights("judge")).eval()
    images = torch.from_numpy(np.stack([case.drag.edited() for case in SCENES])).permute(0, 3, 1, 2) / 255
    rows = [{"id": case.id, "seed": case.seed, "seconds": 1.5} for case in SCENES]

    def score(*modules, rows=rows):
        chosen = CombinationCase(modules=modules, baseline="none")
        return of_combinations(Drawn(images, rows, [], settings=chosen.model_dump(mode="json")), judge)

    return score


def test_without_a_source_nothing_is_compared_with_one(scored):
    free, dragged = scored("text", "layout").rows, scored("layout", "drag").rows
    for one, other in zip(free, dragged, strict=True):
        assert set(one) == set(other) and np.isnan([one[key] for key in OF_SOURCE]).all()
        np.testing.assert_equal({**one, **dict.fromkeys(OF_SOURCE)}, {**other, **dict.fromkeys(OF_SOURCE)})


@pytest.mark.parametrize("modules", [("drag",), ("source",)])
def test_the_true_edit_gets_both_kinds_of_full_marks(scored, modules):
    found = scored(*modules)
    for row, case in zip(found.rows, SCENES, strict=True):
        assert (row["id"], row["seed"], row["seconds"]) == (case.id, case.seed, 1.5)
        assert np.isfinite([row[key] for key in OF_SOURCE]).all()
        assert row["drag_md"] < 2 and row["center_dist"] < 2 and row["edit_fidelity"] > 0.99
        assert row["box_iou"] > 0.8 and row["attribute_acc"] == row["recall"] == 1 and 0 < row["clip_score"] <= 100
    assert len(found.found) == len(found.features) == len(SCENES)


def test_pictures_of_other_scenes_are_refused(scored):
    rows = [{"id": case.id, "seed": case.seed} for case in SCENES[::-1]]
    with pytest.raises(ValueError, match=f"image 0 was drawn for case '{SCENES[1].id}', not for '{SCENES[0].id}'"):
        scored("drag", rows=rows)


# --- do they pull the same way? --------------------------------------------------------------------------------------


class Pull(Guidance):
    """Pulls some columns of the picture towards white, or (sign -1) black; keeps the gradient of every step."""

    def __init__(self, name, columns=slice(None), strength=Raw(), sign=1, window=Window(), weight=30.0):  # noqa: B008
        self.called, self.columns, self.strength, self.sign = name, columns, strength, sign
        self.window, self.weight, self.grads = window, weight, []

    @property
    def name(self):
        return self.called

    def energy(self, ctx):
        loss = self.sign * (1 - ctx.image[..., self.columns]).flatten(1).mean(1)
        self.grads.append(torch.autograd.grad(loss.sum(), ctx.x_t, retain_graph=True)[0])
        return loss, {}


LEFT, RIGHT = slice(0, 40), slice(24, 64)


def draw(tiny, *pulls, **options):
    return sample(tiny, PROMPTS, [CFG(3), *pulls], steps=STEPS, **options)


def by_hand(one, other):
    """(n, steps): the cosine of two lists of gradients (n, 4, h, w)."""
    pairs = [(a.flatten(1).double(), b.flatten(1).double()) for a, b in zip(one.grads, other.grads, strict=True)]
    return torch.stack([(a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)) for a, b in pairs], 1).float()


def test_methods_with_different_rules_tell_the_cosine_of_their_gradients(tiny):
    left, right, trace = Pull("left", LEFT, Unit(0.2)), Pull("right", RIGHT, Raw(0.5)), Trace([1])
    run = draw(tiny, left, right, trace=trace)
    curve = run.curves["cosine.left.right"]
    assert curve.shape == (2, STEPS) and curve.abs().max() <= 1
    torch.testing.assert_close(curve, by_hand(left, right), atol=1e-5, rtol=0)
    assert curve.abs().max() < 0.99, "they pull at other columns"
    assert run.cost.backwards == 2 * 2 * STEPS and [k for k in run.curves if "cosine" in k] == ["cosine.left.right"]
    np.testing.assert_array_equal(trace.records[0].curves["cosine.left.right"], curve[1].numpy())


def test_the_update_is_the_sum_of_both_rules(tiny, make_context):
    left, right = Pull("left", LEFT, Unit(0.2)), Pull("right", RIGHT, Raw(0.5))
    ctx = make_context(tiny, PROMPTS, [CFG(3), left, right])
    update = gradient_update(ctx, {method: method.energy(ctx) for method in (left, right)})
    parts = [m.strength.update(torch.zeros(2), m.weight * m.grads[0], ctx) for m in (left, right)]
    torch.testing.assert_close(update.eps, sum(parts))
    torch.testing.assert_close(update.cosines["left.right"], by_hand(left, right)[:, 0], atol=1e-5, rtol=0)


def test_equal_losses_pull_the_same_way_and_opposite_ones_apart(tiny):
    run = draw(tiny, Pull("one", strength=Unit(0.1)), Pull("same", strength=Unit(0.2), weight=7.0))
    torch.testing.assert_close(run.curves["cosine.one.same"], torch.ones(2, STEPS), atol=1e-5, rtol=0)
    run = draw(tiny, Pull("one", strength=Unit(0.1)), Pull("other", strength=Unit(0.2), sign=-1))
    torch.testing.assert_close(run.curves["cosine.one.other"], -torch.ones(2, STEPS), atol=1e-5, rtol=0)


def test_methods_that_share_a_rule_have_one_gradient_and_no_cosine(tiny):
    run = draw(tiny, Pull("left", LEFT, Unit(0.2)), Pull("right", RIGHT, Unit(0.2)))
    assert not [name for name in run.curves if "cosine" in name]
    assert run.cost.backwards == 2 * STEPS


def test_methods_that_share_a_rule_are_compared_with_others_as_one(tiny):
    left, right, whole, both = Pull("left", LEFT), Pull("right", RIGHT), Pull("all", strength=Unit(0.2)), Pull("both")
    run = draw(tiny, left, whole, right)
    both.grads = [a + b for a, b in zip(left.grads, right.grads, strict=True)]
    torch.testing.assert_close(run.curves["cosine.left+right.all"], by_hand(both, whole), atol=1e-5, rtol=0)
    assert run.cost.backwards == 2 * 2 * STEPS


def test_outside_a_window_there_is_no_cosine(tiny):
    short = Pull("short", strength=Unit(0.1), window=Window(0, 0.4))
    curve = draw(tiny, short, Pull("long", strength=Unit(0.2))).curves["cosine.short.long"]
    assert curve.isfinite().tolist() == [[True, True, False, False, False]] * 2
