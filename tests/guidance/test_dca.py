"""Dense concept alignment: windows, detections, the loss against values known on paper, and the method in the loop."""

import numpy as np
import pytest
import torch
from transformers import Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

from helpers.backbones.load import wrap
from helpers.guidance.cfg import CFG
from helpers.guidance.dca import (
    CONCEPTS,
    DCA,
    RELATIONS,
    State,
    attributes,
    cosines,
    presence,
    relations,
)
from helpers.perception.crops import crop, square, union
from helpers.perception.detector import MaskDetector, ZeroShotDetector
from helpers.perception.scene_graph import parse
from helpers.sampling.cost import Cost
from helpers.sampling.hooks import Recurrence, Window
from helpers.sampling.loop import sample
from helpers.sampling.strength import Raw
from helpers.sampling.trace import Trace

LONG = "a red car is left of a blue ball. the blue ball is on grass."
COLORS = {"red": (1.0, 0, 0), "blue": (0, 0, 1.0)}


# --- windows ---------------------------------------------------------------------------------------------------------


def test_a_window_is_square_holds_its_box_and_stays_inside():
    boxes = torch.tensor([[20.0, 20, 30, 40], [0, 0, 10, 10], [50, 60, 64, 64], [0, 20, 64, 40]])
    windows = square(boxes, 64, 64)
    sides = windows[:, 2:] - windows[:, :2]
    torch.testing.assert_close(sides[:, 0], sides[:, 1])
    torch.testing.assert_close(sides[:, 0], torch.tensor([23.0, 11.5, 16.1, 64.0]))
    assert (windows >= 0).all() and (windows <= 64).all()
    torch.testing.assert_close(windows[0], torch.tensor([13.5, 18.5, 36.5, 41.5]))
    inside = (windows[:, :2] <= boxes[:, :2]) & (windows[:, 2:] >= boxes[:, 2:])
    assert inside.all()


def test_a_window_of_a_wide_image_is_no_taller_than_the_image():
    assert square(torch.tensor([0.0, 0, 60, 10]), 32, 64).tolist() == [14, 0, 46, 32]


def test_union_holds_both():
    assert union(torch.tensor([1.0, 2, 3, 4]), torch.tensor([2.0, 0, 9, 3])).tolist() == [1, 0, 9, 4]


def test_a_crop_of_everything_is_the_image_and_a_part_gets_the_gradient():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = crop(images, torch.tensor([[0.0, 0, 16, 16]], dtype=torch.float64), torch.tensor([1]), 16)
    torch.testing.assert_close(whole[0], images[1])
    images.requires_grad_()
    (grad,) = torch.autograd.grad(
        crop(images, torch.tensor([[4.0, 4, 8, 8]], dtype=torch.float64), torch.tensor([0]), 8).sum(), images
    )
    assert grad[0, :, 4:8, 4:8].abs().min() > 0
    assert not grad[0, :, :3].any() and not grad[1].any()


# --- detection -------------------------------------------------------------------------------------------------------


class Painted(torch.nn.Module):
    """A segmenter by hand: a phrase's logit is 20 where the image has the colour that its first word names."""

    def embed(self, phrases):
        return torch.tensor([COLORS[phrase.split()[-2]] for phrase in phrases])

    def forward(self, images, embeddings):
        return 40 * torch.einsum("bchw,bnc->bnhw", images, embeddings) - 20


def picture(**blocks):
    """(1, 3, 64, 64), black, with blocks x0, y0, x1, y1 of a colour."""
    image = torch.zeros(1, 3, 64, 64)
    for color, (x0, y0, x1, y1) in blocks.items():
        image[0, :, y0:y1, x0:x1] = torch.tensor(COLORS[color])[:, None, None]
    return image


