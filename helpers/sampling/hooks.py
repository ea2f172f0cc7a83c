"""What the sampling loop and a guidance method know of each other: one context, and hooks of which a method has some.

A run takes a list of guidance objects; that list is the modular combination. Combining predictions goes in list order;
energies are added.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar

import torch

from helpers.backbones.attention import Edit, Layers, Recorded
from helpers.backbones.backbone import Backbone, Text
from helpers.backbones.solvers import Solver
from helpers.conditions import Prompt
from helpers.sampling.cost import Cost
from helpers.sampling.settings import check, plain, setting
from helpers.sampling.strength import Raw, Strength

Info = dict[str, torch.Tensor]


@dataclass
class Job:
    """One run: what is the same for all its batches.

    text: the prompts as the denoiser reads them, one row per image. states: what each method's `setup` returned.
    strict: what is not finite is an error. warnings: what went wrong, in words. broken: images that are not finite any
    more. acted: methods that did something.
    """

    backbone: Backbone
    prompts: list[Prompt]
    seeds: list[int]
    solver: Solver
    cost: Cost = field(default_factory=Cost)
    text: Text = field(default_factory=dict)
    states: dict["Guidance", Any] = field(default_factory=dict)
    strict: bool = False
    warnings: list[str] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)
    acted: set["Guidance"] = field(default_factory=set)

    @property
    def steps(self) -> int:
        return len(self.solver.timesteps)

    def encode(self, texts: list[str], chunk: int = 32) -> Text:
        """The denoiser's text input, one row per text; every different one is read once."""
        different = list(dict.fromkeys(texts))
        parts = [self.backbone.encode_text(different[i : i + chunk]) for i in range(0, len(different), chunk)]
        rows = torch.tensor([different.index(text) for text in texts], device=self.backbone.device)
        return {key: torch.cat([part[key] for part in parts])[rows] for key in parts[0]}


class Ctx:
    """One step of one batch, shared by all methods; x0_hat and image are made when first read, once, with their graph.

    index: positions of the batch's B images in the run. i: step, 0 ... steps - 1. t: the model's timestep. level: its
    noise, end: that where the step ends. x_t: (B, C, h, w). again: how often the step is still done after this.
    refining: x_t itself is moved, the solver does not step. preds: raw prediction per branch; pred: the combined one.
    attention: of the prompt's branch, what was asked to be recorded. losses: method -> (loss (B,), info). curves:
    name -> (B,), numbers of this step. x_prev: x_{t-1}; whoever iterates may assign it. cost: where it is counted; the
    run's own only until the step is yielded, since who watches costs nothing.
    """

    def __init__(self, job: Job, index: list[int], i: int, x_t: torch.Tensor, again: int = 0, refining: bool = False):
        self.job, self.backbone, self.cost = job, job.backbone, job.cost
        self.index, self.i, self.steps, self.x_t = index, i, job.steps, x_t
        self.again, self.refining = again, refining
        self.t, self.level, self.end = job.solver.timesteps[i], job.solver.starts[i], job.solver.ends[i]
        self.preds: dict[str, torch.Tensor] = {}
        self.pred: torch.Tensor | None = None
        self.attention: Recorded | None = None
        self.losses: dict[Guidance, tuple[torch.Tensor, Info]] = {}
        self.curves: Info = {}
        self.x_prev: torch.Tensor | None = None

    @property
    def eps(self) -> torch.Tensor:
        """The combined prediction as eps."""
        return self.backbone.schedule.to_eps(self.pred, self.x_t, self.level)

    @cached_property
    def x0_hat(self) -> torch.Tensor:
        """The clean latent that the combined prediction stands for."""
        return self.backbone.schedule.to_x0(self.pred, self.x_t, self.level)

    @cached_property
    def image(self) -> torch.Tensor:
        """x0_hat decoded: (B, 3, H, W), about [0, 1]; float32, or more where the model has more."""
        self.cost.decodes += len(self.index)
        image = self.backbone.decode(self.x0_hat)
        return image.to(torch.promote_types(image.dtype, torch.float32))

    @property
    def reach(self) -> torch.Tensor:
        """How far an update of eps moves the latent, see `helpers.sampling.strength.Polyak`; at alpha 0 it cannot."""
        if self.refining:
            return self.level.sigma
        return self.level.sigma * (self.end.alpha / self.level.alpha) - self.end.sigma

    def rows(self, text: Text) -> Text:
        """This batch's rows of a text input that has one row per image of the run."""
        return {key: value[self.index] for key, value in text.items()}

    def part(self, rows: list[int]) -> "Ctx":
        """The context of some of the batch's images, without a graph."""
        part = Ctx(self.job, [self.index[r] for r in rows], self.i, self.x_t[rows].detach(), self.again, self.refining)
        part.cost = self.cost
        part.preds = {name: pred[rows].detach() for name, pred in self.preds.items()}
        part.pred = self.pred[rows].detach()
        part.attention = self.attention and self.attention.part(rows)
        for kept in ("x0_hat", "image"):
            if kept in self.__dict__:
                setattr(part, kept, getattr(self, kept)[rows].detach())
        return part

    def finite(
        self, values: torch.Tensor, what: str, cure: str, index: list[int] | None = None, lost: bool = False
    ) -> torch.Tensor:
        """(B,) bool: whose values are finite, of the batch or of the images `index`. The others are named in the run's
        warnings, an image that is lost already no more; in a strict run FloatingPointError is raised instead. what:
        whose values these are. cure: what to do. lost: without these values there is no image."""
        where = f"step {self.i} of {self.steps}"
        return named(self.job, self.index if index is None else index, values, what, cure, where, lost)


