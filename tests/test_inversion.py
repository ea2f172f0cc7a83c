"""Inversion: what DDIM draws from the inverted latents is the source; more passes come nearer; recorded runs repeat."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from helpers.backbones import Backbone, load_backbone
from helpers.cost import Cost
from helpers.guidance import CFG
from helpers.inversion import Inverted, Recorder, invert, psnr
from helpers.miniature.drags import make_case
from helpers.sampling import sample

CASES = [make_case("dev", k) for k in range(3)]
SOURCES, PROMPTS = torch.stack([case.drag.image() for case in CASES]), [case.prompt for case in CASES]
STEPS = 10


@pytest.fixture(scope="module")
def mini():
    return load_backbone("mini-sd", device="cpu")


def test_psnr():
    image = torch.full((1, 3, 4, 4), 0.5)
    assert psnr(image, image + 0.1).item() == pytest.approx(20, abs=1e-4)


def test_a_prediction_that_does_not_depend_on_x_t_is_inverted_exactly(make_pipeline, monkeypatch):
    backbone = Backbone(make_pipeline("epsilon"))
    eps = torch.randn(3, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(backbone, "predict", lambda x_t, t, text: eps[: len(x_t)] * t / 1000)
    trajectory = invert(backbone, SOURCES, PROMPTS, STEPS, passes=1)
    run = sample(backbone, PROMPTS, [Inverted(trajectory)], steps=STEPS)
    torch.testing.assert_close(run.latents, trajectory.latents[-1], atol=1e-4, rtol=0)


def test_the_fixed_point_is_the_exact_inverse_of_the_solver(make_pipeline):
    """In double precision, of an untrained model that predicts v (of eps the iteration need not contract)."""
    backbone = Backbone(make_pipeline("v_prediction").to(torch.float64))
    images = SOURCES[:2].double()
    trajectory = invert(backbone, images, PROMPTS[:2], STEPS, passes=60)
    run = sample(backbone, PROMPTS[:2], [Inverted(trajectory)], steps=STEPS)
    torch.testing.assert_close(run.latents.double(), trajectory.latents[-1], atol=1e-4, rtol=0)
    torch.testing.assert_close(trajectory.psnr, trajectory.autoencoder_psnr, atol=1e-3, rtol=0)


def test_it_reports_what_sampling_reaches(mini):
    trajectory = invert(mini, SOURCES, PROMPTS, STEPS, batch=2)
    assert trajectory.latents.shape == (STEPS + 1, 3, *mini.latent_shape) and trajectory.steps == STEPS
    run = sample(mini, PROMPTS, [Inverted(trajectory)], steps=STEPS)
    torch.testing.assert_close(psnr(run.images, SOURCES), trajectory.psnr, atol=1e-2, rtol=0)
    assert torch.equal(trajectory.latents[-1][:2], mini.encode(SOURCES[:2]))
    with torch.no_grad():
        decoded = mini.decode(trajectory.latents[-1]).clamp(0, 1)
    torch.testing.assert_close(psnr(decoded, SOURCES), trajectory.autoencoder_psnr, atol=1e-2, rtol=0)
    assert (trajectory.autoencoder_psnr - trajectory.psnr < 1).all() and (trajectory.psnr > 33).all()


def test_more_passes_come_nearer(mini):
    once, often = (invert(mini, SOURCES, PROMPTS, STEPS, passes=n) for n in (1, 4))
    assert (often.psnr > once.psnr + 1).all()
    assert (1 - often.latents[0].std() < 1 - once.latents[0].std() - 0.1).all()  # x_T is whiter


def test_costs_are_counted(tiny):
    cost = Cost(images=3)
    invert(tiny, SOURCES, PROMPTS, 4, passes=2, cost=cost)
    assert (cost.forwards, cost.decodes) == (3 * (4 * 2 + 4), 6)


def test_recorder_keeps_the_run(tiny):
    recorder = Recorder()
    run = sample(tiny, PROMPTS, [CFG(5), recorder], steps=4, batch=2)
    assert torch.equal(recorder.trajectory.latents[-1], run.latents)
    again = sample(tiny, PROMPTS, [CFG(5), Inverted(recorder.trajectory)], steps=4, seeds=[7, 8, 9], batch=2)
    assert torch.equal(again.images, run.images)
    assert torch.equal(run.images, sample(tiny, PROMPTS, [CFG(5)], steps=4, batch=2).images)


def test_refusals(tiny, make_pipeline):
    with pytest.raises(ValueError, match="1 prompts for 3 images: give one per image"):
        invert(tiny, SOURCES, PROMPTS[:1], 4)
    with pytest.raises(ValueError, match="passes=0 must be at least 1"):
        invert(tiny, SOURCES, PROMPTS, 4, passes=0)
    pipe = make_pipeline()
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match="EulerDiscreteScheduler cannot be run backwards: .* DDIMScheduler"):
        invert(Backbone(pipe), SOURCES, PROMPTS, 4)
