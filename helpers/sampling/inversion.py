"""Images back to noise: a deterministic solver run backwards (Song et al. 2021; Dhariwal & Nichol 2021).

A step of DDIM leads from x_t to x_s = alpha_s x0_hat + sigma_s eps; it is undone by

    x_t = alpha_t / alpha_s (x_s - sigma_s eps) + sigma_t eps,    eps = eps_theta(x_t, t)

which holds x_t on both sides. The usual inversion takes eps at x_s, which loses the image when steps are few; here that
is the first guess of a fixed-point iteration (Pan et al. 2023, "AIDI"). A step of Euler along a flow u is undone by
x_t = x_s + (sigma_t - sigma_s) u(x_t, t) in the same way. Always at CFG 1, with the image's prompt.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from helpers.backbones.backbone import Backbone, Text
from helpers.backbones.schedule import Level, Schedule
from helpers.backbones.solvers import Solver
from helpers.conditions import Prompt
from helpers.sampling.cost import Cost
from helpers.sampling.hooks import Ctx, Guidance, Job
from helpers.sampling.loop import initial


@dataclass
class Trajectory:
    """The latents of n images from x_T to x_0, where the steps of a solver begin and end.

    latents: (steps + 1, n, C, h, w). alphas: (steps + 1,), of their noise levels. psnr: (n,) dB, the source against
    what the solver at CFG 1 makes of x_T. autoencoder_psnr: (n,) dB, the source against its own encoding decoded, which
    bounds the former. Both are infinite for a recorded trajectory: its images are the sampler's own.
    """

    latents: torch.Tensor
    alphas: torch.Tensor
    psnr: torch.Tensor
    autoencoder_psnr: torch.Tensor

    @property
    def steps(self) -> int:
        return len(self.latents) - 1

    def part(self, images: list[int]) -> "Trajectory":
        """The trajectories of some of the images, in this order."""
        return Trajectory(self.latents[:, images], self.alphas, self.psnr[images], self.autoencoder_psnr[images])


def psnr(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Two (B, 3, H, W) in [0, 1] -> (B,) dB: 10 log10(1 / mean squared error)."""
    return -10 * (images - others).square().flatten(1).mean(1).log10()


