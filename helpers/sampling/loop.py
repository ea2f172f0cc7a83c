"""The one sampler. Everything a method does, it does through the hooks of `helpers.sampling.hooks.Guidance`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from helpers.backbones.attention import Layers
from helpers.backbones.backbone import Backbone
from helpers.backbones.schedule import renoise
from helpers.conditions import Prompt
from helpers.sampling import seeds as streams
from helpers.sampling.cost import Cost
from helpers.sampling.gradient import Update, gradient_update
from helpers.sampling.hooks import Branch, Ctx, EnergyGuidance, Guidance, Job, named
from helpers.sampling.strength import rms
from helpers.sampling.trace import Trace

Prompts = str | Prompt | Sequence[str | Prompt]


def denoise(
    backbone: Backbone,
    prompts: Prompts,
    guidance: Guidance | Iterable[Guidance] = (),
    *,
    steps: int = 50,
    seeds: Sequence[int] | None = None,
    batch: int = 8,
    solver: str | None = None,
    record: Sequence[Layers] = (),
    strict: bool = False,
) -> Iterator[Ctx]:
    """Draw one image per prompt; yields the context of every step after the solver made x_{t-1}, batch after batch.

        x_T = start(z), z ~ N(0, I)                                                        e.g. inverted latents
        for t = T ... 1:
            x_t  = before(x_t)                                                              e.g. moved by a gradient
            eps  = combine(eps_theta(x_t, t, branch) for every branch)                 classifier-free guidance and kin
            g    = sum of weight * energy(x0_hat(x_t, eps), decode(x0_hat), ...)       inside the methods' windows
            eps' = eps + strength(grad g)                                              one backward through all of it
            x_t <- refine(x_t, eps' - eps), and again                                  with recurrence without noise
            x_{t-1} = after(solver(x_t, eps'))                                         e.g. a background kept
            x_t ~ q(x_t | x_{t-1}), and again                                          with recurrence

    Stop iterating to cancel; assign ctx.x_prev to change where the next step begins (particles). A step that is done
    several times yields every time, ctx.again counting down to 0. record: attention that is kept in ctx.attention
    beside what the methods read. The other arguments are those of `sample`. ValueError for wrong arguments, before any
    work.
    """
    return _run(prepare(backbone, prompts, guidance, steps, seeds, batch, solver, strict), batch, record)


@torch.no_grad()
def prepare(backbone, prompts, guidance, steps, seeds, batch, solver, strict) -> Job:
    """Checked arguments, encoded prompts and the methods set up: what `denoise` does before its first step."""
    methods = _methods(guidance)
    prompts = _prompts(prompts)
    seeds = list(range(len(prompts))) if seeds is None else _listed(seeds, "seeds", "one whole number per image")
    if len(seeds) != len(prompts):
        raise ValueError(f"there are {len(seeds)} seeds for {len(prompts)} prompts: give one seed per image")
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"batch={batch!r} must be a whole number, at least 1")
    if not isinstance(backbone, Backbone):
        raise ValueError(f"{backbone!r:.60} is no backbone: make one with load_backbone('mini-sd')")
    job = Job(backbone, prompts, streams.checked(seeds), backbone.solver(steps, solver), Cost(images=len(prompts)))
    repeated = [method.name for method in methods if method.recurrence.times > 1 and method.recurrence.noise]
    if repeated:
        job.solver.refuse(f"the recurrence of {' and '.join(repeated)}, which repeats a step", memory=True)
    job.strict = strict
    job.cost.start(backbone.device)
    job.text = job.encode([prompt.text for prompt in prompts])
    if job.solver.note:
        job.warnings.append(job.solver.note)
    unread = list(dict.fromkeys(word for prompt in prompts for word in backbone.tokens.unread(prompt.text)))
    if unread:
        job.warnings.append(f"the model has never read the words {', '.join(unread)}: its card lists those it knows")
    for method in methods:
        job.states[method] = method.setup(job)
    for method in methods:
        job.text = method.encode(job.text, job, job.states[method])
    job.cost.pause(backbone.device)
    return job


@torch.no_grad()
def _run(job: Job, batch: int, record: Sequence[Layers]) -> Iterator[Ctx]:
    places = list(range(len(job.seeds)))
    job.cost.go_on()
    for first in range(0, len(places), batch):
        yield from _batch(job, places[first : first + batch], record)
    job.cost.pause(job.backbone.device)


@torch.no_grad()
def initial(job: Job, index: list[int]) -> tuple[torch.Tensor, list[torch.Generator]]:
    """x_T of the images `index`, (B, C, h, w), and the generators that drew it, from which further noise comes."""
    backbone, generators = job.backbone, [torch.Generator().manual_seed(job.seeds[k]) for k in index]
    x_t = streams.noise(generators, backbone.latent_shape, torch.empty(0, device=backbone.device, dtype=backbone.dtype))
    for method, state in job.states.items():
        x_t = method.start(x_t, index, state)
        named(job, index, x_t, f"x_T of {method.name}", f"check what {method.name} was given", "at the start")
    return x_t, generators


def _batch(job: Job, index: list[int], record: Sequence[Layers]) -> Iterator[Ctx]:
    """The loop over t for the images `index`."""
    backbone, solver, methods = job.backbone, job.solver.fresh(), list(job.states)
    x_t, generators = initial(job, index)
    for i in range(job.steps):
        step = Ctx(job, index, i, x_t)
        acting = [method for method in methods if method.active(step)]
        job.acted.update(acting)
        counts = {m: m.recurrence.at(step) for m in acting if not m.off}
        times = {noise: {m: n for m, n in counts.items() if m.recurrence.noise == noise} for noise in (0, 1)}
        for again in reversed(range(1, max([1, *times[0].values()]))):  # refined by those that ask for it
            ctx = Ctx(job, index, i, x_t, again, refining=True)
            update = _evaluate(ctx, acting, [method for method, n in times[0].items() if n > again], record)
            x_t = _refine(ctx, update)
        for again in reversed(range(max([1, *times[1].values()]))):  # repeated for those that ask for it
            ctx = Ctx(job, index, i, x_t, again)
            update = _evaluate(ctx, acting, [m for m in acting if again == 0 or times[1].get(m, 1) > again], record)
            ctx.x_prev = solver.step(_guided(ctx, update), i, ctx.x_t, generators)
            ctx.finite(ctx.x_prev, "the solver's step", "use fewer or smaller changes of the prediction", lost=True)
            for method in methods:
                ctx.x_prev = method.after(ctx.x_prev, ctx, job.states[method])
                ctx.finite(ctx.x_prev, f"x_t after {method.name}", f"check what {method.name} was given", lost=True)
            job.cost.pause(backbone.device)
            ctx.cost = Cost(images=len(index))
            yield ctx
            job.cost.go_on()
            x_t = ctx.x_prev
            if again:
                x_t = renoise(x_t, ctx.end, ctx.level, streams.noise(generators, backbone.latent_shape, x_t))


def _evaluate(ctx: Ctx, acting: list[Guidance], pulling: list[Guidance], record: Sequence[Layers]) -> Update | None:
    """One evaluation of the denoiser: fills ctx.preds, ctx.pred, ctx.losses and ctx.curves; returns what the gradients
    of `pulling` ask for. All that act edit and combine; only those that pull move x_t or have a gradient."""
    states = ctx.job.states
    for method in pulling:
        ctx.x_t = method.before(ctx, states[method])
        ctx.finite(ctx.x_t, f"x_t moved by {method.name}", f"lower the scale of {method.name}", lost=True)
    pulled = [m for m in pulling if isinstance(m, EnergyGuidance) and not m.off and ctx.level.alpha > 0]
    read = list(dict.fromkeys([*record, *(method.layers for method in pulled if method.layers)]))
    edits = [edit for method in acting for edit in method.edits(ctx, states[method])]
    ctx.x_t = ctx.x_t.detach()
    with ctx.backbone.attention(len(ctx.index), read, edits) as ctx.attention:
        with torch.set_grad_enabled(bool(pulled)):
            ctx.x_t.requires_grad_(bool(pulled))
            predict(ctx, acting)
            ctx.losses = {method: _energy(method, ctx) for method in pulled}
        update = gradient_update(ctx) if pulled else None
    _let_go(ctx)
    _note(ctx, update)
    return update


def predict(ctx: Ctx, acting: Sequence[Guidance]) -> None:
    """Every branch in one forward, the prompt's first, then combined in list order: fills ctx.preds and ctx.pred."""
    states = ctx.job.states
    cond = Branch("cond", ctx.rows(ctx.job.text))
    branches = {b.name: b for b in (cond, *(b for method in acting for b in method.branches(ctx, states[method])))}
    text = {key: torch.cat([branch.text[key] for branch in branches.values()]) for key in cond.text}
    x_t = [ctx.x_t if branch.x_t is None else branch.x_t for branch in branches.values()]
    raw = ctx.backbone.predict(torch.cat(x_t), ctx.t, text)
    ctx.cost.forwards += len(raw)
    ctx.preds = dict(zip(branches, raw.chunk(len(branches)), strict=True))
    ctx.pred = ctx.preds["cond"]
    ctx.finite(torch.stack([pred.detach() for pred in ctx.preds.values()], 1), "the denoiser's prediction",
               "check the model's weights and precision, and what edits its attention", lost=True)  # fmt: skip
    for method in acting:
        ctx.pred = method.combine(ctx.pred, ctx, states[method])
        words, cure = f"the prediction combined by {method.name}", f"lower the scale of {method.name}"
        ctx.finite(ctx.pred.detach(), words, cure, lost=True)


def _energy(method: EnergyGuidance, ctx: Ctx):
    found = method.energy(ctx, ctx.job.states[method])
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], torch.Tensor)):
        raise ValueError(f"the energy of {method.name} returned {type(found).__name__}: return (loss (B,), info)")
    return found


