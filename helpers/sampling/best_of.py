"""Best of N: a picture that a verifier refuses is drawn again from other noise, and the best try is kept.

    x_k = sample(z_k),  z_k ~ N(0, I),  k = 1, 2 ... until V(x_k) <= 1, N times at most;     x = argmin_k V(x_k)
    V(x) = max_j L_j(x) / a_j        losses L_j of models that guide, a_j what is accepted of each

FG-DM (Sridhar et al., NeurIPS 2024) calls it sampling-based prompt compliance: it draws N small maps of a scene at
once, and V is the share of the prompt's objects that a map lacks. Ma et al. 2025 ("Inference-time scaling for diffusion
models beyond scaling denoising steps") search over noise with verifiers. To stop at the first accepted try is ours:
most pictures then cost what one costs. No gradient is needed, and any list of guidance objects goes with it:

    def draw(rows, k):
        seeds = [try_seed(row, k) for row in rows]
        return sample(backbone, [prompts[row] for row in rows], [CFG(5.0)], seeds=seeds).images

    best = best_of(draw, verify, images=len(prompts), tries=4)     # verify: see helpers/experiments/dca.py
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from helpers.sampling.seeds import derived


@dataclass
class Best:
    """images (n, 3, H, W) in [0, 1]: the kept tries. kept (n,): which one, 0 the first. tries (n,): how many were
    drawn. verdicts (n,): V of the kept ones."""

    images: torch.Tensor
    kept: torch.Tensor
    tries: torch.Tensor
    verdicts: torch.Tensor


def try_seed(seed: int, k: int) -> int:
    """The seed of try k of a picture; the first try, k = 0, has the picture's own."""
    return derived(seed, k) if k else seed


def best_of(
    draw: Callable[[list[int], int], torch.Tensor],
    verify: Callable[[torch.Tensor, list[int]], torch.Tensor],
    images: int,
    tries: int,
) -> Best:
    """Draw every picture, then those that are refused again, `tries` times at most.

    draw(rows, k): try k (0 is the first) of the pictures at these places -> (B, 3, H, W); let it seed their noise with
    `try_seed(seed, k)`. verify(pictures, rows) -> V (B,), at most 1 where accepted. ValueError for fewer than one
    picture or try, and for a V that is not a number. V is for models that guide: a judge that chose pictures could not
    score them any more.
    """
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in (images, tries)):
        raise ValueError(f"best of {tries!r} tries of {images!r} pictures: draw a whole number of each, at least one")
    rows = list(range(images))
    drawn = draw(rows, 0)
    best = Best(drawn.clone(), *torch.tensor([[0] * images, [1] * images]), _checked(verify(drawn, rows), rows))
    for k in range(1, tries):
        rows = (best.verdicts > 1).nonzero().flatten().tolist()
        if not rows:
            break
        drawn = draw(rows, k)
        verdicts = _checked(verify(drawn, rows), rows)
        best.tries[rows] += 1
        for row, image, verdict in zip(rows, drawn, verdicts, strict=True):
            if verdict < best.verdicts[row]:
                best.images[row], best.kept[row], best.verdicts[row] = image, k, verdict
    return best


def worst(losses: Mapping[str, torch.Tensor], accepted: Mapping[str, float]) -> torch.Tensor:
    """V (B,): the largest of the losses (B,), each as a share of what is accepted of it; 0 where nothing is asked.

    ValueError for the name of a loss that there is not.
    """
    unknown = next((name for name in accepted if name not in losses), None)
    if unknown:
        raise ValueError(f"there is no loss {unknown!r} to accept: use {' or '.join(losses)}")
    nothing = torch.zeros_like(next(iter(losses.values())))
    return torch.stack([nothing, *(losses[name] / limit for name, limit in accepted.items())]).amax(0)


def _checked(verdicts: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    verdicts = verdicts.detach().float().cpu().clone()
    if verdicts.shape != (len(rows),) or verdicts.isnan().any():
        raise ValueError(f"verify gave {verdicts.tolist()} for {len(rows)} pictures: one number for each is needed")
    return verdicts
