"""The experiment `combinations`: prompts, layouts and drags at once, each by its own module as set for itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from helpers import params
from helpers.benchmarks.base import Item
from helpers.experiments import dca, dga, dma
from helpers.experiments.sources import Sources
from helpers.guidance.cfg import CFG
from helpers.params import Case, Params
from helpers.perception.segmenter import Segmenter
from helpers.sampling.hooks import Guidance, Recurrence
from helpers.sampling.strength import Raw


class CombinationCase(Case):
    """modules: which methods, each as in the case `full` of its own experiment; "source" draws the inverted source.

    weights: "tuned" keeps each method's strength and recurrence; "paper" adds the losses with the weights 60, 25 and 90
    as they are and does every step once.
    """

    images: Literal["curve"] = "curve"
    modules: tuple[Literal["text", "layout", "drag", "source"], ...]
    weights: Literal["tuned", "paper"] = "tuned"


class Experiment(params.Experiment):
    block: ClassVar[str] = "combinations"
    cases: dict[params.Name, CombinationCase]


def sourced(case: CombinationCase) -> bool:
    """Are the pictures made of an inverted source?"""
    return bool({"drag", "source"} & set(case.modules))


@dataclass
class Modules:
    """What the three modules are set by, and what they look through."""

    text: Params[dca.Experiment]
    layout: Params[dga.Experiment]
    drag: Params[dma.Experiment]
    concepts: dca.Nets
    segmenter: Segmenter
    motion: dma.Nets


def load_modules(profile: str, device="cpu", sources: Sources | None = None) -> Modules:
    """sources: the inverted ones; without, every run inverts its own."""
    text, layout, drag = (params.load(of.Experiment, profile) for of in (dca, dga, dma))
    motion = replace(dma.load_nets(drag, device), sources=sources)
    segmenter = Segmenter.load(layout.experiment.guide, device)
    return Modules(text, layout, drag, dca.load_nets(text, device), segmenter, motion)


def guidance_of(case: CombinationCase, scenes: Sequence[Item], modules: Modules) -> list[Guidance]:
    """The modules of a case, each as in the case `full` of its own experiment; sources are inverted, thus without CFG.

    With the weights of the paper there is one rule for all, and so one gradient: the weighted sum as it is, each step
    done once, and the text has no loss that the paper has not.
    """
    said = "full" if case.weights == "tuned" else "attributes_relations"
    described, drags = [scene.scene for scene in scenes], [scene.drag for scene in scenes]
    text, layout, drag = modules.text, modules.layout, modules.drag
    made = {
        "text": lambda: dca.guidance_of(text, text.case(said), described, modules.concepts)[1:],
        "layout": lambda: dga.guidance_of(layout, layout.case("full"), described, modules.segmenter)[1:],
        "drag": lambda: dma.guidance_of(drag, drag.case("full"), drags, modules.motion),
        "source": lambda: dma.guidance_of(drag, drag.case("none"), drags, modules.motion),
    }
    chosen = [method for module in case.modules for method in made[module]()]
    if case.weights == "paper":
        chosen = [replace(method, strength=Raw(group="dadg"), recurrence=Recurrence()) for method in chosen]
    return chosen if sourced(case) else [CFG(text.sampling.cfg_scale), *chosen]
