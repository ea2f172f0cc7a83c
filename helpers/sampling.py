"""The one sampler. Everything a method does, it does through the hooks of `helpers.guidance.base.Guidance`."""

import copy
import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from helpers.attention import attention
from helpers.backbones import Backbone
from helpers.conditions import Prompt
from helpers.cost import Cost
from helpers.guidance.base import Branch, Ctx, Guidance, Job
from helpers.guidance.gradient import Update, gradient_update
from helpers.guidance.strength import rms
from helpers.trace import Trace

SINGLE_STEP = ("DDIMScheduler", "DDPMScheduler")  # solvers without memory of earlier predictions


@dataclass
class Run:
    """What `sample` returns, on the CPU.

    images: (n, 3, H, W) float32 in [0, 1]. latents: (n, 4, h, w). curves: name -> (n, steps), NaN where not computed:
    "eff_cfg" (the CFG scale that the final prediction amounts to), "grad_rms", "update_rms", "cosine.<method>.<method>"
    (of gradients, where strength rules differ), "<method>" (its loss) and "<method>.<term>". warnings: what was
    skipped, in words.
    """

    images: torch.Tensor
    latents: torch.Tensor
    prompts: list[str]
    seeds: list[int]
    cost: Cost
    curves: dict[str, torch.Tensor] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def eff_cfg(self) -> torch.Tensor:
        """(n,) effective CFG scale, mean over the steps that had an unconditional branch; NaN where none had."""
        return self.curves.get("eff_cfg", torch.full((len(self.seeds), 1), torch.nan)).nanmean(1)


def sample(
    backbone: Backbone,
    prompts: str | Prompt | Sequence[str | Prompt],
    guidance: Sequence[Guidance] = (),
    steps: int = 50,
    seeds: Sequence[int] | None = None,
    batch: int = 8,
    trace: Trace | None = None,
    strict: bool = False,
) -> Run:
    """Draw one image per prompt.

        x_T = start(z), z ~ N(0, I)                                                        e.g. inverted latents
        for t = T ... 1:
            x_t  = before(x_t)                                                              e.g. moved by a gradient
            eps  = combine(eps_theta(x_t, t, branch) for every branch)                 classifier-free guidance and kin
            g    = sum of weight * energy(x0_hat(x_t, eps), decode(x0_hat), ...)       inside the methods' windows
            eps' = eps + strength(grad g)                                              one backward through all of it
            x_{t-1} = after(solver(x_t, eps'))                                         e.g. a background kept
            x_t ~ q(x_t | x_{t-1}), and again                                          with recurrence
         or x_t <- refine(x_t, eps' - eps), and again, before the solver's step        with recurrence without noise

    guidance: methods; with an empty list the model follows the prompt without CFG. seeds: one per image, 0, 1, ... by
    default; an image's noise depends on its own seed only. batch: images at a time, which bounds memory; it changes the
    rounding, which leaves unguided images as they are but which the gradient of a trained guide amplifies two- to
    threefold at every guided step: with batch=1 an image is bit for bit the same whatever else the run draws. trace:
    records chosen images. strict: a gradient that is not finite raises FloatingPointError; otherwise that image's
    update is skipped and said in Run.warnings. ValueError for wrong arguments.
    """
    job = _job(backbone, prompts, seeds, steps, batch, guidance, strict)
    job.cost.start(backbone.device)
    with torch.no_grad():
        job.text = job.encode([prompt.text for prompt in job.prompts])
        for method in guidance:
            method.setup(job)
        for method in guidance:
            job.text = method.encode(job.text, job)
        if trace:
            trace.begin(job, guidance)
        run = Run(None, None, [p.text for p in job.prompts], job.seeds, job.cost)
        parts = [
            _denoise(job, list(range(n, min(n + batch, len(job.seeds)))), guidance, trace, run)
            for n in range(0, len(job.seeds), batch)
        ]
    run.latents, run.images = (torch.cat(kind).float().cpu() for kind in zip(*parts, strict=True))
    job.cost.stop(backbone.device)
    if trace:
        trace.end(run)
    return run