def test_the_mask_detector_boxes_the_largest_part():
    image = picture(red=(4, 6, 24, 16))
    image[0, 0, 40:43, 40:43] = 1  # a stray patch
    boxes, scores = MaskDetector(Painted())(image, [["red car", "blue ball"]])
    assert boxes[0].tolist() == [[4, 6, 24, 16], [0, 0, 0, 0]]
    assert scores[0, 0] > 0.99 and scores[0, 1] == 0


def test_the_mask_detector_takes_other_phrases_for_every_image():
    images = torch.cat([picture(red=(0, 0, 8, 8)), picture(blue=(8, 8, 20, 20))])
    detector = MaskDetector(Painted())
    boxes, scores = detector(images, [["red car"], ["red car", "blue ball"]])
    assert boxes.shape == (2, 2, 4) and scores.shape == (2, 2)
    assert (scores > 0).tolist() == [[True, False], [False, True]]
    assert boxes[1, 1].tolist() == [8, 8, 20, 20]
    assert detector(images, [[], []])[0].shape == (2, 0, 4)


def test_a_detector_of_transformers_loads_and_answers_alike(tmp_path, make_pipeline):
    torch.manual_seed(0)
    tokenizer = make_pipeline().tokenizer
    tokenizer.model_max_length = 16
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    config = Owlv2Config(
        text_config={**size, **special, "vocab_size": len(tokenizer)},
        vision_config={**size, "image_size": 64, "patch_size": 16},
        projection_dim=32,
    )
    Owlv2ForObjectDetection(config).save_pretrained(tmp_path)
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 64, "width": 64}), tokenizer).save_pretrained(tmp_path)
    detector = ZeroShotDetector.load(tmp_path)
    boxes, scores = detector(torch.rand(2, 3, 48, 64), [["red car"], ["red car", "blue ball"]])
    assert boxes.shape == (2, 2, 4) and ((scores >= 0) & (scores <= 1)).all()
    assert scores[0, 1] == 0 and scores[1, 1] > 0
    assert (boxes >= 0).all() and (boxes[..., 0::2] <= 64).all() and (boxes[..., 1::2] <= 48).all()


# --- concepts --------------------------------------------------------------------------------------------------------


def test_concepts_of_a_graph():
    graph = parse("a striped red car left of a ball")
    (one,) = attributes(3, graph, CONCEPTS["phrase"])
    assert (one.image, one.texts, one.objects) == (3, ("striped red car",), (0,))
    (split,) = attributes(0, graph, CONCEPTS["parts"])
    assert split.texts == ("striped", "red", "car")
    (between,) = relations(0, graph, RELATIONS["stated"])
    assert between.texts == ("striped red car left of ball",) and between.objects == (0, 1) and not between.unlike
    (between,) = relations(0, graph, RELATIONS["turned"])
    assert between.unlike == ("ball left of striped red car",)


class Colour(torch.nn.Module):
    """A CLIP by hand: an image is its mean colour, a text the mean of the colours that it names; both of length 1."""

    side = 8

    def embed(self, phrases):
        named = [[COLORS[w] for w in p.split() if w in COLORS] or [(0, 1.0, 0)] for p in phrases]
        return torch.nn.functional.normalize(torch.stack([torch.tensor(c).mean(0) for c in named]), dim=1)

    def forward(self, images):
        return torch.nn.functional.normalize(images.mean((2, 3)) + 1e-6, dim=1)


def paper(**settings):
    """The two losses of the paper, through models made by hand."""
    return DCA.paper(**{"similarity": Colour(), "detector": MaskDetector(Painted())} | settings)


def energy(backbone, make_context, image, prompt="a red car left of a blue ball", **settings):
    method = paper(**settings)
    with torch.no_grad():
        ctx = make_context(backbone, [prompt], [method])
        ctx.image = image
        return *method.energy(ctx, ctx.job.states[method]), method


