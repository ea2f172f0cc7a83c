"""params.yaml as frozen, validated data. Notebooks, stages and tests read it here and nowhere else.

`load("smoke")` returns the file with one profile chosen; unknown names and values out of range are refused with the
name, the value and the cure.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from helpers.paths import ROOT

Positive = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
T = TypeVar("T")


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunBlock(_Block):
    """profile: the block of `profiles` in use."""

    profile: str


class Profile(_Block):
    """How much work: solver steps, images at a time, and how many benchmark cases each kind of case gets.

    The first `showcase` images of a case are traced, all in its first batch. perception: held-out scenes on which the
    models that guide are measured.
    """

    steps: int = Field(ge=2, le=1000)
    batch: Count
    headline: int = Field(ge=1, le=200)
    ablation: int = Field(ge=1, le=200)
    subset: int = Field(ge=1, le=128)
    curve: int = Field(ge=1, le=80)
    sweep: int = Field(ge=1, le=64)
    showcase: int = Field(ge=1, le=8)
    perception: int = Field(ge=8, le=1000)

    @model_validator(mode="after")
    def _one_batch(self):
        if self.showcase > self.batch:
            raise ValueError(f"showcase={self.showcase} is more than batch={self.batch}: raise batch or lower showcase")
        return self


class Sampling(_Block):
    """backbone: a name, folder or Hub id that `load_backbone` takes. cfg_scale: 1 is the plain prompt."""

    backbone: str
    cfg_scale: float = Field(ge=0)


class StrengthBlock(_Block):
    """rule: a name in helpers.guidance.strength.STRENGTHS. clip: largest rms of an update, null for none."""

    rule: Literal["raw", "exploding", "unit", "polyak", "matched"]
    scale: Weight
    clip: Positive | None


class RecurrenceBlock(_Block):
    """times: how often a guided step is done. window: the first fraction of the steps, for which that holds. noise: is
    there new noise in between, or does each update move x_t itself."""

    times: Count
    window: float = Field(ge=0, le=1)
    noise: bool = True


class Case(_Block):
    """A named set of values. images: which count of the profile applies. baseline: the case it is compared with."""

    images: Literal["headline", "ablation", "subset"]
    baseline: str = "none"


class LayoutCase(Case):
    """layout: what of the benchmark's layout is used; null is the unguided baseline.

    weight: lambda_DGA (paper 25). coverage_weight, size_weight, distance_weight: of the three losses (reconstructed,
    paper 1 each). window: the fraction of the steps that is guided (paper 0.7).
    """

    layout: Literal["boxes", "masks"] | None
    weight: Weight | None = None
    coverage_weight: Weight | None = None
    size_weight: Weight | None = None
    distance_weight: Weight | None = None
    window: float | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _complete(self):
        own = ("weight", "coverage_weight", "size_weight", "distance_weight", "window")
        missing = [name for name in own if getattr(self, name) is None]
        if self.layout and missing:
            raise ValueError(f"a case with a layout also states {', '.join(missing)}")
        if not self.layout and len(missing) < len(own):
            raise ValueError("a case without a layout is not guided: leave out its weights and window")
        return self


class ConceptCase(Case):
    """split, caption: which benchmark cases, in which words (`load_captioned`).

    weight: lambda_DCA (paper 60), null for an unguided case. attribute_weight, relation_weight: of the two losses
    (reconstructed, paper 1 each). presence_weight: of the third (ours). concept, relation: how their texts are
    embedded, see `helpers.guidance.dca`. window: as for layouts. relation_window: the same for that loss alone. tries:
    how often a picture is drawn at most, from other noise, until each loss named in `accept` is as low as stated there.
    """

    split: Literal["test", "many"] = "test"
    caption: Literal["short", "long", "shuffled"] = "long"
    weight: Weight | None = None
    attribute_weight: Weight = 1.0
    relation_weight: Weight = 1.0
    presence_weight: Weight = 0.0
    concept: Literal["phrase", "parts"] = "phrase"
    relation: Literal["stated", "turned"] = "turned"
    relation_window: float = Field(1.0, ge=0, le=1)
    window: float = Field(0.7, ge=0, le=1)
    tries: Count = 1
    accept: dict[Literal["attribute", "relation", "presence"], Positive] = {}

    @model_validator(mode="after")
    def _accepts(self):
        if (self.tries > 1) != bool(self.accept):
            raise ValueError(
                f"tries {self.tries} and accept {self.accept} do not fit: state which losses a picture is accepted "
                "for and more than one try, or neither"
            )
        return self


class DragCase(Case):
    """source: drags of rendered scenes, or of pictures that mini-sd drew.

    weight: lambda_DMA (paper 90), null for the inversion alone. displacement_weight, appearance_weight,
    semantic_weight: of the three losses (reconstructed, paper 1 each). field: the reference flow, see
    `helpers.guidance.dma`. window: as for layouts. mask_grow, mask_shift: an error put into the click segmenter's
    masks, in pixels (shrunk where negative). flow_error: one put into the estimated flow, root mean square in pixels.
    """

    source: Literal["rendered", "drawn"] = "rendered"
    weight: Weight | None = None
    displacement_weight: Weight = 1.0
    appearance_weight: Weight = 1.0
    semantic_weight: Weight = 0.1
    field: Literal["rigid", "decaying"] = "rigid"
    window: float = Field(0.7, ge=0, le=1)
    mask_grow: int = Field(0, ge=-8, le=8)
    mask_shift: tuple[int, int] = (0, 0)
    flow_error: Weight = 0.0


class CombinationCase(Case):
    """modules: which methods, each as in the case `full` of its own experiment; "source" draws the inverted source.

    weights: "tuned" keeps each method's strength and recurrence; "paper" adds the losses with the weights 60, 25 and 90
    as they are and does every step once.
    """

    images: Literal["curve"] = "curve"
    modules: tuple[Literal["text", "layout", "drag", "source"], ...]
    weights: Literal["tuned", "paper"] = "tuned"


def _known(stated: Mapping[str, T], name: str, kind: str) -> T:
    if name not in stated:
        raise ValueError(f"unknown {kind} {name!r}: use one of {', '.join(stated)}")
    return stated[name]


class Experiment(_Block):
    """run: which cases the pipeline runs."""

    run: tuple[str, ...]
    cases: dict[str, Case]

    @model_validator(mode="after")
    def _names_exist(self):
        for name in self.run:
            baseline = self.case(name).baseline
            if baseline not in self.run:
                raise ValueError(f"the case {name!r} is compared with {baseline!r}, which run lacks: add it")
        return self

    def case(self, name: str) -> Case:
        """A case of the experiment; ValueError naming the known ones."""
        return _known(self.cases, name, "case")


class LayoutSweep(_Block):
    """Values of strength.scale that are tried on the dev split, with everything else as in `case`."""

    scales: tuple[Weight, ...] = Field(min_length=1)
    case: LayoutCase


class DGABlock(Experiment):
    """guide: folder in models/ of the segmenter that steers. recurrence: which guided steps are repeated."""

    guide: str
    recurrence: RecurrenceBlock
    strength: StrengthBlock
    sweep: LayoutSweep
    cases: dict[str, LayoutCase]


class DCABlock(Experiment):
    """guide, detector: folders in models/ of the CLIP that steers and of the segmenter behind the detector."""

    guide: str
    detector: str
    recurrence: RecurrenceBlock
    strength: StrengthBlock
    cases: dict[str, ConceptCase]


class DMABlock(Experiment):
    """flow, clicks, features: folders in models/ of RAFT, of the click segmenter and of the dense features."""

    flow: str
    clicks: str
    features: str
    recurrence: RecurrenceBlock
    strength: StrengthBlock
    cases: dict[str, DragCase]


Option = int | float | str | tuple[float, float]


class MethodCase(Case):
    """method: a name in helpers.experiments.layout.METHODS. options: arguments of that method which are not its own
    defaults; a window is [start, stop]. images: every method is drawn on the same ones."""

    images: Literal["headline"]
    method: str
    options: dict[str, Option] = {}


class LayoutBlock(Experiment):
    """search: per case the options that are tried instead of its own on the dev split, as many for each; the best by
    box IoU draws <case>_tuned. tuned: which of these the pipeline runs.
    """

    tuned: tuple[str, ...]
    cases: dict[str, MethodCase]
    search: dict[str, tuple[dict[str, Option], ...]]

    @model_validator(mode="after")
    def _fair(self):
        lost = next((name for name in self.tuned if name not in self.search), None)
        if lost:
            raise ValueError(f"{lost!r} shall be tuned, but nothing is searched for it: state its options")
        for name, tried in self.search.items():
            self.case(name)
            if len(tried) != len(next(iter(self.search.values()))):
                raise ValueError(f"the search tries {len(tried)} options of {name!r}: every method gets as many")
        return self


class Ablation(_Block):
    """Every combination of the values of `grid`, on the first test cases; a key is an option of the method, or one of
    method, split, layout and size. options: what stays fixed."""

    grid: dict[str, tuple[Option, ...]] = Field(min_length=1)
    options: dict[str, Option] = {}


class IlgdBlock(_Block):
    """run: which ablations the pipeline draws."""

    run: tuple[str, ...]
    ablations: dict[str, Ablation]

    @model_validator(mode="after")
    def _names_exist(self):
        for name in self.run:
            self.ablation(name)
        return self

    def ablation(self, name: str) -> Ablation:
        """An ablation; ValueError naming the known ones."""
        return _known(self.ablations, name, "ablation")


class Curve(_Block):
    """One knob of one module turned through `values`, everything else as in the case `full` of its experiment.

    knob: see `helpers.experiments.robustness`.
    """

    module: Literal["layout", "text", "drag"]
    knob: Literal["guide", "mask", "layout_noise", "layout_missing", "window", "strength", "seed"]
    values: tuple[float, ...] = Field(min_length=2)


class RobustnessBlock(_Block):
    """run: which curves the pipeline draws."""

    run: tuple[str, ...]
    curves: dict[str, Curve]

    @model_validator(mode="after")
    def _names_exist(self):
        for name in self.run:
            self.curve(name)
        return self

    def curve(self, name: str) -> Curve:
        """A curve; ValueError naming the known ones."""
        return _known(self.curves, name, "curve")


class CombinationsBlock(Experiment):
    cases: dict[str, CombinationCase]


class Phase(_Block):
    steps: Count
    lr: Positive
    kl_weight: Weight
    scale_weight: Weight


class AutoencoderRun(_Block):
    batch: Count
    phases: tuple[Phase, Phase]


class SingleRun(_Block):
    """bank: scenes that are encoded beforehand (mini-sd only)."""

    batch: Count
    steps: Count
    lr: Positive
    bank: Count | None = None


class StagedRun(_Block):
    """Runs that follow one another: steps of each."""

    batch: Count
    steps: tuple[Count, ...]


class Training(_Block):
    """Per model and profile, how long and how it is trained."""

    autoencoder: dict[str, AutoencoderRun]
    text: dict[str, SingleRun]
    mini_sd: dict[str, SingleRun]
    guide_segmenter: dict[str, StagedRun]
    judge: dict[str, StagedRun]
    clip: dict[str, StagedRun]
    judge_clip: dict[str, StagedRun]
    raft: dict[str, StagedRun]
    sam: dict[str, StagedRun]
    dino: dict[str, StagedRun]


class Params(_Block):
    run: RunBlock
    profiles: dict[str, Profile]
    sampling: Sampling
    dga: DGABlock
    dca: DCABlock
    dma: DMABlock
    combinations: CombinationsBlock
    robustness: RobustnessBlock
    layout: LayoutBlock
    ilgd: IlgdBlock
    training: Training

    @model_validator(mode="after")
    def _profile_exists(self):
        self.choose_profile(self.run.profile)
        return self

    def choose_profile(self, name: str) -> "Params":
        """The same parameters with another profile; ValueError naming the known ones."""
        if name not in self.profiles:
            raise ValueError(f"unknown profile {name!r}: use one of {', '.join(self.profiles)}")
        return self.model_copy(update={"run": self.run.model_copy(update={"profile": name})})

    @property
    def profile(self) -> Profile:
        return self.profiles[self.run.profile]

    def count(self, case: Case) -> int:
        """How many benchmark cases a case is run on."""
        return getattr(self.profile, case.images)


def load(profile: str | None = None, path: Path = ROOT / "params.yaml") -> Params:
    """Read and check params.yaml; `profile` None keeps the one that the file names. ValueError says what to change."""
    try:
        params = Params.model_validate(yaml.safe_load(path.read_text()))
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r:.60})" for e in error.errors()]
        raise ValueError(f"{path.name} is not valid; correct these entries:\n" + "\n".join(lines)) from None
    return params if profile is None else params.choose_profile(profile)
