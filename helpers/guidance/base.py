"""What the sampling loop and a guidance method know of each other: one context, and hooks of which a method has some.

A run takes a list of guidance objects; that list is the modular combination. Combining predictions goes in list order;
energies are added.
"""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from diffusers import SchedulerMixin

from helpers.attention import Edit, Layers, Recorded
from helpers.conditions import Prompt
from helpers.cost import Cost
from helpers.guidance.strength import Raw, Strength

if TYPE_CHECKING:
    from helpers.backbones import Backbone, Text

Info = dict[str, torch.Tensor]


@dataclass
class Job:
    """One call of `sample`: what is the same for all its batches. `encode` reads every different text once.

    text: the prompts as the denoiser reads them, one row per image. strict: a gradient that is not finite is an error.
    """

    backbone: "Backbone"
    prompts: list[Prompt]
    seeds: list[int]
    scheduler: SchedulerMixin  # its timesteps are set
    cost: Cost = field(default_factory=Cost)
    text: "Text" = field(default_factory=dict)
    strict: bool = False

    @property
    def steps(self) -> int:
        return len(self.scheduler.timesteps)

    @property
    def stride(self) -> int:
        """Timesteps of the model from one step of DDIM to the next."""
        return self.scheduler.config.num_train_timesteps // self.scheduler.num_inference_steps

    def encode(self, texts: list[str], chunk: int = 32) -> "Text":
        """The denoiser's text input, one row per text."""
        different = list(dict.fromkeys(texts))
        parts = [self.backbone.encode_text(different[i : i + chunk]) for i in range(0, len(different), chunk)]
        rows = torch.tensor([different.index(text) for text in texts], device=self.backbone.device)
        return {key: torch.cat([part[key] for part in parts])[rows] for key in parts[0]}


class Ctx:
    """One step of one batch, shared by all methods; x0_hat and image are made when first read, once, with their graph.

    index: positions of the batch's B images in the run. i: step, 0 ... steps - 1. t: the model's timestep.
    x_t: (B, 4, h, w). preds: raw prediction per branch; pred: the combined one. attention: of the prompt's branch,
    what methods asked to be recorded. alpha_bar, sigma = sqrt(1 - alpha_bar); noise_ratio: sigma / sqrt(alpha_bar), the
    sigma of variance-exploding models; alpha_bar_next: where the step leads to. notes: curves of what was done before
    this evaluation, (B,) each. skipped: gradients that were left out, in words.
    """

    def __init__(self, job: Job, index: list[int], i: int, t: torch.Tensor, x_t: torch.Tensor):
        self.job, self.backbone, self.cost = job, job.backbone, job.cost
        self.index, self.i, self.steps, self.t, self.x_t = index, i, job.steps, t, x_t
        self.alpha_bar = self.backbone.alpha_bar(t)
        self.alpha_bar_next = self.backbone.alpha_bar(int(t) - job.stride)
        self.sigma = (1 - self.alpha_bar).sqrt()
        self.noise_ratio = self.sigma / self.alpha_bar.sqrt()
        self.preds: dict[str, torch.Tensor] = {}
        self.pred: torch.Tensor | None = None
        self.attention: Recorded | None = None
        self.notes: Info = {}
        self.skipped: list[str] = []

    @property
    def eps(self) -> torch.Tensor:
        """The combined prediction as eps."""
        return self.backbone.to_eps(self.pred, self.x_t, self.t)

    @cached_property
    def x0_hat(self) -> torch.Tensor:
        """The clean latent that the combined prediction stands for."""
        return self.backbone.to_x0(self.pred, self.x_t, self.t)

    @cached_property
    def image(self) -> torch.Tensor:
        """x0_hat decoded: (B, 3, H, W), about [0, 1]."""
        self.cost.decodes += len(self.index)
        return self.backbone.decode(self.x0_hat)

    def rows(self, text: "Text") -> "Text":
        """This batch's rows of a text input that has one row per image of the run."""
        return {key: value[self.index] for key, value in text.items()}

    def part(self, rows: list[int]) -> "Ctx":
        """The context of some of the batch's images, without a graph."""
        part = Ctx(self.job, [self.index[r] for r in rows], self.i, self.t, self.x_t[rows].detach())
        part.preds = {name: pred[rows].detach() for name, pred in self.preds.items()}
        part.pred = self.pred[rows].detach()
        part.attention = self.attention and self.attention.part(rows)
        if "image" in self.__dict__:
            part.image = self.image[rows].detach()
        return part