def test_loss_of_known_pictures(tiny, make_context):
    image = picture(red=(4, 4, 24, 24), blue=(40, 40, 60, 60))
    loss, info, _ = energy(tiny, make_context, image)
    assert info["attribute"].item() == pytest.approx(0, abs=1e-4), "each window holds its own colour only"
    assert info["relation"].item() == pytest.approx(0, abs=1e-3), "half red, half blue, as the relation's text"
    assert loss.item() == pytest.approx(info["attribute"].item() + info["relation"].item())
    assert info["boxes"][0, 0].tolist() == pytest.approx([4 / 64, 4 / 64, 24 / 64, 24 / 64])


def test_an_absent_object_is_asked_of_the_whole_picture(tiny, make_context):
    _, info, _ = energy(tiny, make_context, picture(red=(4, 4, 24, 24)))
    assert info["scores"][0].tolist() == pytest.approx([1, 0], abs=1e-3)
    assert info["boxes"][0, 1].tolist() == [0, 0, 0, 0]
    assert info["attribute"].item() == pytest.approx(0.5, abs=1e-3), "red is right, and nothing is blue"
    assert info["relation"].item() == pytest.approx(1 - 0.5**0.5, abs=1e-3)


def test_weights_choose_the_terms(tiny, make_context):
    image = picture(red=(4, 4, 24, 24))
    for kind in ("attribute", "relation"):
        off = {f"{name}_weight": float(name == kind) for name in ("attribute", "relation")}
        loss, info, _ = energy(tiny, make_context, image, **off)
        assert loss.item() == pytest.approx(info[kind].item())


class Side(Colour):
    """A CLIP by hand that sees which half is redder, third axis, and how red all is, first; a text says it by order."""

    def embed(self, phrases):
        turn = [1.0 if p.startswith("red") else -1.0 for p in phrases]
        return torch.nn.functional.normalize(torch.tensor([[2.0, 0, t] for t in turn]), dim=1)

    def forward(self, images):
        left, right = (half.mean((2, 3))[:, 0] for half in images.chunk(2, 3))
        return torch.nn.functional.normalize(torch.stack([left + right, 0 * left, left - right], 1) + 1e-6, dim=1)


def test_a_direction_leaves_of_a_relation_who_stands_where(tiny, make_context):
    found = {}
    for side, image in (("right", picture(red=(4, 20, 24, 40), blue=(40, 20, 60, 40))),
                        ("wrong", picture(blue=(4, 20, 24, 40), red=(40, 20, 60, 40)))):  # fmt: skip
        for text in RELATIONS:
            with torch.no_grad():
                method = paper(similarity=Side(), attribute_weight=0, relation=text)
                ctx = make_context(tiny, ["a red car left of a blue ball"], [method])
                ctx.image = image
                found[text, side] = method.energy(ctx, ctx.job.states[method])[0].item()
    # images are (1, 0, +-1) / sqrt 2; the texts (2, 0, +-1) / sqrt 5, their direction (0, 0, 1)
    assert found["stated", "right"] == pytest.approx(1 - 3 / 10**0.5, abs=1e-3)
    assert found["stated", "wrong"] == pytest.approx(1 - 1 / 10**0.5, abs=1e-3)
    assert found["turned", "right"] == pytest.approx(1 - 0.5**0.5, abs=1e-3)
    assert found["turned", "wrong"] == pytest.approx(1 + 0.5**0.5, abs=1e-3)


def test_the_mean_of_the_words_is_the_mean_of_their_cosines(tiny, make_context):
    _, info, _ = energy(
        tiny, make_context, picture(red=(4, 4, 24, 24)), "a red car and a blue ball", concept="parts", relation_weight=0
    )
    word = [1.0, 0.0]  # cosines of "red" and "car" (green, as every word without a colour) with a red window
    absent = [0.0, 0.0]  # of "blue" and "ball" with a picture that is black and red
    assert info["attribute"].item() == pytest.approx(1 - (sum(word) + sum(absent)) / 4, abs=1e-3)


