"""DGA, dense geometry alignment: layouts in DADG (Wang et al., CVPR 2025). The loss formulas are *reconstructed*.

A segmenter finds each phrase's soft mask M_n in the decoded x0_hat; with the reference R_n, areas A = sum M, centroids
c = sum p M / sum M, N regions and the image's diagonal:

    L_cov  = 1/N sum_n [1 - sum min(M_n, R_n) / sum max(M_n, R_n)]                                       (soft IoU)
    L_size = mean over pairs m < n of |b(A_m, A_n) - b(A_m^R, A_n^R)|, b(x, y) = (x - y) / (x + y)
                                                                                   (one region: |b(A, A^R)|)
    L_dist = mean over pairs m < n of ||(c_m - c_n) - (c_m^R - c_n^R)|| / diagonal (one region: ||c - c^R|| / diagonal)
    L_DGA  = L_cov + L_size + L_dist,   weight 25, first 70 % of the steps

The paper names the terms; its pairwise distance may be one of lengths, the vectors here also keep left and right, and
its pairwise size one of plain ratios: b is bounded, so that an object that is not there yet does not drown the rest.
A silhouette fills about .63 of its box, so a mask that is compared with a box is first replaced by its own soft box
(the projections of weak box supervision: BoxInst, Tian et al. 2021).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from helpers.conditions import Layout
from helpers.perception.segmenter import Segmenter
from helpers.sampling.hooks import Ctx, EnergyGuidance, Info, Job, Recurrence, Window, per_image
from helpers.sampling.settings import setting
from helpers.sampling.strength import Polyak, Raw, Strength

# Share of the grid by which is divided at least (objects cover .05 to .2): an empty mask has no centre and no ratio.
FLOOR = 0.01


def soft_box(masks: torch.Tensor) -> torch.Tensor:
    """(..., H, W) in [0, 1] -> the same shape: min of the masks' largest values in the row and in the column.

    A crisp mask gives its bounding box's row and column cover; a box gives itself.
    """
    return torch.minimum(masks.amax(-1)[..., :, None], masks.amax(-2)[..., None, :])


def centroid(masks: torch.Tensor) -> torch.Tensor:
    """(..., H, W) -> (..., 2): (x, y) in units of the diagonal; an empty mask lies in the middle of the grid."""
    height, width = masks.shape[-2:]
    diagonal = (height**2 + width**2) ** 0.5
    x = (torch.arange(width, dtype=masks.dtype, device=masks.device) - (width - 1) / 2) / diagonal
    y = (torch.arange(height, dtype=masks.dtype, device=masks.device) - (height - 1) / 2) / diagonal
    moment = torch.stack([(masks.mean(-2) * x).mean(-1), (masks.mean(-1) * y).mean(-1)], -1)
    return moment / masks.mean((-2, -1)).clamp(min=FLOOR)[..., None]


def soft_iou(masks: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Two (..., H, W) in [0, 1] -> (...): sum min / sum max, 1 where they agree."""
    shared = torch.minimum(masks, targets).sum((-2, -1))
    return shared / torch.maximum(masks, targets).sum((-2, -1)).clamp(min=1e-6)


