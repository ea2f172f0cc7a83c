"""Cross attention of a layout's regions, kept in a Trace beside whatever the methods of a run do; changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from helpers.backbones.attention import Layers, Site
from helpers.conditions import Layout
from helpers.sampling.hooks import Ctx, Guidance, Info, Job, Window
from helpers.sampling.regions import Regions, of_regions


def label(site: Site) -> str:
    """What a layer is called in a Trace: "up_blocks.1.attentions.0"."""
    return site.name.removesuffix(".transformer_blocks.0.attn2")


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionMaps(Guidance):
    """Put it anywhere into the guidance list: it sees attention after all edits. A Trace then holds, for every layer,
    the map "attention.<layer>" (S, regions, h, w) as float16 in [0, 1]: mean over heads, of the last word of a phrase.

    layouts: one for all images, or one per image in the order of the prompts.
    """

    layouts: Layout | Sequence[Layout]
    window: Window = Window(0.0, 0.0)  # noqa: RUF009 (frozen); it never acts

    layers: ClassVar[Layers] = Layers()

    @property
    def name(self) -> str:
        return "attention"

    def exact(self, key: str) -> bool:
        """Small numbers: bytes would round them away."""
        return True

    def settings(self) -> dict:
        return {}

    def setup(self, job: Job) -> Regions:
        return Regions.of(job, self.layouts, "AttentionMaps")

    def show(self, ctx: Ctx, state: Regions) -> Info:
        nouns = state.part(ctx.index).nouns
        return {
            label(site): of_regions(probs.mean(1), nouns).unflatten(-1, site.grid)
            for site, probs in ctx.attention.of(self.layers).items()
        }
