"""Inversion: what a solver draws from the inverted latents is the source, of Stable Diffusion and of a flow."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from helpers.backbones.load import load_backbone, wrap
from helpers.guidance.cfg import CFG
from helpers.miniature.drags import make_case
from helpers.sampling.cost import Cost
from helpers.sampling.hooks import Guidance, Recurrence
from helpers.sampling.inversion import Inverted, invert, psnr, trajectory
from helpers.sampling.loop import denoise, sample

CASES = [make_case("dev", k) for k in range(3)]
SOURCES, PROMPTS = torch.stack([case.drag.image() for case in CASES]), [case.prompt for case in CASES]
STEPS = 10


@pytest.fixture(scope="module")
def mini():
    return load_backbone("mini-sd", device="cpu")


def test_psnr():
    image = torch.full((1, 3, 4, 4), 0.5)
    assert psnr(image, image + 0.1).item() == pytest.approx(20, abs=1e-4)


def flowing(pipe):
    """The same pipeline as a flow: its U-Net, untrained, says u = eps - x0."""
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return wrap(pipe)


def zero_terminal(pipe):
    """The same pipeline with noise schedule whose last timestep has alpha 0."""
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, rescale_betas_zero_snr=True)
    return wrap(pipe)


KINDS = {"epsilon": lambda make: wrap(make("epsilon")), "flow": lambda make: flowing(make())}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [10, 6])  # at 6 steps DDIM does not land on its next timestep
def test_a_prediction_that_does_not_depend_on_x_t_is_inverted_exactly(make_pipeline, monkeypatch, kind, steps):
    backbone = KINDS[kind](make_pipeline)
    eps = torch.randn(3, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(backbone, "predict", lambda x_t, t, text: eps[: len(x_t)] * t / 1000)
    found = invert(backbone, SOURCES, PROMPTS, steps, passes=1)
    run = sample(backbone, PROMPTS, [Inverted(trajectory=found)], steps=steps)
    torch.testing.assert_close(run.latents, found.latents[-1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["v_prediction", "flow", "zero_terminal"])
def test_the_fixed_point_is_the_exact_inverse_of_the_solver(make_pipeline, kind):
    """In double precision, of an untrained model that predicts v (of eps the iteration need not contract); also where
    the noisiest level has alpha 0, of which eps alone says nothing."""
    pipe = make_pipeline("v_prediction").to(torch.float64)
    backbone = {"v_prediction": wrap, "flow": flowing, "zero_terminal": zero_terminal}[kind](pipe)
    assert (backbone.solver(STEPS).starts[0].alpha == 0) == (kind != "v_prediction")
    found = invert(backbone, SOURCES[:1].double(), PROMPTS[:1], STEPS, passes=60)
    run = sample(backbone, PROMPTS[:1], [Inverted(trajectory=found)], steps=STEPS)
    torch.testing.assert_close(run.latents.double(), found.latents[-1], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.psnr, found.autoencoder_psnr, atol=1e-3, rtol=0)


def test_it_reports_what_sampling_reaches(mini):
    found = invert(mini, SOURCES, PROMPTS, STEPS, batch=2)
    assert found.latents.shape == (STEPS + 1, 3, *mini.latent_shape) and found.steps == STEPS
    run = sample(mini, PROMPTS, [Inverted(trajectory=found)], steps=STEPS)
    torch.testing.assert_close(psnr(run.images, SOURCES), found.psnr, atol=1e-2, rtol=0)
    assert torch.equal(found.latents[-1][:2], mini.encode(SOURCES[:2]))
    with torch.no_grad():
        decoded = mini.decode(found.latents[-1]).clamp(0, 1)
    torch.testing.assert_close(psnr(decoded, SOURCES), found.autoencoder_psnr, atol=1e-2, rtol=0)
    assert (found.autoencoder_psnr - found.psnr < 1).all() and (found.psnr > 33).all()


def test_more_passes_come_nearer(mini):
    once, often = (invert(mini, SOURCES, PROMPTS, STEPS, passes=n) for n in (1, 4))
    assert (often.psnr > once.psnr + 1).all()
    assert (1 - often.latents[0].std() < 1 - once.latents[0].std() - 0.1).all()  # x_T is whiter


def test_costs_are_counted(tiny):
    cost = Cost(images=3)
    invert(tiny, SOURCES, PROMPTS, 4, passes=2, cost=cost)
    assert (cost.forwards, cost.decodes) == (3 * (4 * 2 + 4), 6)


def test_a_recorded_trajectory_draws_the_run_again(tiny):
    recorded = trajectory(denoise(tiny, PROMPTS, [CFG(5)], steps=4, batch=2))
    run = sample(tiny, PROMPTS, [CFG(5)], steps=4, batch=2)
    assert torch.equal(recorded.latents[-1], run.latents) and recorded.psnr.isinf().all()
    again = sample(tiny, PROMPTS, [CFG(5), Inverted(trajectory=recorded)], steps=4, seeds=[7, 8, 9], batch=2)
    assert torch.equal(again.images, run.images)


def test_a_recorded_trajectory_starts_before_all_that_moves_x_t(tiny):
    class Moving(Guidance):
        recurrence = Recurrence(2)

        def before(self, ctx, state):
            return ctx.x_t * 0.9

    recorded = trajectory(denoise(tiny, PROMPTS[:1], [Moving()], steps=4, seeds=[3]))
    noise = torch.randn(tiny.latent_shape, generator=torch.Generator().manual_seed(3))
    assert torch.equal(recorded.latents[0, 0], noise)
    assert torch.equal(recorded.latents[-1], sample(tiny, PROMPTS[:1], [Moving()], steps=4, seeds=[3]).latents)


def test_nothing_to_record_is_refused():
    with pytest.raises(ValueError, match=r"there were no steps to record: give what denoise\(...\) returns"):
        trajectory(iter([]))


def test_sources_of_another_precision_are_cast(make_pipeline):
    half = wrap(make_pipeline().to(torch.bfloat16))
    found = invert(half, SOURCES[:1].double(), PROMPTS[:1], 2, passes=1)
    assert found.latents.dtype == torch.bfloat16 and found.psnr.dtype == torch.float32 and found.psnr.isfinite().all()


NAN = SOURCES.clone()
NAN[1, 0, 3, 3] = torch.nan


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompts": PROMPTS[:1]}, "1 prompts for 3 images: give one per image"),
        ({"prompts": "a red ball"}, "1 prompts for 3 images: give one per image, in a list"),
        ({"prompts": ["red " * 90] * 3}, "92 tokens .* reads 77: shorten it"),
        ({"passes": 0}, "passes=0 must be a whole number, at least 1"),
        ({"passes": 1.5}, "passes=1.5 must be a whole number, at least 1"),
        ({"batch": 0}, "batch=0 must be a whole number, at least 1"),
        ({"steps": 2.5}, "steps=2.5 must be a whole number from 1 to 1000"),
        ({"steps": 0}, "steps=0 must be a whole number from 1 to 1000"),
        ({"images": NAN}, "image 1 has values that are not finite"),
        ({"images": 255 * SOURCES}, r"image 0 has values from .* to 2.*: scale them to \[0, 1\]"),
        ({"images": (255 * SOURCES).byte()}, r"images must be floats \(n, 3, H, W\) in \[0, 1\], not torch.uint8"),
        ({"images": SOURCES[:, :1]}, r"images must be floats .*, not torch.float32 \(3, 1, 64, 64\)"),
        ({"images": SOURCES[0]}, r"not torch.float32 \(3, 64, 64\)"),
        ({"images": SOURCES[..., :32]}, r"are 64x32, the backbone draws 64x64: resize them, or use backbone.at"),
        ({"images": SOURCES[:0], "prompts": []}, "there are no images to invert"),
        ({"images": None}, "images must be floats .* not None"),
        ({"solver": "dpm"}, "'dpm' cannot serve inversion, which runs it backwards: use solver='ddim'"),
        ({"solver": "ddpm"}, "'ddpm' cannot serve inversion, which runs it backwards: use solver='ddim'"),
        ({"solver": "euler"}, "'euler' does not serve this model: use one of ddim"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(tiny, monkeypatch, wrong, message):
    monkeypatch.setattr(tiny, "encode", lambda images: pytest.fail("work was done"))
    with pytest.raises(ValueError, match=message):
        invert(tiny, **{"images": SOURCES, "prompts": PROMPTS, "steps": 4} | wrong)


def test_what_is_not_finite_is_named(tiny, monkeypatch):
    predict = tiny.predict

    def broken(x_t, t, text):
        pred = predict(x_t, t, text)
        pred[-1] = torch.nan
        return pred

    monkeypatch.setattr(tiny, "predict", broken)
    with pytest.raises(FloatingPointError, match="the inversion of image 2 .* is not finite: use fewer passes"):
        invert(tiny, SOURCES, PROMPTS, 4)


def test_trajectories_of_other_runs_are_refused(tiny):
    found = invert(tiny, SOURCES, PROMPTS, 6, passes=1)
    with pytest.raises(ValueError, match="the trajectory has 6 steps, the run 4: invert with steps=4"):
        sample(tiny, PROMPTS, [Inverted(trajectory=found)], steps=4)
    with pytest.raises(ValueError, match="the trajectory has 3 images for 2 prompts: give one per prompt"):
        sample(tiny, PROMPTS[:2], [Inverted(trajectory=found)], steps=6)
    with pytest.raises(ValueError, match="other noise levels than the solver 'dpm': invert with the run's solver"):
        sample(tiny, PROMPTS, [Inverted(trajectory=found)], steps=6, solver="dpm")
    with pytest.raises(ValueError, match=r"None is no trajectory: make one with invert\(...\)"):
        sample(tiny, PROMPTS, [Inverted(trajectory=None)], steps=6)
    part = sample(tiny, PROMPTS[2:], [Inverted(trajectory=found.part([2]))], steps=6)
    whole = sample(tiny, PROMPTS, [Inverted(trajectory=found)], steps=6)
    torch.testing.assert_close(part.images, whole.images[2:], atol=1e-4, rtol=0)
