"""The experiment `dca`: prompts, by dense concept alignment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import model_validator

from helpers import params
from helpers.benchmarks.base import LayoutItem
from helpers.experiments import methods
from helpers.guidance.cfg import CFG
from helpers.guidance.dca import DCA
from helpers.params import Count, Guide, MethodCase, Params, Positive
from helpers.perception.detector import MaskDetector
from helpers.perception.segmenter import Segmenter
from helpers.perception.similarity import Similarity
from helpers.sampling.best_of import worst
from helpers.sampling.cost import Cost
from helpers.sampling.hooks import Guidance, Window


class ConceptCase(MethodCase):
    """split, caption: which benchmark cases, in which words (`load_captioned`). tries: how often a picture is drawn at
    most, from other noise, until each loss named in `accept` is as low as stated there."""

    split: Literal["test", "many"] = "test"
    caption: Literal["short", "long", "shuffled"] = "long"
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


class Experiment(params.Experiment):
    """guide: the CLIP that steers. detector: the segmenter behind the detector and the loss of presence."""

    block: ClassVar[str] = "dca"
    guide: Guide
    detector: Guide
    cases: dict[params.Name, ConceptCase]


@dataclass
class Nets:
    """What DCA looks through."""

    similarity: Similarity
    detector: MaskDetector
    segmenter: Segmenter


def load_nets(params: Params[Experiment], device="cpu") -> Nets:
    segmenter = Segmenter.load(params.experiment.detector, device)
    return Nets(Similarity.load(params.experiment.guide, device), MaskDetector(segmenter), segmenter)


def guidance_of(
    params: Params[Experiment], case: ConceptCase, scenes: Sequence[LayoutItem], nets: Nets
) -> list[Guidance]:
    """The guidance of a case; DCA reads the prompts, not the scenes. A loss that does not count is not looked at."""
    unseen = {"segmenter": None} if case.model_extra.get("presence_weight") == 0 else {}
    return methods.guidance(case, params.sampling.cfg_scale, **vars(nets) | unseen)


def watching(params: Params[Experiment], case: ConceptCase, scenes: Sequence[LayoutItem], nets: Nets) -> list[Guidance]:
    """The baseline as the guides see it: an empty window never acts, but a Trace records boxes and losses."""
    return [CFG(params.sampling.cfg_scale), DCA(**vars(nets), window=Window(0.0, 0.0))]


def verifier(params: Params[Experiment], case: ConceptCase, scenes: Sequence[LayoutItem], nets: Nets) -> Callable:
    """verify(pictures, rows) of `helpers.sampling.best_of`: what the guides, never the judges, say of finished pictures
    of these scenes, by the losses that the case accepts."""
    state = DCA(**vars(nets)).read([scene.prompt for scene in scenes])
    device, size = nets.similarity.mean.device, params.profile.batch

    @torch.no_grad()
    def verify(images: torch.Tensor, rows: list[int]) -> torch.Tensor:
        parts = [(images[k : k + size].to(device), rows[k : k + size]) for k in range(0, len(rows), size)]
        return torch.cat([worst(DCA.losses(state, *part, Cost())[0], case.accept) for part in parts])

    return verify