def _let_go(ctx: Ctx) -> None:
    """Nothing that leaves the evaluation keeps its graph."""
    ctx.x_t = ctx.x_t.detach()
    ctx.preds = {name: pred.detach() for name, pred in ctx.preds.items()}
    ctx.pred = ctx.pred.detach()
    ctx.attention = ctx.attention.detached()
    for kept in ("x0_hat", "image"):
        if kept in ctx.__dict__:
            setattr(ctx, kept, getattr(ctx, kept).detach())
    ctx.losses = {
        method: (loss.detach(), {key: value.detach() for key, value in info.items()})
        for method, (loss, info) in ctx.losses.items()
    }


def _refine(ctx: Ctx, update: Update | None) -> torch.Tensor:
    """x_t - sigma_t update, at x_t's own size: x0_hat(x_t, eps + update) under the noise eps that the model found.

    Without the rescaling many small steps make x_t longer than any that the denoiser has seen (Yang et al. 2024, DSG).
    """
    if update is None:
        return ctx.x_t
    moved = ctx.x_t - (ctx.level.sigma * update.eps).to(ctx.x_t.dtype)
    return moved * (rms(ctx.x_t.float()) / rms(moved.float())).to(moved.dtype)


def _guided(ctx: Ctx, update: Update | None) -> torch.Tensor:
    """The prediction that the solver is given."""
    return ctx.backbone.schedule.shift(ctx.pred, update.eps.to(ctx.pred.dtype), ctx.level) if update else ctx.pred


