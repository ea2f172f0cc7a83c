"""What drag guidance looks through: optical flow, clicks on objects, dense features; and the moved scenes they know."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.models import get_model
from torchvision.models.optical_flow import Raft_Small_Weights
from transformers import CLIPSegConfig

from helpers.miniature.scene import Scene, Thing
from helpers.miniature.vocabulary import SIDE
from helpers.miniature.world import move, random_scene, render
from helpers.paths import weights
from helpers.perception.clicks import ClickSegmenter
from helpers.perception.features import Features, correspond, similarities
from helpers.perception.flow import Flow
from helpers.training import clicks, features, flow
from helpers.training.loop import Scenes
from helpers.training.motion import REACH, SEEN, displace, edited_scene, edits


def scenes(n, seed=271828):
    return [random_scene(np.random.default_rng([seed, i])) for i in range(n)]


def pictures(drawn):
    return torch.from_numpy(np.stack([render(s).image for s in drawn])).permute(0, 3, 1, 2).float() / 255


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def batch(view, n=2):
    items = [Scenes(5, view, n)[i] for i in range(n)]
    return {key: torch.from_numpy(np.stack([item[key] for item in items])) for key in items[0]}


# --- moved scenes -----------------------------------------------------------------------------------------------------


def test_a_displaced_scene_says_exactly_what_moved_where():
    for i, scene in enumerate(scenes(40)):
        pair = displace(scene, np.random.default_rng(i), several=0.3)
        before, after = render(scene).visible, render(pair.scene).visible
        for thing, later, seen, then in zip(scene.things, pair.scene.things, before, after):
            d = np.float32([later.x - thing.x, later.y - thing.y])
            assert (pair.flow[:, seen] == d[:, None]).all() and np.hypot(*d) <= REACH + 1
            assert pair.moved[seen].all() or not d.any()
            assert then.sum() >= SEEN * seen.sum() or not d.any()
        assert not pair.flow[:, ~pair.moved].any() and before[pair.index][pair.moved].any()


def test_held_out_edits_repeat_and_move_one_object():
    drawn = scenes(10)
    first, second = edits(drawn), edits(drawn)
    for scene, a, b in zip(drawn, first, second):
        assert a.scene == b.scene and (a.flow == b.flow).all()
        assert sum(t != u for t, u in zip(scene.things, a.scene.things)) == 1


def test_a_training_item_can_be_edited_again():
    item = Scenes(5, flow.view, 3)[2]
    assert (render(edited_scene(5, 2, flow.SEVERAL)).image.transpose(2, 0, 1) == item["image"]).all()


def test_tracked_points_look_the_same_before_and_after():
    for i, scene in enumerate(scenes(20)):
        (pair,) = edits([scene], seed=i)
        points, places = features.tracks(scene, pair, 30, np.random.default_rng(0), elsewhere=20)
        (x, y), (u, v) = points.T.astype(int), places.T.astype(int)
        assert pair.moved[y[:30], x[:30]].all() and not pair.moved[y[30:], x[30:]].any()
        assert (places - points == pair.flow[:, y, x].T).all()
        owner, later = (render(s).visible for s in (scene, pair.scene))
        assert (owner[:, y, x] == later[:, v, u]).all()


# --- optical flow -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def raft():
    return Flow.load(weights("raft"))


def test_flow_has_the_images_size_and_its_gradient_reaches_both_images():
    untrained = Flow(flow.build())
    for h, w in ((64, 64), (72, 90)):
        source, target = (noise(2, 3, h, w, seed=k).requires_grad_() for k in range(2))
        out = untrained(source, target, updates=2)
        assert out.shape == (2, 2, h, w) and out.dtype == torch.float32
        out.sum().backward()
        for x in (source, target):
            assert x.grad.isfinite().all() and x.grad.abs().sum((0, 1)).min() > 0
    assert not untrained.raft.corr_block.corr_pyramid, "a graph must not outlive its pass"


def test_real_raft_runs_through_the_same_class():
    torch.manual_seed(0)
    real = get_model("raft_small", weights=None).eval()
    source, target = noise(1, 3, 128, 160), noise(1, 3, 128, 160, seed=1)
    theirs = real(source * 2 - 1, target * 2 - 1, num_flow_updates=3)[-1]
    torch.testing.assert_close(Flow(real)(source, target, updates=3), theirs)


def test_flow_is_saved_and_loaded(tmp_path):
    raft = Flow(flow.build(), 192, updates=2)
    raft.save(tmp_path)
    source, target = noise(1, 3, 64, 64), noise(1, 3, 64, 64, seed=1)
    loaded = Flow.load(str(tmp_path))
    assert (loaded.smallest, loaded.updates) == (192, 2)
    torch.testing.assert_close(loaded(source, target), raft(source, target), atol=0.05, rtol=0.05)
    torch.testing.assert_close(loaded(source, target), loaded(source, target, updates=2))


def test_each_raft_makes_the_updates_that_it_was_trained_with(raft, monkeypatch):
    assert raft.updates == 4, "a folder that states none is the miniature"
    torch.manual_seed(0)
    monkeypatch.setattr("helpers.perception.flow.get_model", lambda name, weights: get_model(name, weights=None))
    real = Flow.load("raft_small")
    source, target = noise(1, 3, 128, 128), noise(1, 3, 128, 128, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(real(source, target), real.raft(source * 2 - 1, target * 2 - 1)[-1])
    assert real.updates == 12


def test_flow_of_a_picture_that_needs_no_resizing_gets_what_torchvision_would_prepare():
    """torchvision's transform of the weights, on bytes; 512 x 768 is RAFT's as it stands."""
    bytes_ = (noise(2, 3, 136, 200) * 255).round().to(torch.uint8)
    theirs = Raft_Small_Weights.DEFAULT.transforms()(bytes_[:1], bytes_[1:])
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, source, target, num_flow_updates):
            seen.extend((source, target))
            return [source[:, :2]]

    spy = Spy()
    spy.corr_block = SimpleNamespace(corr_pyramid=[])
    Flow(spy)(bytes_[:1].float() / 255, bytes_[1:].float() / 255)
    for ours, wanted in zip(seen, theirs, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=0)


def test_bad_input_of_the_flow_is_named(tmp_path):
    with pytest.raises(ValueError, match="no model 'raft_huge'.*raft_large, raft_small, a folder"):
        Flow.load("raft_huge")
    with pytest.raises(ValueError, match="'some/raft' is no RAFT.*raft_large, raft_small"):
        Flow.load("some/raft")
    with pytest.raises(ValueError, match=f"{tmp_path} cannot be loaded: copy or download it .*config.json"):
        Flow.load(tmp_path)
    raft, x = Flow(flow.build()), noise(1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"target must be \(B, 3, H, W\).*\(3, 64, 64\)"):
        raft(x, x[0])
    with pytest.raises(ValueError, match=r"source \(1, 3, 64, 64\) and target \(1, 3, 32, 64\) differ"):
        raft(x, x[:, :, :32])


@pytest.mark.parametrize("d", [(6, -4), (-15, 12)])
def test_flow_follows_an_object(raft, d):
    scene = Scene("sand", (Thing("car", "red", "plain", "large", 30, 32, 34),))
    edited, truth = move(scene, 0, *d)
    source, target = pictures([scene]), pictures([edited])
    with torch.no_grad():
        found, back, still = raft(source, target)[0], raft(target, source)[0], raft(source, source)[0]
    on = torch.from_numpy(truth.any(0))
    for k in range(2):
        assert found[k][on].median().item() == pytest.approx(d[k], abs=0.5)
        assert back[k][torch.from_numpy(render(edited).visible[0])].median().item() == pytest.approx(-d[k], abs=0.5)
    assert found[:, ~on].norm(dim=0).mean() < 0.3 and still.norm(dim=0).mean() < 0.1


def test_flow_pulls_an_object_towards_its_goal(raft):
    """The gradient of the flow's error with respect to the second picture is finite and lies on and near the object."""
    scene = Scene("sand", (Thing("car", "red", "plain", "large", 30, 32, 34),))
    seen = torch.from_numpy(render(scene).visible[0])
    target = pictures([scene]).requires_grad_()
    error = (raft(pictures([scene]), target) - torch.tensor([5.0, 0.0])[:, None, None]).norm(dim=1)
    error[0][seen].mean().backward()
    pull = target.grad[0].norm(dim=0)
    assert pull.isfinite().all() and pull[seen].mean() > 2 * pull[~seen].mean()