def test_relations_count_in_their_own_window_only(tiny, make_context):
    image = picture(red=(4, 4, 24, 24))
    always, info, _ = energy(tiny, make_context, image, relation_weight=3)
    never, same, method = energy(tiny, make_context, image, relation_weight=3, relation_window=Window(0, 0))
    assert info["relation"].item() == same["relation"].item() > 0.1, "it is watched all the same"
    assert never.item() == pytest.approx(info["attribute"].item())
    assert always.item() == pytest.approx(info["attribute"].item() + 3 * info["relation"].item())
    assert method.settings()["relation_window"] == {"start": 0, "stop": 0}


def seen(*places, side=10):
    """(1, N, side, side) logits: 20 in the place of each object, -20 elsewhere; None is nowhere."""
    logits = torch.full((1, len(places), side, side), -20.0)
    for n, place in enumerate(places):
        if place is not None:
            logits[0, n][place] = 20
    return logits


LEFT, RIGHT = (slice(2, 5), slice(1, 4)), (slice(5, 8), slice(6, 9))


@pytest.mark.parametrize(
    ("places", "loss"),
    [((LEFT, RIGHT), 0), ((LEFT, None), 10), ((LEFT, LEFT), 20), ((None, None), 20), ((LEFT,), 0), ((None,), 20)],
)
def test_presence_asks_for_a_place_of_its_own(places, loss):
    asked = torch.ones(1, len(places), dtype=torch.bool)
    assert presence(seen(*places), asked).item() == pytest.approx(loss, abs=1e-3)


def test_presence_asks_for_no_more_than_the_picture_shall_show():
    one = torch.tensor([[True, False]])
    assert presence(seen(LEFT, LEFT), one).item() == pytest.approx(0, abs=1e-3)
    assert presence(seen(None, RIGHT), one).item() == pytest.approx(20, abs=1e-3)


def test_presence_is_content_with_the_smallest_objects_of_the_world():
    smallest = seen((slice(2, 12), slice(2, 12)), side=64)
    assert presence(smallest, torch.ones(1, 1, dtype=torch.bool)).item() == pytest.approx(0, abs=1e-3)


def test_the_gradient_of_presence_by_finite_differences():
    logits = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    asked = torch.tensor([[True, True, True], [True, True, False]])
    assert torch.autograd.gradcheck(lambda x: presence(x, asked), logits.requires_grad_(), eps=1e-6, atol=1e-6)
    (grad,) = torch.autograd.grad(presence(logits, asked).sum(), logits)
    assert not grad[1, 2].any() and grad[0].abs().sum() > 0


def test_without_a_backbone_the_models_must_be_given():
    with pytest.raises(ValueError, match="no backbone names them: give it similarity and segmenter"):
        paper(presence_weight=2.0).read(["a red car"])
    with pytest.raises(ValueError, match="no backbone names them: give it similarity and segmenter"):
        paper(similarity=None).read(["a red car"])
    assert paper().read(["a red car"]).segmenter is None


def test_a_backbone_that_names_no_model_says_so(tiny):
    with pytest.raises(ValueError, match="this backbone names no similarity: give the method one"):
        sample(tiny, "a red car", [DCA()], steps=2)


def test_presence_joins_the_loss(tiny, make_context):
    there, shared = picture(red=(4, 4, 24, 24), blue=(40, 40, 60, 60)), picture(red=(4, 4, 24, 24))
    shared[0, 2, 4:24, 4:24] = 1
    weights = {"attribute_weight": 0, "relation_weight": 0, "presence_weight": 2, "segmenter": Painted()}
    for image, value in ((there, 0), (shared, 20), (picture(red=(4, 4, 24, 24)), 10)):
        loss, info, method = energy(tiny, make_context, image, **weights)
        assert info["presence"].item() == pytest.approx(value, abs=1e-3) and loss.item() == pytest.approx(
            2 * value, abs=1e-2
        )
    assert method.settings()["presence_weight"] == 2
    _, info, _ = energy(tiny, make_context, there)
    assert "presence" not in info
    _, info, _ = energy(tiny, make_context, there, segmenter=Painted())
    assert "presence" not in info, "at weight 0 it is left out"


