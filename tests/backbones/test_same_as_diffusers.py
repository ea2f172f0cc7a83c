"""Without guidance and with CFG the loop draws what diffusers' own pipeline draws, on every architecture."""

import pytest
import torch
from diffusers import StableDiffusionPipeline
from tiny_pipelines import PIPELINES, tiny_backbone

from helpers.backbones.solvers import SOLVERS, names
from helpers.conditions import Prompt
from helpers.guidance.cfg import CFG
from helpers.sampling.loop import sample

PROMPTS = ["a red car on the grass", "a blue fish left of a ball"]


def theirs(backbone, solver, cfg, steps=3, **text):
    """Pictures of the pipeline itself, its scheduler replaced by the solver's, from the same noise."""
    kind = SOLVERS[solver]
    parts = backbone.pipe.components | {"scheduler": kind.scheduler.from_config(backbone.pipe.scheduler.config)}
    if isinstance(backbone.pipe, StableDiffusionPipeline):
        parts["requires_safety_checker"] = False
    pipe = type(backbone.pipe)(**parts)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    latents = torch.stack([torch.randn(backbone.latent_shape, generator=g) for g in generators])
    height, width = backbone.image_size
    return pipe(
        PROMPTS,
        latents=latents,
        generator=generators,
        guidance_scale=cfg,
        num_inference_steps=steps,
        height=height,
        width=width,
        output_type="pt",
        **text,
    ).images


CASES = [(n, solver) for n in PIPELINES for solver in (["euler"] if n.startswith("sd3") else ["ddim", "ddpm", "dpm"])]


@pytest.mark.parametrize("name, solver", CASES)
@pytest.mark.parametrize("cfg", [None, 5.0])
def test_pictures_are_the_pipelines_own(name, solver, cfg):
    backbone = tiny_backbone(name)
    run = sample(backbone, PROMPTS, [CFG(cfg)] if cfg else [], steps=3, solver=solver)
    torch.testing.assert_close(run.images, theirs(backbone, solver, cfg or 1.0), atol=1e-4, rtol=0)
    assert run.images.std() > 0.05


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_negative_prompts_reach_every_encoder(name):
    backbone = tiny_backbone(name)
    run = sample(backbone, [Prompt(text=p, negative="a blue car") for p in PROMPTS], [CFG(5.0)], steps=3)
    expected = theirs(backbone, names(backbone.schedule)[0], 5.0, negative_prompt=["a blue car"] * 2)
    torch.testing.assert_close(run.images, expected, atol=1e-4, rtol=0)
    assert not torch.allclose(run.images, sample(backbone, PROMPTS, [CFG(5.0)], steps=3).images, atol=1e-4)


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3"])
def test_another_size_is_drawn_as_theirs(name):
    backbone = tiny_backbone(name).at(64, 96) if name != "sd3" else tiny_backbone(name).at(72, 96)
    run = sample(backbone, PROMPTS, [CFG(5.0)], steps=2)
    assert run.images.shape[2:] == backbone.image_size and backbone.image_size[1] == 96
    torch.testing.assert_close(
        run.images, theirs(backbone, names(backbone.schedule)[0], 5.0, steps=2), atol=1e-4, rtol=0
    )
