"""Attention of a denoiser, recorded and edited: U-Net cross and self attention, the blocks of joint attention.

    A = softmax(S),  S = Q K^T / sqrt(d)        per layer and head: (B, heads, pixels, tokens or pixels)

Inside `with attention(...)` the chosen layers compute A explicitly: edits may change S and then A, and A is kept with
its graph. All other layers, and all of them outside, run the fused kernel as if nothing were here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention as AttentionModule
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Site:
    """One attention layer over latents of some size. kind: "cross" (pictures ask words) or "self" (pictures ask
    pictures); a layer of joint attention is both. place: "down", "mid", "up", or "block" in a transformer. grid: height
    and width of the layer's pixels. rank: 0 at the coarsest grid, 1 at the next. joint: is it a joint attention block.
    """

    name: str
    kind: str
    place: str
    grid: tuple[int, int]
    rank: int
    joint: bool = False


KINDS = ("cross", "self")


@dataclass(frozen=True)
class Layers:
    """Which layers are meant; None is all. A transformer has one resolution and no places: `places` and `ranks` do not
    choose among its blocks.

    Resolutions are told by the cells along the shorter side of the grid, or by rank from the coarsest: where a paper of
    Stable Diffusion says 8 x 8 and 16 x 16 of latents of 64 x 64, that is cells 8 and 16, ranks 0 and 1.
    """

    kind: str = "cross"
    places: tuple[str, ...] | None = None
    ranks: tuple[int, ...] | None = None
    cells: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"layers have no kind {self.kind!r}: use one of {', '.join(KINDS)}")

    def __contains__(self, site: Site) -> bool:
        return site.kind == self.kind and (
            site.place == "block"
            or (
                (self.places is None or site.place in self.places)
                and (self.ranks is None or site.rank in self.ranks)
                and (self.cells is None or min(site.grid) in self.cells)
            )
        )


Change = Callable[[torch.Tensor, Site], torch.Tensor]


@dataclass(frozen=True)
class Edit:
    """scores, probs: (B, heads, pixels, keys), Site -> the same shape; keys are text tokens, or pixels in "self"
    layers. Edited probs need not add up to 1."""

    layers: Layers
    scores: Change | None = None
    probs: Change | None = None


@dataclass
class Recorded:
    """maps: site -> (B, heads, pixels, keys), after all edits, with graph."""

    maps: dict[Site, torch.Tensor] = field(default_factory=dict)

    def of(self, layers: Layers) -> dict[Site, torch.Tensor]:
        """The recorded maps of these layers; ValueError when there are none."""
        found = {site: maps for site, maps in self.maps.items() if site in layers}
        if not found:
            raise ValueError(
                f"no attention of {layers} was recorded: there is {', '.join(map(str, self.maps)) or 'none'}"
            )
        return found

    def detached(self) -> "Recorded":
        """The same without graph."""
        return Recorded({site: maps.detach() for site, maps in self.maps.items()})

    def part(self, rows: list[int]) -> "Recorded":
        """Some of the images, without graph."""
        return Recorded({site: maps[rows].detach() for site, maps in self.maps.items()})


def sites(denoiser: torch.nn.Module, size: tuple[int, int]) -> dict[Site, AttentionModule]:
    """Every attention layer of a UNet2DConditionModel or an SD3Transformer2DModel, over latents of `size`; a layer of
    joint attention twice, as "cross" and as "self"."""
    denoiser = getattr(denoiser, "_orig_mod", denoiser)  # torch.compile wraps the model
    found = {}
    for name, module in denoiser.named_modules():
        if isinstance(module, AttentionModule):
            kinds = KINDS if module.added_kv_proj_dim else ("cross",) if module.is_cross_attention else ("self",)
            found[name] = (kinds, *_where(denoiser, name), module)
    coarsest = max((factor for _, _, factor, _ in found.values()), default=1)
    return {
        Site(
            name, kind, place, (ceil(size[0] / factor), ceil(size[1] / factor)),
            (coarsest // factor).bit_length() - 1, len(kinds) == 2,
        ): module
        for name, (kinds, place, factor, module) in found.items()
        for kind in kinds
    }  # fmt: skip


def _where(denoiser, name: str) -> tuple[str, int]:
    """Place and factor (latent cells per pixel along a side), of the blocks' names: every block of a U-Net halves or
    doubles the sides."""
    if name.startswith("transformer_blocks"):
        return "block", denoiser.config.patch_size
    last = len(denoiser.config.down_block_types) - 1
    block, number = name.split(".")[:2]
    if block == "mid_block":
        return "mid", 2**last
    return ("down", 2 ** int(number)) if block == "down_blocks" else ("up", 2 ** (last - int(number)))


@contextmanager
def attention(
    denoiser: torch.nn.Module,
    size: tuple[int, int],
    images: int,
    read: Sequence[Layers] = (),
    edits: Sequence[Edit] = (),
) -> Iterator[Recorded]:
    """Record the layers `read` and apply `edits`, in their order, to the first `images` rows of what the denoiser is
    given; rows after them (other branches) are left alone. size: height and width of the latents.

    The layers are restored on leaving, also after an exception. With gradient checkpointing the backward pass belongs
    inside. ValueError when the denoiser has no layer of those that are meant.
    """
    recorded, changed = Recorded(), []
    every = sites(denoiser, size) if read or edits else {}
    for layers in (*read, *(edit.layers for edit in edits)):
        if not any(site in layers for site in every):
            there = sorted({(site.kind, site.place, min(site.grid)) for site in every})
            raise ValueError(
                f"{type(denoiser).__name__} has no attention {layers}: of kind, place and cells it has "
                f"{', '.join(' '.join(map(str, one)) for one in there)}"
            )
    views: dict[AttentionModule, list[_View]] = {}
    for site, module in every.items():
        mine = [edit for edit in edits if site in edit.layers]
        keep = any(site in layers for layers in read)
        if mine or keep:
            views.setdefault(module, []).append(_View(site, mine, keep))
    try:
        for module, seen in views.items():
            changed.append((module, module.processor))
            module.processor = _Explicit(module.processor, seen, images, recorded)
        yield recorded
    finally:
        for module, processor in changed:
            module.processor = processor


@dataclass
class _View:
    """What is done at one site."""

    site: Site
    edits: list[Edit]
    keep: bool

    def block(self, full: torch.Tensor) -> torch.Tensor:
        """The pictures' rows and the site's keys; in joint attention pixels come before tokens on both sides."""
        if not self.site.joint:
            return full
        pixels = self.site.grid[0] * self.site.grid[1]
        return full[:, :, :pixels, pixels:] if self.site.kind == "cross" else full[:, :, :pixels, :pixels]

    def changed(self, full: torch.Tensor, stage: str) -> torch.Tensor:
        """Scores or probabilities after this site's edits."""
        for change in filter(None, (getattr(edit, stage) for edit in self.edits)):
            block = change(self.block(full), self.site)
            full = self._with(full, block) if self.site.joint else block
        return full

    def _with(self, full: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
        pixels = self.site.grid[0] * self.site.grid[1]
        words, places = full[:, :, :pixels, pixels:], full[:, :, :pixels, :pixels]
        top = [places, block] if self.site.kind == "cross" else [block, words]
        return torch.cat([torch.cat(top, -1), full[:, :, pixels:]], -2)


class _Explicit:
    """A layer's own processor, its attention computed by `_attend`."""

    def __init__(self, processor, views: list[_View], images: int, recorded: Recorded):
        self.processor, self.views, self.images, self.recorded = processor, views, images, recorded

    def __call__(self, attn, *args, **kwargs):
        self.seen = False
        with _Instead(self._attend):
            out = self.processor(attn, *args, **kwargs)
        if not self.seen:
            raise RuntimeError(
                f"{self.views[0].site.name} runs {type(self.processor).__name__}, which does not call "
                "scaled_dot_product_attention: call denoiser.set_attn_processor(AttnProcessor2_0())"
            )
        return out

    def _attend(self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
        self.seen, n = True, self.images
        # scores and softmax in float32, as the fused kernels have them, whatever the model's precision
        wide = torch.promote_types(query.dtype, torch.float32)
        scores = query[:n].to(wide) @ key[:n].to(wide).transpose(-1, -2) * (scale or query.size(-1) ** -0.5)
        if attn_mask is not None:  # additive, as diffusers prepares it
            attn_mask = attn_mask.expand(len(query), -1, -1, -1)
            scores = scores + attn_mask[:n]
        for view in self.views:
            scores = view.changed(scores, "scores")
        probs = scores.softmax(-1)
        for view in self.views:
            probs = view.changed(probs, "probs")
        for view in self.views:
            if view.keep:
                self.recorded.maps[view.site] = view.block(probs)
        mine = (probs @ value[:n].to(wide)).to(value.dtype)
        if len(query) == n:
            return mine
        rest_mask = attn_mask if attn_mask is None else attn_mask[n:]
        return torch.cat([mine, F.scaled_dot_product_attention(query[n:], key[n:], value[n:], rest_mask, scale=scale)])


class _Instead(TorchFunctionMode):
    """Inside, scaled_dot_product_attention is `attend`."""

    def __init__(self, attend: Callable):
        super().__init__()
        self.attend = attend

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return (self.attend if func is F.scaled_dot_product_attention else func)(*args, **(kwargs or {}))