@dataclass(frozen=True)
class Branch:
    """One more evaluation of the denoiser under another text, at x_t or (B, 4, h, w) latents of its own. Branches of
    one name are evaluated once."""

    name: str
    text: "Text"
    x_t: torch.Tensor | None = None


@dataclass(frozen=True)
class Window:
    """Active from a fraction `start` of the steps up to, not including, `stop`: Window(0, 0.7) is the first 70 %."""

    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self):
        if not 0 <= self.start <= self.stop <= 1:
            raise ValueError(f"the window ({self.start}, {self.stop}) must satisfy 0 <= start <= stop <= 1")

    def __contains__(self, ctx: Ctx) -> bool:
        return self.start * ctx.steps - 1e-6 <= ctx.i < self.stop * ctx.steps - 1e-6


@dataclass(frozen=True)
class Recurrence:
    """Each step inside `window` is done `times` times, with new noise in between, or (`noise` false) with none.

    With noise x_t is drawn again from x_{t-1}: Universal guidance (Bansal et al. 2023) repeats every step, FreeDoM (Yu
    et al. 2023) those that decide the content. Without, the update moves x_t itself and the solver steps only once, as
    in the refinement of Attend-and-Excite (Chefer et al. 2023): what one update achieved is then not drowned in the
    next noise, which at 20 steps replaces almost half of an early x_t.
    """

    times: int = 1
    window: Window = Window()  # noqa: RUF009 (frozen)
    noise: bool = True

    def __post_init__(self):
        if self.times < 1:
            raise ValueError(f"a step cannot be done {self.times} times: recurrence takes 1 (once) or more")


class Guidance:
    """One method. Override the hooks it needs; the loop calls them in the order in which they stand here.

    weight multiplies the method's energy, strength turns the gradient into a change of eps, window is where the method
    acts, recurrence where its steps are repeated; `encode`, `start` and `after` know no window. layers: the attention
    that it reads, from ctx.attention. signed: the maps in info whose
    values leave [0, 1], such as a flow in pixels; a Trace keeps them as float16, the others as bytes.
    """

    weight: float = 1.0
    strength: Strength = Raw()
    window: Window = Window()
    recurrence: Recurrence = Recurrence()
    signed: tuple[str, ...] = ()
    layers: Layers | None = None

    # energy(ctx) -> (loss (B,), info): lower is better. info holds whatever is worth plotting, detached, per image:
    # a (B,) entry becomes a curve, larger ones go to the Trace. A method without an energy leaves it None.
    energy = None

    @property
    def name(self) -> str:
        return type(self).__name__.lower()

    def settings(self) -> dict:
        """How the method is set, for the Trace: JSON data."""
        return {
            "weight": self.weight,
            "window": asdict(self.window),
            "strength": {"rule": type(self.strength).__name__.lower(), **asdict(self.strength)},
            "recurrence": asdict(self.recurrence),
        }

    def setup(self, job: Job) -> None:
        """Once per run: check what is asked, encode texts, prepare targets."""

    def encode(self, text: "Text", job: Job) -> "Text":
        """The prompts' text, one row per image, made of what the methods before this one made of it."""
        return text

    def start(self, x_t: torch.Tensor, index: list[int]) -> torch.Tensor:
        """x_T (B, 4, h, w) of the images `index`, made of what the methods before this one made of the noise."""
        return x_t

    def active(self, ctx: Ctx) -> bool:
        return ctx in self.window

    def times(self, ctx: Ctx) -> int:
        """How often this step is done."""
        return self.recurrence.times if ctx in self.recurrence.window else 1

    def before(self, ctx: Ctx) -> torch.Tensor:
        """x_t, moved before it is evaluated; ctx has no prediction yet."""
        return ctx.x_t

    def edits(self, ctx: Ctx) -> list[Edit]:
        """What is changed in the attention of the prompt's branch."""
        return []

    def branches(self, ctx: Ctx) -> list[Branch]:
        """Further predictions that `combine` reads from ctx.preds; "cond" (the prompt) is always there."""
        return []

    def combine(self, pred: torch.Tensor, ctx: Ctx) -> torch.Tensor:
        """The prediction made of `pred` (what the methods before this one made) and ctx.preds."""
        return pred

    def after(self, x_prev: torch.Tensor, ctx: Ctx) -> torch.Tensor:
        """x_{t-1}, made of what the solver and the methods before this one made; called at every step."""
        return x_prev

    def show(self, ctx: Ctx) -> Info:
        """More of a step that is worth plotting, for a Trace only; also outside the window."""
        return {}
