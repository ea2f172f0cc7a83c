"""DGA for free boxes, as a person draws them: the object shall lie in the middle of its box. No paper's: ours.

DGA's coverage is an IoU of the object's soft box with the box that was asked for. Where that is longer or larger than
any object, the IoU stays below 1 and pulls at the object's shape as long as it is guided, so here the loss is DGA's own
with another reference: the *core* of the box, which an object can fill. Of a box of w x h pixels it is the part

    w' = min(w, elongation * h, largest * side)      h' = min(h, elongation * w, largest * side)

around the same centre, `side` the picture's shorter side. A box that an object can fill is its own core, and so is one
that is too small: what sticks out on all sides lies in the middle, too. Masks are taken as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from helpers.conditions import Layout, Region
from helpers.guidance.dga import DGA, State
from helpers.sampling.hooks import Job, Recurrence, Window, per_image
from helpers.sampling.settings import setting
from helpers.sampling.strength import Polyak, Strength

Box = tuple[float, float, float, float]


def core(box: Box, height: int, width: int, elongation: float, largest: float) -> Box:
    """The part of a box (x0, y0, x1, y1 in shares of a height x width picture) that an object can fill.

    elongation: of the longer to the shorter side, >= 1. largest: side, in shares of the picture's shorter one.
    """
    x0, y0, x1, y1 = box
    w, h, most = (x1 - x0) * width, (y1 - y0) * height, largest * min(height, width)
    less_x, less_y = ((w - min(w, elongation * h, most)) / 2 / width, (h - min(h, elongation * w, most)) / 2 / height)
    return x0 + less_x, y0 + less_y, x1 - less_x, y1 - less_y


def cored(layout: Layout, height: int, width: int, elongation: float, largest: float) -> Layout:
    """The layout with the cores of its boxes in their place."""

    def smaller(region: Region) -> Region:
        if region.mask is not None:
            return region
        return region.model_copy(update={"box": core(region.box, height, width, elongation, largest)})

    return layout.model_copy(update={"regions": tuple(map(smaller, layout.regions))})


@dataclass(frozen=True, kw_only=True, eq=False)
class DGAFree(DGA):
    """DGA, compared with the cores of the boxes; its other fields are those of `helpers.guidance.dga.DGA`.

    elongation, largest: of the objects that the model draws, see `core`. `paper`: DGA's paper's values.
    """

    layouts: Layout | Sequence[Layout]
    elongation: float = setting(1.25, low=1, high=100)  # 1.25 in the miniature world; 100 for any
    largest: float = setting(0.45, low=0.01, high=1)  # .45 in the miniature world; 1 for any
    strength: Strength = Polyak(1.0)  # noqa: RUF009 (frozen)
    recurrence: Recurrence = Recurrence(10, Window(0.0, 0.15))  # noqa: RUF009

    def setup(self, job: Job) -> State:
        given = per_image(self.layouts, Layout, job, "DGAFree")
        height, width = job.backbone.image_size
        cores = [cored(layout, height, width, self.elongation, self.largest) for layout in given]
        return super(DGAFree, replace(self, layouts=cores)).setup(job)
