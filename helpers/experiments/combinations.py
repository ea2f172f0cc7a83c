"""The experiment `combinations`: prompts, layouts and drags at once, each by its own module as set for itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from helpers.experiments import dca, dga, dma
from helpers.experiments.sources import Sources
from helpers.guidance import CFG, Guidance, Raw, Recurrence
from helpers.miniature.combined import Case as Scene
from helpers.params import CombinationCase, Params
from helpers.paths import weights
from helpers.perception.segmenter import Segmenter


@dataclass
class Nets:
    """What the three modules look through."""

    concepts: dca.Nets
    segmenter: Segmenter
    motion: dma.Nets


def load_nets(params: Params, device="cpu", sources: Sources | None = None) -> Nets:
    """sources: the inverted ones; without, every run inverts its own."""
    segmenter = Segmenter.load(weights(params.dga.guide), device)
    return Nets(dca.load_nets(params, device), segmenter, replace(dma.load_nets(params, device), sources=sources))


def guidance_of(params: Params, case: CombinationCase, scenes: Sequence[Scene], nets: Nets) -> list[Guidance]:
    """The modules of a case, each as in the case `full` of its own experiment; sources are inverted, thus without CFG.

    With the weights of the paper there is one rule for all, and so one gradient: the weighted sum as it is, each step
    done once, and the text has no loss that the paper has not.
    """
    text = params.dca.case("full" if case.weights == "tuned" else "attributes_relations")
    described, drags = [scene.scene for scene in scenes], [scene.drag for scene in scenes]
    made = {
        "text": dca.guidance_of(params, text, described, nets.concepts)[1:],
        "layout": dga.guidance_of(params, params.dga.case("full"), described, nets.segmenter)[1:],
        "drag": dma.guidance_of(params, params.dma.case("full"), drags, nets.motion),
        "source": dma.guidance_of(params, params.dma.case("none"), drags, nets.motion),
    }
    chosen = [method for module in case.modules for method in made[module]]
    if case.weights == "paper":
        for method in chosen:
            method.strength, method.recurrence = Raw(), Recurrence()
    inverted = {"drag", "source"} & set(case.modules)
    return chosen if inverted else [CFG(params.sampling.cfg_scale), *chosen]
