"""FG-DM's models: what they are trained on, and what the published ones keep, show and follow."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from helpers.factor_graph.factor import Conditions, load_factor
from helpers.guidance.cfg import CFG
from helpers.judges.loading import load_judge
from helpers.metrics.layout import score
from helpers.miniature.maps import MAPS, segmentation
from helpers.paths import MODELS, weights
from helpers.sampling.loop import sample
from helpers.training import diffusion, fgdm_autoencoder, fgdm_image, fgdm_segmentation
from helpers.training.held_out import caption_cases, held_out
from helpers.training.loop import Scenes


@pytest.fixture(scope="module")
def extended():
    return AutoencoderKL.from_pretrained(weights("fgdm-autoencoder")).eval()


def test_the_autoencoder_sees_a_picture_and_one_of_its_maps():
    data = Scenes(fgdm_autoencoder.SEED, fgdm_autoencoder.view, 40)
    seen = set()
    for i in range(40):
        picture, shown = data[i]
        scene = Scenes(fgdm_autoencoder.SEED, lambda scene, rng: scene, 40)[i]
        (name,) = [name for name, draw in MAPS.items() if np.array_equal(draw(scene), shown)]
        seen.add(name)
        assert picture.shape == shown.shape == (64, 64, 3)
    assert seen == set(MAPS)


def test_its_loss_holds_latents_to_the_old_ones(extended):
    old = AutoencoderKL.from_pretrained(weights("autoencoder")).eval()
    items = torch.from_numpy(np.stack([Scenes(5, fgdm_autoencoder.view, 4)[i] for i in range(4)]))
    value, parts = fgdm_autoencoder.loss(old)(old, items, torch.Generator().manual_seed(0))
    assert parts["drift"] == 0 and value > 0
    parts = fgdm_autoencoder.loss(old)(extended, items, torch.Generator().manual_seed(0))[1]
    assert 0 < parts["drift"] < 0.01


def test_the_published_autoencoder_keeps_objects_and_pictures(extended):
    scenes, images = held_out(60)
    assert fgdm_autoencoder.round_trip(extended, scenes) >= 0.98
    assert fgdm_autoencoder.round_trip(extended, scenes, stride=2) >= 0.93
    old = AutoencoderKL.from_pretrained(weights("autoencoder")).eval()
    assert fgdm_autoencoder.round_trip(old, scenes) < 0.5, "mini-sd's own cannot, so the other is needed"
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1)
    assert fgdm_autoencoder.drift(extended, old, pixels) < 0.005 and fgdm_autoencoder.drift(old, old, pixels) == 0


def test_no_published_model_names_a_folder_of_the_machine_that_trained_it():
    stated = [(path, json.loads(path.read_text()).get("_name_or_path")) for path in MODELS.rglob("config.json")]
    assert len(stated) > 10 and not [path for path, name in stated if name and Path(name).is_absolute()]


def test_what_is_encoded_can_be_chosen(extended, tmp_path):
    maps = diffusion.EncodedScenes(extended, tmp_path / "maps", 4, 8, picture=segmentation)
    pictures = diffusion.EncodedScenes(extended, tmp_path / "pictures", 4, 8)
    assert maps.scenes == pictures.scenes and not np.allclose(maps.latents, pictures.latents, atol=0.1)
    with torch.no_grad():
        decoded = extended.decode(torch.from_numpy(maps.latents.astype(np.float32))).sample / 2 + 0.5
    truth = np.stack([segmentation(scene) for scene in maps.scenes]) / 255
    assert np.abs(decoded.permute(0, 2, 3, 1).numpy() - truth).mean() < 0.02
    with pytest.raises(ValueError, match="holds 4 encoded scenes, not 5"):
        diffusion.EncodedScenes(None, tmp_path / "maps", 5, 8)


def test_maps_are_read_against_captions():
    cases = caption_cases(12)
    scenes = {f"scene-{i:03d}": scene for i, scene in enumerate(held_out(500)[0])}
    truth = np.stack([segmentation(scenes[case.id]) for case in cases])
    assert fgdm_segmentation.read(truth, cases) == {"recall": 1.0, "recall_kind": 1.0, "extra": 0.0}
    nothing = fgdm_segmentation.read(np.zeros_like(truth), cases)
    assert nothing == {"recall": 0.0, "recall_kind": 0.0, "extra": 0.0}


def test_the_picture_factor_is_shown_any_subset_of_maps(tmp_path):
    pipe = StableDiffusionPipeline.from_pretrained(weights("mini-sd"))
    data = fgdm_image.Scenes(pipe.vae, tmp_path, 6, 200, fgdm_image.SEED)
    given = []
    for i in range(60):
        latent, maps, ids = data[i]
        assert latent.shape == (4, 16, 16) and maps.shape == (16, 64, 64) and ids.shape == (77,)
        there = maps.view(4, 4, 64, 64)[:, 3]
        assert all(flag.unique().numel() == 1 for flag in there)
        assert (maps.view(4, 4, 64, 64)[there[:, 0, 0] == 0] == 0).all()
        given.append(int(there[:, 0, 0].sum()))
        if there[0, 0, 0]:
            truth = torch.from_numpy(segmentation(data.scenes[data.place(i)[0]])).permute(2, 0, 1) / 255
            assert torch.equal(maps[:3], truth)
    assert {1, 4} <= set(given) and given.count(1) > 15


def test_only_the_controlnet_is_trained(tmp_path):
    pipe = StableDiffusionPipeline.from_pretrained(weights("mini-sd"))
    model = fgdm_image.Steered(pipe)
    data = fgdm_image.Scenes(pipe.vae, tmp_path, 2, 200, fgdm_image.SEED)
    batch = [torch.stack([torch.as_tensor(part) for part in parts]) for parts in zip(data[0], data[1])]
    value, _ = fgdm_image.loss(model, batch, torch.Generator().manual_seed(0))
    value.backward()
    trained = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"control"}
    assert model.control.controlnet_mid_block.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.unet.parameters())


def test_the_published_factors_plan_and_follow_the_plan():
    """Of captions of one to four objects: maps show them, pictures have them where the maps do."""
    cases = caption_cases(24)
    prompts, seeds = [case.prompt for case in cases], [case.seed for case in cases]
    planned = sample(load_factor("fgdm-segmentation"), prompts, [CFG(3.0)], steps=10, seeds=seeds, progress=False)
    found = fgdm_segmentation.read((planned.images * 255).round().byte().permute(0, 2, 3, 1).numpy(), cases)
    assert found["recall"] >= 0.8 and found["recall_kind"] >= found["recall"]
    scenes = {f"scene-{i:03d}": scene for i, scene in enumerate(held_out(500)[0])}
    truth = np.stack([segmentation(scenes[case.id]) for case in cases[:8]])
    maps = {"segmentation": torch.from_numpy(truth).permute(0, 3, 1, 2) / 255}
    painter, judge = load_factor("fgdm-image"), load_judge("judge")
    ious = {}
    for name, conditions in (("with", [Conditions(maps=maps)]), ("without", [])):
        methods = [*conditions, CFG(5.0)]
        drawn = sample(painter, prompts[:8], methods, steps=10, seeds=seeds[:8], progress=False).images
        seen = judge.recognise(drawn)
        ious[name] = np.mean([score(case, objects, case.background)["box_iou"] for case, objects in zip(cases, seen)])
    assert ious["with"] >= 0.75 and ious["without"] < 0.4
