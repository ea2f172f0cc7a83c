"""iLGD, injected and loss-guided layout control (Patel & Serkh, WACV 2025): attention is pushed, then pulled, to boxes.

Injection, early: in every cross-attention layer the scores of a region's token k are raised inside its box m_k,

    S' = S + nu_t max(S_k) m_k,   nu_t = nu log(1 + sigma_t),   A' = softmax(S')       max over heads and pixels

Loss guidance, longer: with A_n^k the maps of token k in all heads and layers n, at one resolution,

    A^k = sum_n w_n A_n^k,        w = softmax_n(mean_p A_n^k(p))
    L   = sum_k [sum_{p not in B_k} A^k(p) - sum_{p in B_k} A^k(p)]
    eps' = eps + eta sigma_t grad_{x_t} L

sigma_t = sqrt((1 - alpha_bar) / alpha_bar): the authors sample with LMS, which works on x_t / sqrt(alpha_bar); the
strength rule `Raw` reads it as sqrt(1 - alpha_bar) instead. Defaults are theirs: nu .75 in steps 1 to 10 of 50, eta .32
in 1 to 24 (step 0 is left alone), token k the noun; 16 x 16 maps of latents of 64 x 64 are those of the second coarsest
resolution. Both act at once early on: the loss then sees maps that are injected already.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch
import torch.nn.functional as F

from helpers.attention import Edit, Layers, Recorded, Site
from helpers.conditions import Layout
from helpers.guidance.base import Ctx, Info, Window
from helpers.guidance.regions import OnLayouts, of_regions, of_tokens
from helpers.guidance.strength import Exploding, Strength


def combined(seen: Recorded, tokens: torch.Tensor, layers: Layers, grid: tuple[int, int]) -> torch.Tensor:
    """A^k: (B, N, *grid), of N tokens or groups of tokens (B, N, T), from every head and layer."""
    maps = []
    for site, probs in seen.of(layers).items():
        of_site = of_regions(probs, tokens).unflatten(-1, site.grid(*seen.size))  # (B, heads, N, h, w)
        maps.append(F.interpolate(of_site.flatten(0, 1), grid, mode="bilinear").unflatten(0, of_site.shape[:2]))
    stacked = torch.cat(maps, 1)
    return (stacked.mean((-2, -1), keepdim=True).softmax(1) * stacked).sum(1)


def difference(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """(B, N, h, w) attention and boxes -> (B, N): outside minus inside, the paper's."""
    return (maps * (1 - 2 * boxes)).sum((-2, -1))


def mean_difference(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """The means outside and inside instead of the sums, in units of the whole map: area does not count."""
    inside = (maps * boxes).sum((-2, -1)) / boxes.sum((-2, -1)).clamp(min=1e-6)
    outside = (maps * (1 - boxes)).sum((-2, -1)) / (1 - boxes).sum((-2, -1)).clamp(min=1e-6)
    return (outside - inside) / maps.mean((-2, -1)).clamp(min=1e-6)


def squared_share(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """(1 - share of the attention that is inside)^2, as layout-guidance (Chen et al. 2024) has it."""
    return (1 - _share(maps, boxes)).square()


def log_share(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """-log of the share that is inside: the cross entropy of one draw from the map."""
    return -_share(maps, boxes).clamp(min=1e-6).log()


def peak(maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Largest value outside minus largest inside, in units of the map's mean: only the place of the maximum counts."""
    top = (maps * (1 - boxes)).amax((-2, -1)) - (maps * boxes).amax((-2, -1))
    return top / maps.mean((-2, -1)).clamp(min=1e-6)


def _share(maps, boxes):
    return (maps * boxes).sum((-2, -1)) / maps.sum((-2, -1)).clamp(min=1e-6)


LOSSES: dict[str, Callable] = {
    "difference": difference,
    "mean_difference": mean_difference,
    "squared_share": squared_share,
    "log_share": log_share,
    "peak": peak,
}


class ILGD(OnLayouts):
    """injection: nu, 0 for none. weight: eta, 0 for none. injection_window, window: where either acts. loss: a name in
    LOSSES."""

    layers = Layers()

    def __init__(
        self,
        layouts: Sequence[Layout],
        injection: float = 0.75,
        weight: float = 0.32,
        injection_window: Window = Window(0.02, 0.22),  # noqa: B008 (frozen)
        window: Window = Window(0.02, 0.5),  # noqa: B008 (frozen)
        strength: Strength = Exploding(),  # noqa: B008 (frozen)
        loss: str = "difference",
    ):
        if loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}: use one of {', '.join(LOSSES)}")
        super().__init__(layouts)
        self.injection, self.weight = injection, weight
        if not weight:
            self.energy = None  # no gradient, so none is paid for
        self.injection_window, self.window, self.strength, self.loss = injection_window, window, strength, loss

    def settings(self) -> dict:
        own = {"injection": self.injection, "injection_window": asdict(self.injection_window), "loss": self.loss}
        return super().settings() | own

    def active(self, ctx: Ctx) -> bool:
        return ctx in self.window or ctx in self.injection_window

    def edits(self, ctx: Ctx) -> list[Edit]:
        if not self.injection or ctx not in self.injection_window:
            return []
        regions, nu = self._regions.part(ctx.index), self.injection * torch.log1p(ctx.noise_ratio)

        def inject(scores: torch.Tensor, site: Site) -> torch.Tensor:
            inside = of_tokens(regions.pixels(site), regions.nouns)
            return scores + nu * scores.amax((1, 2), keepdim=True) * inside

        return [Edit(self.layers, scores=inject)]

    def energy(self, ctx: Ctx) -> tuple[torch.Tensor, Info]:
        """L (B,); 0 outside the loss's window. info: inside (B, N), the share of the attention inside the boxes; maps
        (B, N, h, w), A^k divided by its largest value."""
        regions = self._regions.part(ctx.index)
        grid = second_coarsest(ctx.attention, self.layers)
        maps, boxes = combined(ctx.attention, regions.nouns, self.layers, grid), regions.places(*grid)
        loss = torch.where(regions.valid, LOSSES[self.loss](maps, boxes), 0).sum(1)
        seen = maps.detach()
        info = {"inside": _share(seen, boxes) * regions.valid, "maps": seen / seen.amax((-2, -1), True).clamp(min=1e-6)}
        return (loss if ctx in self.window else 0 * loss), info


def second_coarsest(seen: Recorded, layers: Layers) -> tuple[int, int]:
    """Height and width of the maps that papers on Stable Diffusion call 16 x 16."""
    site = min(seen.of(layers), key=lambda site: (abs(site.rank - 1), site.name))
    return site.grid(*seen.size)