def test_flow_is_right_in_unseen_scenes(raft):
    drawn = scenes(60)
    got = flow.evaluate(raft, drawn, pictures([p.scene for p in edits(drawn)]))
    assert got["epe_moving"] <= 0.7 and got["epe"] <= 0.3 and got["motion"] > 8


def test_a_training_step_of_the_flow():
    model = flow.build()
    value, parts = flow.loss(model, batch(flow.view), torch.Generator().manual_seed(0))
    value.backward()
    assert value.isfinite() and parts["epe_moving"] > parts["epe"] > 0
    assert all(p.grad is not None for p in model.parameters())


# --- clicks -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sam():
    return ClickSegmenter.load(weights("sam"))


def test_masks_have_the_images_size_and_their_gradient_reaches_it():
    untrained = ClickSegmenter(clicks.build())
    points = torch.tensor([[[10.0, 20.0], [30.0, 40.0]], [[5.0, 5.0], [59.0, 30.0]]])
    for h, w in ((64, 64), (48, 80)):
        images = noise(2, 3, h, w).requires_grad_()
        logits = untrained(images, points)
        assert logits.shape == (2, h, w) and logits.dtype == torch.float32
        logits.sum().backward()
        assert images.grad.isfinite().all() and images.grad.abs().sum((0, 1)).min() > 0
    alone = untrained(images[1:].detach(), points[1:])
    torch.testing.assert_close(alone[0], logits[1], atol=1e-4, rtol=1e-4)