def named(
    job: Job, index: Sequence[int], values: torch.Tensor, what: str, cure: str, where: str, lost: bool = True
) -> torch.Tensor:
    """See `Ctx.finite`."""
    fine = values.reshape(len(values), -1).isfinite().all(1)
    if fine.all():
        return fine
    for row in (~fine).nonzero().flatten().tolist():
        if index[row] in job.broken:
            continue
        message = f"image {index[row]} (seed {job.seeds[index[row]]}), {where}: {what} is not finite"
        if job.strict:
            raise FloatingPointError(f"{message}: {cure}, or sample with strict=False")
        job.warnings.append(f"{message}: {cure}")
        if lost:
            job.broken.add(index[row])
    return fine


def per_image(given: Any, kind: type, job: Job, method: str) -> list:
    """What a method was given for the images of a run: one for all of them, or one per image, each for its prompt.
    ValueError names what does not fit. kind: Layout or Drag."""
    word = kind.__name__.lower()
    listed = [given] * len(job.prompts) if isinstance(given, kind) else given
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not all(isinstance(one, kind) for one in listed):
        raise ValueError(f"{method} was given {given!r:.60}: give a {kind.__name__}, or one per image in a list")
    if len(listed) != len(job.prompts):
        raise ValueError(
            f"{method} has {len(listed)} {word}s for {len(job.prompts)} prompts: give one for all, or one per image"
        )
    for k, (one, prompt) in enumerate(zip(listed, job.prompts, strict=True)):
        if one.prompt != prompt.text:
            raise ValueError(
                f"image {k} is drawn from {prompt.text!r} but its {word} is for {one.prompt!r}: "
                f"pass the {word}s in the order of the prompts"
            )
    return list(listed)


@dataclass(frozen=True)
class Branch:
    """One more evaluation of the denoiser under another text, at x_t or (B, C, h, w) latents of its own. Branches of
    one name are evaluated once."""

    name: str
    text: Text
    x_t: torch.Tensor | None = None


@dataclass(frozen=True)
class Window:
    """Active from a fraction `start` of the steps up to, not including, `stop`: Window(0, 0.7) is the first 70 %."""

    start: float = setting(0.0, low=0, high=1)
    stop: float = setting(1.0, low=0, high=1)

    def __post_init__(self):
        check(self)
        if self.start > self.stop:
            raise ValueError(f"the window ({self.start}, {self.stop}) must satisfy 0 <= start <= stop <= 1")

    @classmethod
    def of(cls, data: Sequence[float] | Mapping[str, float]) -> "Window":
        """Of (start, stop) or {"start": ..., "stop": ...}."""
        if not isinstance(data, Mapping) and (isinstance(data, str) or len(data) != 2):
            raise ValueError("a window is a pair, (start, stop)")
        return cls(**data) if isinstance(data, Mapping) else cls(*data)

    def settings(self) -> dict:
        return asdict(self)

    def __contains__(self, ctx: Ctx) -> bool:
        return self.start * ctx.steps - 1e-6 <= ctx.i < self.stop * ctx.steps - 1e-6