def _note(ctx: Ctx, update: Update | None) -> None:
    """Numbers of the step, (B,) each."""
    if "uncond" in ctx.preds:
        uncond = ctx.preds["uncond"]
        delta, pred = ctx.preds["cond"] - uncond, _guided(ctx, update)
        ctx.curves["eff_cfg"] = ((pred - uncond) * delta).flatten(1).sum(1) / delta.square().flatten(1).sum(1)
    if update:
        ctx.curves |= {"grad_rms": update.grad_rms, "update_rms": rms(update.eps).flatten()}
        ctx.curves |= {f"cosine.{pair}": values for pair, values in update.cosines.items()}
    for method, (loss, info) in ctx.losses.items():
        ctx.curves[method.name] = loss
        ctx.curves |= {f"{method.name}.{key}": value for key, value in info.items() if value.ndim == 1}


@dataclass
class Run:
    """What `sample` returns, on the CPU.

    images: (n, 3, H, W) float32 in [0, 1]. latents: (n, C, h, w). curves: name -> (n, steps), NaN where not computed:
    "eff_cfg" (the CFG scale that the final prediction amounts to), "grad_rms", "update_rms", "cosine.<method>.<method>"
    (of gradients that are not shared), "<method>" (its loss) and "<method>.<term>". warnings: what went wrong, in
    words: what was not finite and skipped, methods that never acted, words that the model has never read, a solver that
    stands in for the model's own.
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


@torch.no_grad()
def sample(
    backbone: Backbone,
    prompts: Prompts,
    guidance: Guidance | Iterable[Guidance] = (),
    *,
    steps: int = 50,
    seeds: Sequence[int] | None = None,
    batch: int = 8,
    solver: str | None = None,
    trace: Trace | None = None,
    strict: bool = False,
    progress: bool = True,
) -> Run:
    """Draw one image per prompt: everything that `denoise` yields, put together.

    guidance: methods; with an empty list the model follows the prompt without CFG. seeds: one per image, whole numbers
    from 0 to 2^32 - 1, by default 0, 1, ...; an image's noise depends on its own seed only. batch: images at a time,
    which bounds memory; it changes the rounding, which leaves unguided images as they are but which the gradient of a
    trained guide amplifies two- to threefold at every guided step: with batch=1 an image is bit for bit the same
    whatever else the run draws. solver: a name of `helpers.backbones.solvers`, None for the model's usual one. trace:
    records chosen images. strict: what is not finite raises FloatingPointError; otherwise a gradient's update is
    skipped, and everything is said in Run.warnings. progress: a bar of the solver's steps. ValueError for wrong
    arguments.
    """
    job = prepare(backbone, prompts, guidance, steps, seeds, batch, solver, strict)
    methods = list(job.states)
    run = Run(None, None, [p.text for p in job.prompts], job.seeds, job.cost, warnings=job.warnings)
    record = []
    if trace:
        trace.begin(job)
        record = list(dict.fromkeys(method.layers for method in methods if method.layers))
    bar = tqdm(total=job.steps * -(-len(job.seeds) // batch), desc="steps", disable=not progress, leave=False)
    latents, images = [], []
    for ctx in _run(job, batch, record):
        for name, values in ctx.curves.items():
            curve = run.curves.setdefault(name, torch.full((len(job.seeds), job.steps), torch.nan))
            curve[ctx.index, ctx.i] = values.float().cpu()
        if trace:
            trace.record(ctx)
        if ctx.again:
            continue
        bar.update()
        if ctx.i == job.steps - 1:
            job.cost.go_on()
            latents.append(ctx.x_prev)
            images.append(backbone.decode(ctx.x_prev).clamp(0, 1))
            named(job, ctx.index, images[-1], "the decoded picture", "check the decoder's precision", "at the end")
            job.cost.decodes += len(ctx.index)
            job.cost.pause(backbone.device)
            if trace:
                trace.end(ctx, images[-1])
    bar.close()
    run.latents, run.images = (torch.cat(kind).float().cpu() for kind in (latents, images))
    for method in methods:
        if method not in job.acted and method.window.start < method.window.stop:
            job.warnings.append(f"{method.name} never acted in {job.steps} steps: widen its window or take more steps")
    return run


def _methods(guidance: Guidance | Iterable[Guidance]) -> list[Guidance]:
    """The methods of a run: one of a name, one that decides the combination of predictions."""
    methods = [guidance] if isinstance(guidance, Guidance) else list(_iterated(guidance))
    for method in methods:
        if not isinstance(method, Guidance):
            raise ValueError(f"guidance holds {method!r:.60}, which is no Guidance: pass objects such as CFG(7.5)")
    for name in {method.name for method in methods}:
        if sum(method.name == name for method in methods) > 1:
            raise ValueError(f"guidance holds {name!r} twice: give all it shall do to one object")
    deciding = [method.name for method in methods if method.decides]
    if len(deciding) > 1:
        raise ValueError(f"{' and '.join(deciding)} each decide how predictions are combined: keep one of them")
    return methods


def _iterated(guidance) -> Iterable:
    try:
        return iter(guidance)
    except TypeError:
        raise ValueError(f"guidance={guidance!r:.60}: give a list of methods, such as [CFG(7.5)]") from None


def _listed(values, name: str, what: str) -> list:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"{name}={values!r:.60}: give a list, {what}")
    return list(values)


def _prompts(prompts: Prompts) -> list[Prompt]:
    prompts = [prompts] if isinstance(prompts, str | Prompt) else _listed(prompts, "prompts", "one text per image")
    if not prompts:
        raise ValueError("there are no prompts: give at least one")
    for prompt in prompts:
        if not isinstance(prompt, str | Prompt):
            raise ValueError(f"the prompt {prompt!r:.60} is no text: give strings or Prompt(text=...)")
    return [Prompt(text=p) if isinstance(p, str) else p for p in prompts]
