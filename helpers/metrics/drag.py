"""How well pictures keep to a drag: as DragBench measures (Shi et al. 2024, "DragDiffusion"), and exactly.

DragBench finds a handle's point again in the edited picture by features of a diffusion model and takes LPIPS for
fidelity; here features are a judge's (no guide knows them). What a benchmark knows is compared, too: where the object
should be. A `pyramid` is a judge's features of B images at several scales, each (B, d, h, w), the first the finest.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from helpers.benchmarks.base import DragItem
from helpers.judges.base import Found

BORDER = 2  # pixels around the moved object's boxes that do not count as background
FINE = (0, 1, 2, -1)  # scales of the judge's pyramid that tell points of one object apart


def dense(pyramid: Sequence[torch.Tensor]) -> torch.Tensor:
    """A pyramid -> unit-norm features (B, d, h, w) of its finest scale for finding a point again.

    Of the handles of the 128 test drags it finds all within 4 px in the rendered edit, at .2 px on average.
    """
    scales = [F.interpolate(pyramid[k], pyramid[0].shape[-2:], mode="bilinear", align_corners=False) for k in FINE]
    return torch.cat([F.normalize(scale, dim=1) for scale in scales], 1) / len(FINE) ** 0.5


def find(source: torch.Tensor, edited: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Nearest neighbours (k, 2) in `edited` of points of `source`: features (d, H, W), points (k, 2) x, y in pixels."""
    x, y = points.round().long().unbind(1)
    best = torch.einsum("dk,dhw->khw", source[:, y, x], edited).flatten(1).argmax(1)
    return torch.stack([best % edited.shape[-1], best // edited.shape[-1]], 1)


def mean_distance(case: DragItem, source: torch.Tensor, edited: torch.Tensor) -> float:
    """DragBench's MD in pixels of the source: handles found again in the edited picture, to their targets; features
    (d, h, w) of both pictures."""
    handles, targets = case.drag.points()
    cells = torch.tensor([source.shape[-1], source.shape[-2]])
    scale = cells / torch.tensor(case.drag.size[::-1])
    places = ((handles + 0.5) * scale - 0.5).clamp(min=torch.zeros(2), max=cells - 1.0)
    found = (find(source, edited, places) + 0.5) / scale - 0.5
    return torch.linalg.vector_norm(found - targets, dim=1).mean().item()


def _centre(box: Sequence[float]) -> np.ndarray:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])


def centre_distance(moved, found: Sequence[Found]) -> float:
    """Pixels from the centre of the object's box to where it should be; moved: one of a `DragItem`'s.

    An object that is not recognised, of its kind and colour, counts as one that was not moved; so does, by taking the
    farthest, one that was copied to the target and not taken away.
    """
    wanted = _centre(moved.edited_box)
    copies = [f.box for f in found if (f.kind, f.color) == (moved.kind, moved.color)]
    return float(max(np.linalg.norm(_centre(box) - wanted) for box in copies or [moved.box]))


def perceptual_distance(pyramid: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B,) in [0, 4], LPIPS-style (Zhang et al. 2018) without learned weights: squared distance of unit-norm features,
    mean over the pixels of every scale, mean over the scales. Arguments: the pyramids of B images each."""
    scales = [
        (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean((1, 2)) for a, b in zip(pyramid, other)
    ]
    return torch.stack(scales).mean(0)


def background_psnr(case: DragItem, image: torch.Tensor) -> float:
    """dB of an image (3, H, W) in [0, 1] against the source, outside the moved objects' boxes, old and new."""
    outside = torch.ones(image.shape[1:], dtype=torch.bool)
    for moved in case.moved:
        for x0, y0, x1, y1 in (moved.box, moved.edited_box):
            outside[max(y0 - BORDER, 0) : y1 + BORDER, max(x0 - BORDER, 0) : x1 + BORDER] = False
    error = (image - case.drag.image())[:, outside].square().mean()
    return (-10 * error.clamp(min=1e-10).log10()).item()


def score(
    cases: Sequence[DragItem],
    images: torch.Tensor,
    found: Sequence[Sequence[Found]],
    before: Sequence[torch.Tensor],
    after: Sequence[torch.Tensor],
) -> list[dict[str, float]]:
    """The numbers of one image (B, 3, H, W) in [0, 1] per case. found: what a judge recognised in it. before, after:
    the pyramids of the sources and of the images.

    drag_md, center_dist: pixels, mean over handles and over moved objects. drag_recall: the share of the moved objects
    that is recognised. image_fidelity: 1 - distance to the source as in DragBench, which no drag would win.
    background_psnr: dB.
    """
    if len(cases) != len(images):
        raise ValueError(f"there are {len(images)} images for {len(cases)} drags: give one per case")
    fidelity = 1 - perceptual_distance(before, after)
    sources, edits = dense(before), dense(after)
    return [
        {
            "drag_md": mean_distance(case, sources[k], edits[k]),
            "center_dist": float(np.mean([centre_distance(moved, found[k]) for moved in case.moved])),
            "drag_recall": float(
                np.mean([any((f.kind, f.color) == (m.kind, m.color) for f in found[k]) for m in case.moved])
            ),
            "image_fidelity": fidelity[k].item(),
            "background_psnr": background_psnr(case, images[k]),
        }
        for k, case in enumerate(cases)
    ]