@dataclass(frozen=True)
class Recurrence:
    """Each step inside `window` is done `times` times for its method, with new noise in between or without (`noise`).

    With noise x_t is drawn again from x_{t-1}: Universal guidance (Bansal et al. 2023) repeats every step, FreeDoM (Yu
    et al. 2023) those that decide the content. Without, the update moves x_t itself and the solver steps only once, as
    in the refinement of Attend-and-Excite (Chefer et al. 2023): what one update achieved is then not drowned in the
    next noise, which at 20 steps replaces almost half of an early x_t. In a combination x_t is refined first, each time
    by the methods that ask for it; then the step is repeated, each time with the gradients of those that ask for that.
    """

    times: int = setting(1, low=1, high=1000)
    window: Window = Window()  # noqa: RUF009 (frozen)
    noise: bool = setting(True)

    def __post_init__(self):
        check(self)

    @classmethod
    def of(cls, data: Mapping) -> "Recurrence":
        """Of {"times": ..., "window": ..., "noise": ...}."""
        return cls(**data)

    def settings(self) -> dict:
        return {"times": self.times, "window": self.window.settings(), "noise": self.noise}

    def at(self, ctx: Ctx) -> int:
        """How often this step is done."""
        return self.times if ctx in self.window else 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Guidance:
    """One method: a frozen dataclass whose fields are its settings. Override the hooks it needs; the loop calls them in
    the order in which they stand here, each with what `setup` returned for this run.

    window: where the method acts; `encode`, `start` and `after` know no window. A method never changes: one object
    serves any number of runs, also at once.
    """

    window: Window = Window()  # noqa: RUF009 (frozen)

    recurrence: ClassVar[Recurrence] = Recurrence()  # a field of the methods that have one
    layers: ClassVar[Layers | None] = None  # the attention that its energy reads; a property where that is set
    decides: ClassVar[bool] = False  # does it make the prediction of all branches, so that a run has one such method
    signed: ClassVar[tuple[str, ...]] = ()  # maps in info whose values leave [0, 1], such as a flow in pixels

    def __post_init__(self):
        check(self)

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    @property
    def off(self) -> bool:
        """Is it set so that it pulls nowhere? Its steps are then done once, see `Recurrence`."""
        return False

    def exact(self, key: str) -> bool:
        """Does a Trace keep this map of info as float16, not as bytes of [0, 1]?"""
        return key in self.signed

    def settings(self) -> dict:
        """How the method is set, as JSON data: its fields, but for conditions and models."""
        return {
            one.name: plain(getattr(self, one.name))
            for one in fields(self)
            if one.metadata.get("checked") or hasattr(one.type, "settings")
        }

    def setup(self, job: Job) -> Any:
        """Once per run: check what is asked, encode texts, prepare targets. What it returns is given to every hook."""

    def encode(self, text: Text, job: Job, state: Any) -> Text:
        """The prompts' text, one row per image, made of what the methods before this one made of it."""
        return text

    def start(self, x_t: torch.Tensor, index: list[int], state: Any) -> torch.Tensor:
        """x_T (B, C, h, w) of the images `index`, made of what the methods before this one made of the noise."""
        return x_t

    def active(self, ctx: Ctx) -> bool:
        return ctx in self.window

    def before(self, ctx: Ctx, state: Any) -> torch.Tensor:
        """x_t, moved before it is evaluated; ctx has no prediction yet."""
        return ctx.x_t

    def edits(self, ctx: Ctx, state: Any) -> list[Edit]:
        """What is changed in the attention of the prompt's branch."""
        return []

    def branches(self, ctx: Ctx, state: Any) -> list[Branch]:
        """Further predictions that `combine` reads from ctx.preds; "cond" (the prompt) is always there."""
        return []

    def combine(self, pred: torch.Tensor, ctx: Ctx, state: Any) -> torch.Tensor:
        """The prediction made of `pred` (what the methods before this one made) and ctx.preds."""
        return pred

    def after(self, x_prev: torch.Tensor, ctx: Ctx, state: Any) -> torch.Tensor:
        """x_{t-1}, made of what the solver and the methods before this one made; called at every step."""
        return x_prev

    def show(self, ctx: Ctx, state: Any) -> Info:
        """More of a step that is worth plotting, for a Trace only; also outside the window."""
        return {}


@dataclass(frozen=True, kw_only=True, eq=False)
class EnergyGuidance(Guidance):
    """A method with an energy, whose gradient with respect to x_t changes eps: eps' = eps + strength(grad weight L).

    weight multiplies the energy; at 0, or with a strength of scale 0, no gradient is paid for and no step repeated.
    strength: see `helpers.sampling.strength`. recurrence: where its steps are repeated.
    """

    weight: float = setting(1.0, low=0, high=1e6)
    strength: Strength = Raw()  # noqa: RUF009 (frozen)
    recurrence: Recurrence = Recurrence()  # noqa: RUF009 (frozen)

    @property
    def off(self) -> bool:
        return self.weight == 0 or self.strength.scale == 0

    def energy(self, ctx: Ctx, state: Any) -> tuple[torch.Tensor, Info]:
        """(loss (B,), info): lower is better, pure, differentiable with respect to ctx.x_t. info holds whatever is
        worth plotting, per image: a (B,) entry becomes a curve, larger ones go to the Trace."""
        raise NotImplementedError(f"{type(self).__name__} has no energy: define energy(ctx, state) -> (loss, info)")
