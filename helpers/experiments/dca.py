"""The experiment `dca`: prompts, by dense concept alignment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from helpers.best_of import worst
from helpers.cost import Cost
from helpers.experiments.settings import recurrence, strength
from helpers.guidance import CFG, Guidance, Window
from helpers.guidance.dca import DCA
from helpers.miniature.benchmark import Case as Scene
from helpers.params import ConceptCase, Params
from helpers.paths import weights
from helpers.perception.detector import MaskDetector
from helpers.perception.segmenter import Segmenter
from helpers.perception.similarity import Similarity


@dataclass
class Nets:
    """What DCA looks through."""

    similarity: Similarity
    detector: MaskDetector
    segmenter: Segmenter


def load_nets(params: Params, device="cpu") -> Nets:
    segmenter = Segmenter.load(weights(params.dca.detector), device)
    return Nets(Similarity.load(weights(params.dca.guide), device), MaskDetector(segmenter), segmenter)


def guidance_of(params: Params, case: ConceptCase, scenes: Sequence[Scene], nets: Nets) -> list[Guidance]:
    """The guidance of a case: CFG, and DCA unless the case is unguided; DCA reads the prompts, not the scenes."""
    cfg = CFG(params.sampling.cfg_scale)
    if case.weight is None:
        return [cfg]
    segmenter = nets.segmenter if case.presence_weight else None
    return [cfg, _dca(params, case, nets, segmenter, case.weight, Window(0.0, case.window))]


def watching(params: Params, case: ConceptCase, scenes: Sequence[Scene], nets: Nets) -> list[Guidance]:
    """The baseline as the guides see it: an empty window never acts, but a Trace records boxes and losses."""
    return [CFG(params.sampling.cfg_scale), _dca(params, case, nets, nets.segmenter, 1.0, Window(0.0, 0.0))]


def verifier(params: Params, case: ConceptCase, scenes: Sequence[Scene], nets: Nets) -> Callable:
    """verify(pictures, rows) of `helpers.best_of`: what the guides, never the judges, say of finished pictures of these
    scenes, by the losses that the case accepts."""
    dca = _dca(params, case, nets, nets.segmenter, 1.0, Window(0.0, 0.0))
    dca.read([scene.prompt for scene in scenes])
    device, size = nets.similarity.mean.device, params.profile.batch

    @torch.no_grad()
    def verify(images: torch.Tensor, rows: list[int]) -> torch.Tensor:
        parts = [(images[k : k + size].to(device), rows[k : k + size]) for k in range(0, len(rows), size)]
        return torch.cat([worst(dca.losses(*part, Cost())[0], case.accept) for part in parts])

    return verify


def _dca(params: Params, case: ConceptCase, nets: Nets, segmenter, weight: float, window: Window) -> DCA:
    return DCA(
        nets.similarity,
        nets.detector,
        segmenter,
        weight=weight,
        attribute_weight=case.attribute_weight,
        relation_weight=case.relation_weight,
        presence_weight=case.presence_weight,
        concept=case.concept,
        relation=case.relation,
        relation_window=Window(0.0, case.relation_window),
        window=window,
        strength=strength(params.dca.strength),
        recurrence=recurrence(params.dca.recurrence),
    )