@torch.no_grad()
def invert(
    backbone: Backbone,
    images: torch.Tensor,
    prompts: Sequence[str],
    steps: int,
    *,
    passes: int = 5,
    batch: int = 8,
    solver: str | None = None,
    cost: Cost | None = None,
) -> Trajectory:
    """The trajectories of images (n, 3, H, W) in [0, 1] under their prompts, for `steps` steps of the solver.

    passes: evaluations of the denoiser per step; 1 is the plain inversion. mini-sd at 20 steps: 36.7 dB with 1, 38.5
    with 3, where the autoencoder alone has 38.6; x_T has a standard deviation of .58 with 1, .80 with 3, .88 with 5,
    and only from nearly white noise can an image be changed. solver: its name, None for the model's usual one. cost:
    where forwards and decodes are counted. ValueError for images, prompts and numbers that do not fit and for a solver
    that cannot be run backwards; FloatingPointError for a trajectory that is not finite.
    """
    for name, value in (("passes", passes), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be a whole number, at least 1")
    chosen = backbone.solver(steps, solver)
    chosen.refuse("inversion, which runs it backwards", memory=True, random=True)
    _check_images(images, backbone.image_size)
    if isinstance(prompts, str) or len(prompts) != len(images):
        count = 1 if isinstance(prompts, str) else len(prompts)
        raise ValueError(f"there are {count} prompts for {len(images)} images: give one per image, in a list")
    texts = [prompt.text if isinstance(prompt, Prompt) else prompt for prompt in prompts]
    backbone.tokens.check(texts)
    cost = Cost() if cost is None else cost
    parts = [
        _invert(backbone, images[first : first + batch], texts[first : first + batch], chosen, passes)
        for first in range(0, len(images), batch)
    ]
    cost.forwards += len(images) * steps * (passes + 1)
    cost.decodes += 2 * len(images)
    latents, reached, possible = zip(*parts, strict=True)
    found = Trajectory(torch.cat(latents, 1), _alphas(chosen), torch.cat(reached), torch.cat(possible))
    fine = found.latents.transpose(0, 1).flatten(1).isfinite().all(1)
    if not fine.all():
        raise FloatingPointError(
            f"the inversion of image {int((~fine).nonzero()[0])} ({texts[int((~fine).nonzero()[0])]!r}) is not finite: "
            "use fewer passes, more steps or torch.float32"
        )
    return found


def _check_images(images: torch.Tensor, size: tuple[int, int]) -> None:
    tensor = isinstance(images, torch.Tensor)
    if not tensor or images.ndim != 4 or images.size(1) != 3 or not images.is_floating_point():
        what = f"{images.dtype} {tuple(images.shape)}" if tensor else f"{images!r:.60}"
        raise ValueError(f"images must be floats (n, 3, H, W) in [0, 1], not {what}")
    if not len(images):
        raise ValueError("there are no images to invert: give at least one")
    if images.shape[-2:] != size:
        raise ValueError(
            f"the images are {images.size(2)}x{images.size(3)}, the backbone draws {size[0]}x{size[1]}: resize them, "
            "or use backbone.at(height, width)"
        )
    for k, image in enumerate(images):
        if not image.isfinite().all():
            raise ValueError(f"image {k} has values that are not finite: give values in [0, 1]")
        if image.min() < -0.01 or image.max() > 1.01:
            raise ValueError(f"image {k} has values from {image.min():.3g} to {image.max():.3g}: scale them to [0, 1]")


def _alphas(solver: Solver) -> torch.Tensor:
    """(steps + 1,): alpha where the first step begins and where each ends."""
    return torch.stack([solver.starts[0].alpha, *(end.alpha for end in solver.ends)]).float().cpu()


def _invert(backbone: Backbone, images: torch.Tensor, texts: list[str], solver: Solver, passes: int):
    """(latents, psnr, autoencoder_psnr) of one batch."""
    images, text = images.to(backbone.device, backbone.dtype), backbone.encode_text(texts)
    latents = [backbone.encode(images)]
    for i in reversed(range(len(solver.timesteps))):
        latents.insert(0, _undone(backbone, latents[0], text, solver, i, passes))
    x_t = latents[0]
    for i, t in enumerate(solver.timesteps):
        x_t = solver.step(backbone.predict(x_t, t, text), i, x_t, [])
    drawn = (backbone.decode(x).clamp(0, 1).float() for x in (x_t, latents[-1]))
    return torch.stack(latents), *(psnr(one, images.float()).cpu() for one in drawn)


def _undone(backbone: Backbone, x_s: torch.Tensor, text: Text, solver: Solver, i: int, passes: int) -> torch.Tensor:
    """x_t from which step i of the solver leads to x_s."""
    x_t = x_s
    for _ in range(passes):
        pred = backbone.predict(x_t, solver.timesteps[i], text)
        if solver.kind.flow:
            x_t = x_s + (solver.starts[i].sigma - solver.ends[i].sigma) * pred
        else:
            eps = _eps(backbone.schedule, pred, x_t, x_s, solver.starts[i], solver.ends[i])
            x_t = solver.starts[i].alpha / solver.ends[i].alpha * (x_s - solver.ends[i].sigma * eps)
            x_t = x_t + solver.starts[i].sigma * eps
    return x_t


def _eps(schedule: Schedule, pred: torch.Tensor, x_t: torch.Tensor, x_s: torch.Tensor, t: Level, s: Level):
    """The noise in x_s. At alpha_t = 0 the model says x0 alone, and eps is what x_s holds beside it."""
    return schedule.to_eps(pred, x_t, t) if t.alpha > 0 else (x_s - s.alpha * schedule.to_x0(pred, x_t, t)) / s.sigma


def trajectory(steps: Iterable[Ctx]) -> Trajectory:
    """What `denoise(...)` passes through, to the end: a drawn image can then be edited without being inverted.

    The edit draws the image again only with the guidance with which it was recorded, CFG included; decoding the last
    latents gives the image.
    """
    latents = None
    for ctx in steps:
        if latents is None:
            job = ctx.job
            latents = torch.zeros(job.steps + 1, len(job.seeds), *ctx.x_prev.shape[1:]).to(ctx.x_prev)
        if not ctx.again:
            latents[ctx.i + 1, ctx.index] = ctx.x_prev
        if ctx.i == 0 and not ctx.again:
            latents[0, ctx.index] = initial(job, ctx.index)[0]
    if latents is None:
        raise ValueError("there were no steps to record: give what denoise(...) returns, once")
    exact = torch.full((latents.size(1),), torch.inf)
    return Trajectory(latents, _alphas(job.solver), exact, exact)


@dataclass(frozen=True, kw_only=True, eq=False)
class Inverted(Guidance):
    """x_T comes from a trajectory instead of noise: alone it draws the sources again, the baseline of every edit."""

    trajectory: Trajectory

    def setup(self, job: Job) -> Trajectory:
        check(self.trajectory, job)
        return self.trajectory

    def start(self, x_t: torch.Tensor, index: list[int], state: Trajectory) -> torch.Tensor:
        return state.latents[0, index].to(x_t)


def check(trajectory: Trajectory, job: Job) -> None:
    """ValueError when a trajectory does not belong to a run."""
    if not isinstance(trajectory, Trajectory):
        raise ValueError(f"{trajectory!r:.60} is no trajectory: make one with invert(...)")
    steps, images, shape = trajectory.steps, trajectory.latents.size(1), tuple(trajectory.latents.shape[2:])
    if steps != job.steps:
        raise ValueError(f"the trajectory has {steps} steps, the run {job.steps}: invert with steps={job.steps}")
    if images != len(job.prompts):
        raise ValueError(f"the trajectory has {images} images for {len(job.prompts)} prompts: give one per prompt")
    if shape != job.backbone.latent_shape:
        raise ValueError(
            f"the trajectory's latents are {shape}, the run's {job.backbone.latent_shape}: invert with this backbone"
        )
    if not torch.allclose(trajectory.alphas, _alphas(job.solver), atol=1e-4, rtol=0):
        raise ValueError(
            f"the trajectory has other noise levels than the solver {job.solver.name!r}: invert with the run's solver"
        )