def initial_noise(backbone: Backbone, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """x_T: standard normal, one CPU generator per image."""
    noise = [torch.randn(backbone.latent_shape, generator=g) for g in generators]
    return torch.stack(noise).to(backbone.device, backbone.dtype)


def _job(backbone, prompts, seeds, steps, batch, guidance, strict) -> Job:
    """Checked arguments."""
    prompts = [prompts] if isinstance(prompts, str | Prompt) else list(prompts)
    prompts = [Prompt(text=p) if isinstance(p, str) else p for p in prompts]
    seeds = list(range(len(prompts))) if seeds is None else [int(s) for s in seeds]
    if not prompts:
        raise ValueError("there are no prompts: give at least one")
    if len(seeds) != len(prompts):
        raise ValueError(f"there are {len(seeds)} seeds for {len(prompts)} prompts: give one seed per image")
    if batch < 1:
        raise ValueError(f"batch={batch} must be at least 1")
    for method in guidance:
        if not isinstance(method, Guidance):
            raise ValueError(f"guidance holds {method!r}, which is no Guidance: pass objects such as CFG(7.5)")
    scheduler = backbone.scheduler()
    solver = type(scheduler).__name__
    if scheduler.init_noise_sigma != 1:
        raise ValueError(f"{solver} works on x_t / sqrt(alpha_bar), this loop on x_t: use {' or '.join(SINGLE_STEP)}")
    repeated = [method.name for method in guidance if method.recurrence.times > 1 and method.recurrence.noise]
    if repeated and solver not in SINGLE_STEP:
        raise ValueError(
            f"{solver} remembers earlier steps and cannot repeat one, as the recurrence of {' and '.join(repeated)} "
            f"asks: use {' or '.join(SINGLE_STEP)}, or Recurrence without noise"
        )
    most = scheduler.config.num_train_timesteps
    if not 1 <= steps <= most:
        raise ValueError(f"steps={steps} must be between 1 and {most}, what the model was trained with")
    scheduler.set_timesteps(steps, device=backbone.device)
    return Job(backbone, prompts, seeds, scheduler, Cost(images=len(prompts)), strict=strict)


def _denoise(job, index, guidance, trace, run):
    """The loop over t for the images `index`; returns (latents, images)."""
    backbone, scheduler = job.backbone, copy.deepcopy(job.scheduler)
    generators = [torch.Generator().manual_seed(job.seeds[k]) for k in index]
    own_noise = {"generator": generators} if "generator" in inspect.signature(scheduler.step).parameters else {}
    x_t = initial_noise(backbone, generators)
    for method in guidance:
        x_t = method.start(x_t, index)
    for i, t in enumerate(scheduler.timesteps):
        ctx = Ctx(job, index, i, t, x_t)
        acting = [method for method in guidance if method.active(ctx)]
        times = {method: method.times(ctx) for method in acting}
        refines = not any(n > 1 and method.recurrence.noise for method, n in times.items())
        for again in reversed(range(max([1, *times.values()]))):
            ctx = Ctx(job, index, i, t, x_t)
            for method in acting:
                ctx.x_t = method.before(ctx)
            x_t = ctx.x_t
            energies = [method for method in acting if method.energy is not None]
            with _attention(ctx, acting, guidance if trace and trace.rows(index) else acting) as ctx.attention:
                with torch.set_grad_enabled(bool(energies)):
                    x_t.requires_grad_(bool(energies))
                    predict(ctx, acting)
                    found = {method: method.energy(ctx) for method in energies}
                pred = ctx.pred.detach()
                if found:
                    update = gradient_update(ctx, found)
                    pred = backbone.shift(pred, update.eps, t)
                    _note(ctx, update, run)
            _warn(ctx, run)
            _record(ctx, pred, found, guidance, trace, run)
            x_t = x_t.detach()
            if again and refines:
                x_t = _refine(ctx, update.eps) if found else x_t
                continue
            x_prev = scheduler.step(pred, t, x_t, return_dict=False, **own_noise)[0]
            for method in guidance:
                x_prev = method.after(x_prev, ctx)
            if again:
                x_t = _renoise(ctx, x_prev, generators)
        x_t = x_prev
    job.cost.decodes += len(index)
    return x_t, backbone.decode(x_t).clamp(0, 1)


def predict(ctx: Ctx, acting: Sequence[Guidance]) -> None:
    """Every branch in one forward, the prompt's first, then combined in list order: fills ctx.preds and ctx.pred."""
    cond = Branch("cond", ctx.rows(ctx.job.text))
    branches = {b.name: b for b in (cond, *(b for method in acting for b in method.branches(ctx)))}
    text = {key: torch.cat([branch.text[key] for branch in branches.values()]) for key in cond.text}
    x_t = [ctx.x_t if branch.x_t is None else branch.x_t for branch in branches.values()]
    raw = ctx.backbone.predict(torch.cat(x_t), ctx.t, text)
    ctx.cost.forwards += len(raw)
    ctx.preds = dict(zip(branches, raw.chunk(len(branches)), strict=True))
    ctx.pred = ctx.preds["cond"]
    for method in acting:
        ctx.pred = method.combine(ctx.pred, ctx)


def _attention(ctx: Ctx, acting: Sequence[Guidance], reading: Sequence[Guidance]):
    """Where the methods edit the attention of the prompt's branch, and what of it they read."""
    read = list(dict.fromkeys(method.layers for method in reading if method.layers))
    edits = [edit for method in acting for edit in method.edits(ctx)]
    return attention(ctx.backbone.pipe.unet, ctx.x_t.shape[-2:], len(ctx.index), read, edits)


def _renoise(ctx: Ctx, x_prev, generators):
    """x_t ~ q(x_t | x_{t-1}) = N(sqrt(a) x_{t-1}, (1 - a) I), a = alpha_bar_t / alpha_bar_{t-1}  (recurrence)."""
    a = ctx.alpha_bar / ctx.alpha_bar_next
    return a.sqrt() * x_prev + (1 - a).sqrt() * initial_noise(ctx.backbone, generators)


def _refine(ctx: Ctx, update: torch.Tensor) -> torch.Tensor:
    """x_t - sigma_t update, at x_t's own size: x0_hat(x_t, eps + update) under the noise eps that the model found.

    Without the rescaling many small steps make x_t longer than any that the denoiser has seen (Yang et al. 2024, DSG).
    """
    x_t = ctx.x_t.detach()
    moved = x_t - ctx.sigma * update
    return moved * (rms(x_t) / rms(moved))


def _note(ctx: Ctx, update: Update, run: Run) -> None:
    _curve(run, "grad_rms", ctx, update.grad_rms)
    _curve(run, "update_rms", ctx, rms(update.eps).flatten())
    for pair, values in update.cosines.items():
        _curve(run, f"cosine.{pair}", ctx, values)


def _warn(ctx: Ctx, run: Run) -> None:
    for message in ctx.skipped:
        run.warnings.append(f"{message}; its update was skipped")
        warnings.warn(run.warnings[-1], stacklevel=4)


def _record(ctx: Ctx, pred, found, guidance, trace, run) -> None:
    """Curves of all images; for the Trace's images also the methods outside their window, seen but not acting."""
    if "uncond" in ctx.preds:
        uncond = ctx.preds["uncond"]
        delta = ctx.preds["cond"] - uncond
        _curve(run, "eff_cfg", ctx, ((pred - uncond) * delta).flatten(1).sum(1) / delta.square().flatten(1).sum(1))
    for name, values in ctx.notes.items():
        _curve(run, name, ctx, values)
    for method, (loss, info) in found.items():
        _curve(run, method.name, ctx, loss)
        for key, value in info.items():
            if value.ndim == 1:
                _curve(run, f"{method.name}.{key}", ctx, value)
    rows = trace.rows(ctx.index) if trace else []
    if rows:
        with ctx.cost.paused(ctx.x_t.device):
            part = ctx.part(rows)
            others = [method for method in guidance if method.energy is not None and method not in found]
            seen = {method: method.energy(part) for method in others}
            for method, (loss, info) in found.items():
                seen[method] = loss.detach()[rows], {key: value[rows] for key, value in info.items()}
            trace.record(part, seen, {method: method.show(part) for method in guidance})


def _curve(run: Run, name: str, ctx: Ctx, values: torch.Tensor) -> None:
    curve = run.curves.setdefault(name, torch.full((len(run.seeds), ctx.steps), torch.nan))
    curve[ctx.index, ctx.i] = values.detach().float().cpu()
