"""How far a set of images is from held-out scenes, on the judge's features: kernel distance and Frechet distance.

Features are standardised with the mean and deviation of the reference set, so that the judge's units do not matter.
"""

import numpy as np
import torch

from helpers.metrics import stats


def standardise(features: torch.Tensor, reference: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(n, d), (m, d) -> float64 arrays in units of the reference's deviations around its mean."""
    if features.dim() != 2 or reference.dim() != 2 or features.shape[1] != reference.shape[1]:
        raise ValueError(
            f"features {tuple(features.shape)} and reference {tuple(reference.shape)} must be (n, d) and (m, d)"
        )
    x, y = features.double().numpy(), reference.double().numpy()
    center, scale = y.mean(0), y.std(0) + 1e-8
    return (x - center) / scale, (y - center) / scale


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The polynomial kernel (x y / d + 1)^3 of the kernel inception distance (Binkowski et al. 2018)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


class KernelDistance:
    """Unbiased squared maximum mean discrepancy of n images to the reference, as a function of the images' counts.

    MMD^2 = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{ij} k(x_i, y_j); it can be negative. In a
    bootstrap sample, two copies of one image are no pair (they would bias the first mean upwards).
    """

    def __init__(self, features: torch.Tensor, reference: torch.Tensor):
        x, y = standardise(features, reference)
        if min(len(x), len(y)) < 2:
            raise ValueError(f"kernel distance needs two images on each side, got {len(x)} and {len(y)}")
        self.within = kernel(x, x)
        np.fill_diagonal(self.within, 0)
        self.across = kernel(x, y).mean(1)
        reference_kernel = kernel(y, y)
        self.reference = (reference_kernel.sum() - np.trace(reference_kernel)) / (len(y) * (len(y) - 1))
        self.n = len(x)

    def __call__(self, counts: np.ndarray) -> float:
        total = counts.sum()
        within = counts @ self.within @ counts / (total**2 - (counts**2).sum())
        return float(within + self.reference - 2 * (counts @ self.across) / total)


def kernel_distance(features: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """features (n, d), reference (m, d) -> {"mean", "lo", "hi", "n"}, the interval over the n images."""
    distance = KernelDistance(features, reference)
    return stats.bootstrap(distance, distance.n)


def kernel_distance_difference(
    features: torch.Tensor, baseline: torch.Tensor, reference: torch.Tensor
) -> dict[str, float]:
    """Kernel distance of features minus that of the baseline: same prompts, same bootstrap samples for both."""
    if features.shape != baseline.shape:
        raise ValueError(f"{len(features)} images cannot be paired with {len(baseline)}: score the same prompts")
    ours, theirs = KernelDistance(features, reference), KernelDistance(baseline, reference)
    return stats.bootstrap(lambda w: ours(w) - theirs(w), ours.n)


def frechet(features: torch.Tensor, reference: torch.Tensor) -> float:
    """|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)) (Heusel et al. 2017).

    Biased upwards at small n, hence informative only; `kernel_distance` is not.

    ValueError when the smaller set has no more images than features have dimensions (its covariance is singular).
    """
    x, y = standardise(features, reference)
    if min(len(x), len(y)) <= x.shape[1]:
        raise ValueError(
            f"Frechet distance over {x.shape[1]} features needs more images than that, got {len(x)} and {len(y)}"
        )
    cx, cy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(cx @ cy).real.clip(min=0)).sum()  # the product's eigenvalues are not negative
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cx) + np.trace(cy) - 2 * root)
