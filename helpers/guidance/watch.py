"""Cross attention of a layout's regions, kept in a Trace beside whatever other methods do; changes nothing."""

from helpers.attention import Layers, Site
from helpers.guidance.base import Ctx, Info, Window
from helpers.guidance.regions import OnLayouts, of_regions


def label(site: Site) -> str:
    """What a layer is called in a Trace: "up_blocks.1.attentions.0"."""
    return site.name.removesuffix(".transformer_blocks.0.attn2")


class Watch(OnLayouts):
    """Put it last into the guidance list: it sees attention after all edits. A Trace then holds, for every layer, the
    map "attention.<layer>" (S, regions, h, w) as float16 in [0, 1]: mean over heads, of the last word of a phrase.
    """

    name = "attention"
    layers = Layers()
    window = Window(0.0, 0.0)

    def settings(self) -> dict:
        return {}

    def show(self, ctx: Ctx) -> Info:
        nouns = self._regions.part(ctx.index).nouns
        maps = {
            label(site): of_regions(probs.mean(1), nouns).unflatten(-1, site.grid(*ctx.attention.size))
            for site, probs in ctx.attention.of(self.layers).items()
        }
        self.signed = tuple(maps)  # small numbers: bytes would round them away
        return maps
