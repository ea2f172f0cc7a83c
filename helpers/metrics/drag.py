"""How well pictures keep to a drag: as DragBench measures (Shi et al. 2024, "DragDiffusion"), and exactly.

DragBench finds a handle's point again in the edited picture by features of a diffusion model and takes LPIPS for
fidelity; here features are the judge's (no guide knows them), in pixels of the 64-pixel picture. What the renderer
knows is compared, too: where the object should be, and what the picture should look like.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from helpers.metrics.judge import Found, Judge
from helpers.miniature.drags import Case, Moved
from helpers.miniature.world import SIDE

BORDER = 2  # pixels around the moved object's boxes that do not count as background
FINE = (0, 1, 2, -1)  # scales of the judge's pyramid that tell points of one object apart


def dense(pyramid: Sequence[torch.Tensor]) -> torch.Tensor:
    """The judge's `pyramid` -> unit-norm features (B, d, 64, 64) for finding a point again.

    Of the handles of the 128 test drags it finds all within 4 px in the rendered edit, at .2 px on average.
    """
    scales = [F.interpolate(pyramid[k], (SIDE, SIDE), mode="bilinear", align_corners=False) for k in FINE]
    return torch.cat([F.normalize(scale, dim=1) for scale in scales], 1) / len(FINE) ** 0.5


def find(source: torch.Tensor, edited: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Nearest neighbours (k, 2) in `edited` of points of `source`: features (d, H, W), points (k, 2) x, y in pixels."""
    x, y = points.round().long().unbind(1)
    best = torch.einsum("dk,dhw->khw", source[:, y, x], edited).flatten(1).argmax(1)
    return torch.stack([best % edited.shape[-1], best // edited.shape[-1]], 1)


def mean_distance(case: Case, source: torch.Tensor, edited: torch.Tensor) -> float:
    """DragBench's MD in pixels: handles found again in the edited picture, to their targets; features (d, 64, 64)."""
    handles, targets = case.drag.points()
    found = find(source, edited, handles.clamp(0, SIDE - 1))
    return torch.linalg.vector_norm(found - targets, dim=1).mean().item()


def _centre(box: Sequence[float]) -> np.ndarray:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])


def centre_distance(moved: Moved, found: Sequence[Found]) -> float:
    """Pixels from the centre of the object's box to where it should be.

    An object that is not recognised, of its kind and colour, counts as one that was not moved; so does, by taking the
    farthest, one that was copied to the target and not taken away.
    """
    wanted = _centre(moved.edited_box)
    copies = [f.box for f in found if (f.kind, f.color) == (moved.kind, moved.color)]
    return float(max(np.linalg.norm(_centre(box) - wanted) for box in copies or [moved.box]))


def perceptual_distance(pyramid: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B,) in [0, 4], LPIPS-style (Zhang et al. 2018) without learned weights: squared distance of unit-norm features,
    mean over the pixels of every scale, mean over the scales. Arguments: the judge's `pyramid` of B images."""
    scales = [
        (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean((1, 2)) for a, b in zip(pyramid, other)
    ]
    return torch.stack(scales).mean(0)


def background_psnr(case: Case, image: torch.Tensor) -> float:
    """dB of an image (3, 64, 64) in [0, 1] against the source, outside the moved objects' boxes, old and new."""
    outside = torch.ones(SIDE, SIDE, dtype=torch.bool)
    for moved in case.moved:
        for x0, y0, x1, y1 in (moved.box, moved.edited_box):
            outside[max(y0 - BORDER, 0) : y1 + BORDER, max(x0 - BORDER, 0) : x1 + BORDER] = False
    error = (image - case.drag.image())[:, outside].square().mean()
    return (-10 * error.clamp(min=1e-10).log10()).item()


def score(cases: Sequence[Case], images: torch.Tensor, judge: Judge) -> list[dict[str, float]]:
    """The numbers of one image (B, 3, 64, 64) in [0, 1] per case.

    drag_md, center_dist: pixels, mean over handles and over moved objects. drag_recall: the share of the moved objects
    that is recognised. image_fidelity: 1 - distance to the source as in DragBench, which no drag would win.
    edit_fidelity: the same to the rendered edit, nan where there is none. background_psnr: dB.
    """
    if len(cases) != len(images):
        raise ValueError(f"there are {len(images)} images for {len(cases)} drags: give one per case")
    sources = torch.stack([case.drag.image() for case in cases])
    known = [k for k, case in enumerate(cases) if case.scene is not None]
    before, after = judge.pyramid(sources), judge.pyramid(images)
    fidelity = 1 - perceptual_distance(before, after)
    edit = torch.full((len(cases),), torch.nan)
    if known:
        truth = np.stack([cases[k].edited() for k in known])
        truth = judge.pyramid(torch.from_numpy(truth).permute(0, 3, 1, 2) / 255)
        edit[known] = 1 - perceptual_distance(truth, [scale[known] for scale in after])
    points, found = (dense(before), dense(after)), judge.recognise(images)
    return [
        {
            "drag_md": mean_distance(case, points[0][k], points[1][k]),
            "center_dist": float(np.mean([centre_distance(moved, found[k]) for moved in case.moved])),
            "drag_recall": float(
                np.mean([any((f.kind, f.color) == (m.kind, m.color) for f in found[k]) for m in case.moved])
            ),
            "image_fidelity": fidelity[k].item(),
            "edit_fidelity": edit[k].item(),
            "background_psnr": background_psnr(case, images[k]),
        }
        for k, case in enumerate(cases)
    ]
