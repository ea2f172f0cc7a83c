"""A scene under a caption as a benchmark case: prompt, layout, and what each region asks for."""

from helpers.conditions import Layout, Region, encode_mask
from helpers.miniature.captions import Caption
from helpers.miniature.items import Case, Named
from helpers.miniature.scene import Scene, is_held_out, mask_box
from helpers.miniature.vocabulary import SIDE
from helpers.miniature.world import render


def layout_case(scene: Scene, caption: Caption, name: str, seed: int) -> Case:
    """The case of a scene under a caption that names every object; regions in the order of the caption.

    Masks are the visible parts of the silhouettes, boxes their tight boxes.
    """
    drawn = render(scene)
    first = {phrase.thing: phrase for phrase in reversed(caption.phrases)}  # a long caption names an object twice
    order = sorted(first, key=lambda thing: first[thing].start)
    regions, things = [], []
    for index in order:
        thing, mask, phrase = scene.things[index], drawn.visible[index], first[index]
        box = tuple(v / SIDE for v in mask_box(mask))
        regions.append(Region(phrase=phrase.text, start=phrase.start, box=box, mask=encode_mask(mask)))
        things.append(Named(kind=thing.kind, color=thing.color, pattern=thing.pattern, size=thing.size))
    return Case(
        id=name,
        seed=seed,
        prompt=caption.text,
        seen=not is_held_out(scene),
        background=scene.background,
        layout=Layout(prompt=caption.text, regions=tuple(regions)),
        things=tuple(things),
        relations=[(order.index(i), words, order.index(j)) for i, words, j in caption.relations],
    )