def test_bad_clicks_are_named(tmp_path):
    untrained, x = ClickSegmenter(clicks.build()), noise(2, 3, 64, 64)
    with pytest.raises(ValueError, match=r"click 1 of image 1 at \(64.0, 3.0\) is outside: x 0 to 63, y 0 to 63"):
        untrained(x, torch.tensor([[[1.0, 2], [3, 4]], [[5, 6], [64, 3]]]))
    with pytest.raises(ValueError, match=r"points must be \(2, k, 2\).*\(1, 1, 2\)"):
        untrained(x, torch.ones(1, 1, 2))
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\)"):
        untrained(x[0], torch.ones(2, 1, 2))
    CLIPSegConfig(architectures=["CLIPSegForImageSegmentation"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a CLIPSegForImageSegmentation: use one of SamModel"):
        ClickSegmenter.load(tmp_path)


def test_views_click_on_the_masks_they_ask_for():
    item = clicks.view(scenes(1)[0], np.random.default_rng(0))
    for points, mask in zip(item["points"].astype(int), item["masks"]):
        assert mask[points[:, 1], points[:, 0]].all()


def test_a_training_step_moves_every_part_of_sam():
    student = clicks.Student()
    clicks.loss(student, batch(clicks.view), torch.Generator().manual_seed(0))[0].backward()
    for part in (student.sam.vision_encoder, student.sam.mask_decoder, student.sam.shared_image_embedding):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())


def test_a_click_brings_the_visible_part_of_its_object(sam):
    """A ball half behind a box: a click on either brings that one only."""
    things = (Thing("ball", "green", "plain", "large", 30, 26, 32), Thing("box", "red", "plain", "large", 30, 42, 32))
    truth = render(Scene("snow", things)).visible
    images = pictures([Scene("snow", things)]).expand(2, -1, -1, -1)
    with torch.no_grad():
        on = (sam(images, torch.tensor([[[18.0, 32.0]], [[42.0, 34.0]]])) > 0).numpy()
    iou = (on & truth).sum((1, 2)) / (on | truth).sum((1, 2))
    assert iou.min() >= 0.8


def test_clicks_are_right_in_unseen_scenes(sam):
    drawn = scenes(60)
    got = clicks.evaluate(sam, drawn, pictures(drawn))
    assert got["mask_iou"] >= 0.86 and got["mask_iou_3"] >= 0.86


# --- features ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dino():
    return Features.load(weights("dino"))


def test_features_are_unit_vectors_and_their_gradient_reaches_the_image():
    untrained = Features(features.build())
    for h, w in ((64, 64), (50, 81)):
        images = noise(2, 3, h, w).requires_grad_()
        dense = untrained(images)
        assert dense.shape[2:] == (round(h / 4), round(w / 4)) and dense.dtype == torch.float32
        torch.testing.assert_close(dense.norm(dim=1), torch.ones(2, *dense.shape[2:]))
        dense[:, 0].sum().backward()
        assert images.grad.isfinite().all() and images.grad.abs().sum((0, 1)).min() > 0


def test_nearest_neighbours_of_a_shifted_map_are_shifted():
    source = torch.nn.functional.normalize(
        torch.randn(1, 32, 16, 16, generator=torch.Generator().manual_seed(0)), dim=1
    )
    target = source.roll((2, -3), (2, 3))  # 2 cells down, 3 to the left
    points = torch.tensor([[[30.0, 22.0], [49.0, 9.0]]])
    assert similarities(source, target, points, (SIDE, SIDE)).shape == (1, 2, SIDE, SIDE)
    got = correspond(source, target, points, (SIDE, SIDE))
    assert (got - (points + torch.tensor([-12, 8]))).abs().max() == 0


def test_bad_input_of_the_features_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\) in \[0, 1\], got \(3, 64, 64\)"):
        Features(features.build())(noise(3, 64, 64))
    CLIPSegConfig(architectures=["CLIPSegForImageSegmentation"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a CLIPSegForImageSegmentation: use one of Dinov2Model"):
        Features.load(tmp_path)


def test_a_training_step_of_the_features():
    student = features.Student()
    value, parts = features.loss(student, batch(features.view), torch.Generator().manual_seed(0))
    value.backward()
    assert value.isfinite() and 0 <= parts["pck"] <= 1
    assert all(p.grad is not None for p in student.parameters())


def test_features_find_points_again_in_unseen_scenes(dino):
    drawn = scenes(60)
    moved = pictures([p.scene for p in edits(drawn)])
    got = features.evaluate(dino, drawn, moved)
    assert got["pck"] >= 0.83
    assert features.evaluate(dino, drawn, pictures(drawn))["pck"] < 0.3, "nothing moved there: the place is wrong"