def test_two_of_one_name_are_one_to_presence(tiny, make_context):
    weights = {"presence_weight": 1, "segmenter": Painted()}
    _, info, _ = energy(tiny, make_context, picture(red=(4, 4, 24, 24)), "a red car left of a red car", **weights)
    assert info["presence"].item() == pytest.approx(0, abs=1e-3)


def test_gradient_by_finite_differences():
    """The cosines of fixed windows, with respect to the pixels."""
    similarity = Colour().double()
    graph = parse("a red car left of a blue ball")
    concepts = [*attributes(0, graph, CONCEPTS["phrase"]), *relations(0, graph, RELATIONS["stated"])]
    known = {c: similarity.embed(list(c.texts)).double().mean(0) for c in concepts}
    state = State(similarity, None, None, [], {}, known)
    image = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    boxes = torch.tensor([[[1.0, 1, 5, 5], [6, 6, 11, 10]]], dtype=torch.float64)

    def fits(x):
        return cosines(state, x, concepts, torch.zeros(len(concepts), dtype=torch.long), boxes)

    assert torch.autograd.gradcheck(fits, image.requires_grad_(), eps=1e-6, atol=1e-5)


def test_images_with_different_numbers_of_concepts_do_not_mix(tiny, make_context):
    prompts = ["a red car", "a red car left of a blue ball"]
    nets = {"segmenter": Painted(), "presence_weight": 0.5}
    method = paper(**nets)
    images = torch.cat([picture(red=(4, 4, 24, 24)), picture(blue=(40, 40, 60, 60))])
    with torch.no_grad():
        ctx = make_context(tiny, prompts, [method])
        ctx.image = images
        loss, info = method.energy(ctx, ctx.job.states[method])
        for k, prompt in enumerate(prompts):
            alone, _, _ = energy(tiny, make_context, images[k : k + 1], prompt, **nets)
            torch.testing.assert_close(loss[k], alone[0])
    assert info["relation"][0] == 0, "no relation, no loss"


# --- in the loop -----------------------------------------------------------------------------------------------------


def run(backbone, methods, prompts=(LONG, "a red car")):
    return sample(backbone, list(prompts), methods, steps=4, seeds=[1, 2])


def test_zero_weight_is_the_baseline_and_a_weight_is_not(backbone):
    plain = run(backbone, [CFG(5)])
    quiet = run(backbone, [CFG(5), paper(weight=0)])
    still = run(backbone, [CFG(5), paper(strength=Raw(0))])
    loud = run(backbone, [CFG(5), paper()])
    assert torch.equal(plain.images, quiet.images) and torch.equal(plain.images, still.images)
    assert (plain.images != loud.images).flatten(1).any(1).all()
    assert loud.curves["dca.relation"][0].isfinite().sum() == 3, "the first 70 % of four steps"
    assert loud.cost.auxiliary == 3 * (2 + 4), "two detections and four crops a step"


def test_a_trace_keeps_boxes_and_losses_of_prompts_with_fewer_objects(backbone):
    trace = Trace([1])
    method = paper()
    sample(backbone, [LONG, "a red car"], [CFG(5), method], steps=4, seeds=[1, 2], trace=trace)
    (record,) = trace.records
    assert record.maps["dca.boxes"].shape == (4, 2, 4) and record.maps["dca.scores"].shape == (4, 2)
    assert np.isfinite(record.curves["dca.attribute"]).all(), "outside the window, too"


def test_the_window_bounds_the_method(backbone):
    method = paper(window=Window(0, 0))
    assert torch.equal(run(backbone, [CFG(5)]).images, run(backbone, [CFG(5), method]).images)
    assert method.settings()["concept"] == "phrase"


