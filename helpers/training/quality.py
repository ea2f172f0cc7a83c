"""Fits the head of `helpers.judges.quality` and measures it on other scenes and other kinds of flaws: `python -m
helpers.training.quality`."""

import json

import torch
import torch.nn.functional as F

from helpers.files import writing
from helpers.judges.quality import HEAD, Quality, layers_of
from helpers.params import load
from helpers.paths import weights
from helpers.perception.similarity import Similarity
from helpers.training.flaws import pictures

DECAY = 1e-2  # weight of |w|^2, which keeps P away from 0 and 1


def fitted(clip: Similarity, good: torch.Tensor, bad: torch.Tensor) -> Quality:
    """To flawless and flawed pictures (n, 3, H, W)."""
    seen, flawed = layers_of(clip, good), layers_of(clip, bad)
    mean, spread = seen.mean(0), seen.std(0) + 1e-6
    return Quality(clip, mean, spread, *fit((seen - mean) / spread, (flawed - mean) / spread))


def fit(good: torch.Tensor, bad: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Logistic regression of two (n, d) sets: w (d,) and b, by L-BFGS."""
    x = torch.cat([good, bad]).double()
    y = torch.cat([torch.ones(len(good)), torch.zeros(len(bad))]).double()
    w = torch.zeros(x.size(1) + 1, dtype=torch.double, requires_grad=True)
    solver = torch.optim.LBFGS([w], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = F.binary_cross_entropy_with_logits(x @ w[:-1] + w[-1], y) + DECAY * w[:-1].square().sum() / 2
        value.backward()
        return value

    solver.step(loss)
    return w[:-1].detach().float(), float(w[-1].detach())


def measure(good: torch.Tensor, bad: torch.Tensor) -> dict[str, float]:
    """Of P for (n,) flawless and (m,) flawed pictures: auc, the share of pairs in the right order; ece, the mean
    distance of P from the share of flawless pictures over ten bins (Naeini et al. 2015)."""
    p = torch.cat([good, bad])
    y = torch.cat([torch.ones(len(good)), torch.zeros(len(bad))])
    bins = (p * 10).long().clamp(max=9)
    gaps = [
        (p[bins == k].mean() - y[bins == k].mean()).abs() * (bins == k).float().mean() for k in bins.unique().tolist()
    ]
    return {"auc": float((good[:, None] > bad).float().mean()), "ece": float(torch.stack(gaps).sum())}


def main() -> None:
    clip = Similarity.load(weights("judge-clip"))
    quality = fitted(clip, *pictures("fit", load().profile.quality))
    numbers = measure(*(quality(images) for images in pictures("held-out", 500)))
    stored = {name: getattr(quality, name).tolist() for name in ("mean", "spread", "weight")}
    with writing(HEAD) as file:
        json.dump({**stored, "bias": quality.bias, "metrics": numbers}, file)
    print(", ".join(f"{name} {value:.3f}" for name, value in numbers.items()))


if __name__ == "__main__":
    main()