def coverage(masks: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """L_cov, (B,) in [0, 1]. masks, targets (B, N, H, W) in [0, 1]; valid (B, N) bool: which regions exist."""
    return _mean(1 - soft_iou(masks, targets), valid)


def balance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(a - b) / (a + b) of two areas, in [-1, 1]; it is tanh(log(a / b) / 2), a bounded logarithm of the ratio."""
    return (one - other) / (one + other).clamp(min=FLOOR)


def size(masks: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """L_size, (B,) in [0, 2]: 0 when the objects' areas stand in the wanted ratios. Shapes as in `coverage`."""
    found, wanted = masks.mean((-2, -1)), targets.mean((-2, -1))
    m, n = _pairs(valid)
    between = balance(found[:, m], found[:, n]) - balance(wanted[:, m], wanted[:, n])
    return _mean_over_pairs(between.abs(), balance(found, wanted).abs(), valid)


def distance(masks: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """L_dist, (B,), >= 0 in diagonals: 0 when the objects' centres lie as wanted. Shapes as in `coverage`."""
    offset = centroid(masks) - centroid(targets)
    m, n = _pairs(valid)
    between = torch.linalg.vector_norm(offset[:, m] - offset[:, n], dim=-1)
    return _mean_over_pairs(between, torch.linalg.vector_norm(offset, dim=-1), valid)


def _mean(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    return torch.where(valid, values, 0).sum(-1) / valid.sum(-1).clamp(min=1)


def _pairs(valid: torch.Tensor) -> torch.Tensor:
    """(2, P): the pairs m < n of N regions."""
    return torch.triu_indices(valid.size(1), valid.size(1), 1)


def _mean_over_pairs(between: torch.Tensor, alone: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """(B,): mean of `between` (B, P) over the pairs that exist; `alone` (B, N) where an image has one region."""
    m, n = _pairs(valid)
    single = (valid.sum(1, keepdim=True) == 1) & valid
    return torch.where(single, alone, 0).sum(1) + _mean(between, valid[:, m] & valid[:, n])


TERMS = {"coverage": coverage, "size": size, "distance": distance}


@dataclass
class State:
    """What DGA knows of a run's n images with at most N regions, padded. words (n, N, d): the phrases as the segmenter
    reads them. targets (n, N, grid, grid) in [0, 1]. valid, boxed (n, N): which regions exist, and are boxes."""

    segmenter: Segmenter
    words: torch.Tensor
    targets: torch.Tensor
    valid: torch.Tensor
    boxed: torch.Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class DGA(EnergyGuidance):
    """eps' = eps + strength(grad of weight * (w_cov L_cov + w_size L_size + w_dist L_dist)).

    layouts: one for all images, or one per image in the order of the prompts; a region with a mask is compared with it,
    the others with their box. segmenter: `helpers.perception.segmenter.Segmenter` or anything with its `embed` and
    call; None loads the one that the backbone names. Defaults are those found on the miniature's dev split; `paper` has
    the paper's.
    """

    layouts: Layout | Sequence[Layout]
    segmenter: Segmenter | None = None
    weight: float = setting(25.0, low=0, high=1e6)  # lambda_DGA; paper 25
    coverage_weight: float = setting(1.0, low=0, high=1e4)  # w_cov; paper 1 (alone: the paper's ablation)
    size_weight: float = setting(0.05, low=0, high=1e4)  # w_size; paper 1
    distance_weight: float = setting(1.0, low=0, high=1e4)  # w_dist; paper 1
    window: Window = Window(0.0, 0.7)  # noqa: RUF009 (frozen)
    strength: Strength = Polyak(0.5)  # noqa: RUF009
    recurrence: Recurrence = Recurrence(10, Window(0.0, 0.15))  # noqa: RUF009
    grid: int = setting(64, low=4, high=512)  # side of the compared masks

    @classmethod
    def paper(cls, **given) -> "DGA":
        """All terms on, the weighted gradient as it is, every step once; DADG says no more."""
        return cls(**{"size_weight": 1.0, "strength": Raw(), "recurrence": Recurrence()} | given)

    @property
    def weights(self) -> dict[str, float]:
        return {"coverage": self.coverage_weight, "size": self.size_weight, "distance": self.distance_weight}

    def setup(self, job: Job) -> State:
        layouts = per_image(self.layouts, Layout, job, "DGA")
        for layout in layouts:
            phrases = [region.phrase for region in layout.regions]
            twice = next((p for p in phrases if phrases.count(p) > 1), None)
            if twice:
                raise ValueError(
                    f"two regions of {layout.prompt!r} have the phrase {twice!r}, which a segmenter cannot tell apart: "
                    "add a word that does, such as a colour"
                )
        device = job.backbone.device
        segmenter = self.segmenter or Segmenter.load(job.backbone.guide("segmenter"), device)
        most = max(len(layout.regions) for layout in layouts)

        def padded(rows):  # (n, N, ...), zeros for regions that an image does not have
            return torch.stack([F.pad(row, [0, 0] * (row.ndim - 1) + [0, most - len(row)]) for row in rows]).to(device)

        phrases = list(dict.fromkeys(r.phrase for layout in layouts for r in layout.regions))
        words = dict(zip(phrases, segmenter.embed(phrases), strict=True))
        return State(
            segmenter,
            padded([torch.stack([words[r.phrase] for r in layout.regions]) for layout in layouts]),
            padded([layout.masks(self.grid, self.grid) for layout in layouts]),
            padded([torch.ones(len(layout.regions), dtype=torch.bool) for layout in layouts]),
            padded([torch.tensor([r.mask is None for r in layout.regions]) for layout in layouts]),
        )

    def energy(self, ctx: Ctx, state: State) -> tuple[torch.Tensor, Info]:
        """L_DGA (B,). info: the terms (B,), iou (B, N), masks (B, N, grid, grid) in [0, 1]; 0 where no region is."""
        ctx.cost.auxiliary += len(ctx.index)
        logits = state.segmenter(ctx.image, state.words[ctx.index])
        found = F.interpolate(logits, (self.grid, self.grid), mode="area").sigmoid()
        targets, valid, boxed = state.targets[ctx.index], state.valid[ctx.index], state.boxed[ctx.index]
        masks = torch.where(boxed[..., None, None], soft_box(found), found)
        terms = {name: term(masks, targets, valid) for name, term in TERMS.items()}
        loss = sum(weight * terms[name] for name, weight in self.weights.items())
        info = {name: value.detach() for name, value in terms.items()}
        info["iou"] = soft_iou(masks.detach(), targets) * valid
        info["masks"] = found.detach() * valid[..., None, None]
        return loss, info