def test_prompts_without_concepts_are_refused(backbone):
    with pytest.raises(ValueError, match="'a car' states no attribute and no relation"):
        run(backbone, [paper()], ["a red car", "a car"])


def test_an_unknown_concept_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"DCA\(concept='sum'\): use one of phrase, parts"):
        paper(concept="sum")
    with pytest.raises(ValueError, match=r"DCA\(relation='mirrored'\): use one of stated, turned"):
        paper(relation="mirrored")


class Named(torch.nn.Module):
    """A segmenter by hand that is never quite sure: a phrase's logit is what its first word's colour has, or green."""

    def embed(self, phrases):
        return torch.stack([torch.tensor(COLORS.get(phrase.split()[0], (0, 1.0, 0))) for phrase in phrases])

    def forward(self, images, embeddings):
        return torch.einsum("bchw,bnc->bnhw", images, embeddings)


def test_presence_needs_no_attribute(tiny):
    """An object can be asked for by its place alone, also beside images that state concepts."""
    method = paper(presence_weight=1.0, segmenter=Named(), detector=MaskDetector(Named()), strength=Raw(10))
    plain, guided = (run(tiny, methods, ["a car", "a red car"]) for methods in ([CFG(5)], [CFG(5), method]))
    assert (plain.images != guided.images).flatten(1).any(1).all()
    assert (guided.curves["dca.presence"][0, :3] > 0).all() and not guided.curves["dca.attribute"][0, :3].any()


def test_finished_pictures_are_judged_without_a_run():
    """What a verifier of best-of-N asks: the losses of some of the prompts' pictures, in any order."""
    prompts = ["a red car", "a red car left of a blue ball"]
    state = paper(presence_weight=1.0, segmenter=Painted()).read(prompts)
    pictures = torch.cat([picture(red=(4, 4, 24, 24)), picture(red=(4, 4, 24, 24))])
    cost = Cost(images=2)
    found, boxes, scores = DCA.losses(state, pictures, [1, 0], cost)
    assert found["attribute"].tolist() == pytest.approx([0.5, 0], abs=1e-3)
    assert found["presence"].tolist() == pytest.approx([10, 0], abs=1e-3)
    assert boxes[0, 1].tolist() == [0, 0, 64, 64] and scores.shape == (2, 2)
    assert cost.auxiliary == 2 + 4 + 2, "detections, windows, masks"


def test_in_half_precision_the_models_see_float32(make_pipeline):
    half = wrap(make_pipeline().to(torch.bfloat16))
    prompts = ["a red car left of a blue ball", "a red car"]
    drawn = run(half, [CFG(5), paper(presence_weight=1.0, segmenter=Painted())], prompts)
    assert drawn.images.isfinite().all() and not drawn.warnings
    assert (drawn.images != run(half, [CFG(5)], prompts).images).flatten(1).any(1).all()


def test_one_object_serves_several_runs(tiny):
    method = paper()
    first = run(tiny, [CFG(5), method])
    run(tiny, [CFG(5), method], ["a blue ball", "a red fish"])
    assert torch.equal(run(tiny, [CFG(5), method]).images, first.images)


def test_settings_are_the_fields():
    tuned, theirs = DCA().settings(), DCA.paper().settings()
    assert (tuned["weight"], tuned["relation_weight"], tuned["presence_weight"]) == (60, 7, 1)
    assert tuned["strength"] == {"rule": "unit", "scale": 0.15, "clip": None, "group": ""}
    assert tuned["recurrence"] == {"times": 9, "window": {"start": 0.0, "stop": 0.15}, "noise": False}
    assert (theirs["relation"], theirs["relation_weight"], theirs["presence_weight"]) == ("stated", 1, 0)
    assert theirs["strength"]["rule"] == "raw" and theirs["recurrence"] == Recurrence().settings()
    with pytest.raises(ValueError, match=r"DCA\(presence_weight=nan\): use a finite number"):
        DCA(presence_weight=float("nan"))
