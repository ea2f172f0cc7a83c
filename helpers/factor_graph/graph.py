"""The factor graph as data: p(x, y_1 ... y_K | text) = product over k of p(y_k | its parents, text).

graph = Graph.of({
    "segmentation": {"model": "fgdm-segmentation"},
    "image": {"model": "fgdm-image", "parents": ["segmentation"], "picture": True},
})
drawn = ancestral(graph, ["a red car left of a blue ball"], seeds=[0])       # name -> Run, parents first
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import torch
from pydantic import model_validator

from helpers.backbones.backbone import Backbone
from helpers.factor_graph.factor import Conditions, load_factor
from helpers.params import Block, Name
from helpers.sampling.hooks import Guidance
from helpers.sampling.loop import Run, sample
from helpers.sampling.seeds import derived


class Factor(Block):
    """model: what draws it, see `load_factor`. parents: the factors that it is drawn given. picture: is it x?"""

    model: str
    parents: tuple[Name, ...] = ()
    picture: bool = False


class Graph(Block):
    """Factors by name. ValueError for a parent that is none, a cycle, more than one picture, a child of the picture."""

    factors: dict[Name, Factor]

    @classmethod
    def of(cls, factors: Mapping[str, Mapping[str, Any]]) -> "Graph":
        return cls(factors=factors)

    @model_validator(mode="after")
    def _can_be_drawn(self):
        pictures = [name for name, factor in self.factors.items() if factor.picture]
        if len(pictures) > 1:
            raise ValueError(f"{' and '.join(pictures)} are both the picture: mark one of them")
        for name, factor in self.factors.items():
            for parent in factor.parents:
                if parent not in self.factors:
                    raise ValueError(
                        f"{name} is drawn given {parent!r}, which is no factor: use {' or '.join(self.factors)}"
                    )
                if parent in pictures:
                    raise ValueError(f"{name} is drawn given {parent!r}, which is the picture: nothing comes after it")
        self.order()
        return self

    def order(self) -> list[str]:
        """The factors, parents first; ValueError where they go round in a circle."""
        try:
            return list(TopologicalSorter({name: f.parents for name, f in self.factors.items()}).static_order())
        except CycleError as error:
            raise ValueError(f"{' -> '.join(error.args[1])} is a circle: leave out one of these parents") from error

    def needed(self, name: str) -> list[str]:
        """A factor and all that it is drawn given, parents first."""
        if name not in self.factors:
            raise ValueError(f"there is no factor {name!r}: use {' or '.join(self.factors)}")
        kept, waiting = set(), [name]
        while waiting:
            one = waiting.pop()
            kept.add(one)
            waiting += self.factors[one].parents
        return [one for one in self.order() if one in kept]


def ancestral(
    graph: Graph,
    prompts: Sequence[str],
    seeds: Sequence[int],
    guidance: Callable[[str], Iterable[Guidance]],
    *,
    given: Mapping[str, torch.Tensor] | None = None,
    steps: Mapping[str, int] | int = 20,
    batch: int = 8,
    load: Callable[[str], Backbone] = load_factor,
) -> dict[str, Run]:
    """Draw every factor given clean parents, in order: name -> Run.

    guidance(name): what acts in a factor beside its conditions, such as [CFG(5.0)]. given: factors that are known
    already, (n, 3, h, w) in [0, 1], and not drawn. steps: for all, or by name. The picture has the prompts' own seeds,
    so that its noise is that of a model without a graph; the others have seeds derived from them.
    """
    known, runs = dict(given or {}), {}
    for name in known:
        graph.needed(name)
    for tag, name in enumerate(graph.order(), 1):
        if name in known:
            continue
        factor = graph.factors[name]
        own = list(seeds) if factor.picture else [derived(seed, tag) for seed in seeds]
        conditions = [Conditions(maps={parent: known[parent] for parent in factor.parents})] if factor.parents else []
        asked = steps if isinstance(steps, int) else steps[name]
        methods = [*conditions, *guidance(name)]
        runs[name] = sample(load(factor.model), list(prompts), methods, steps=asked, seeds=own, batch=batch)
        known[name] = runs[name].images
    return runs
