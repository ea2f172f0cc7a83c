"""Attention of a denoiser, recorded and edited: U-Net cross and self attention, image-to-text block of joint attention.

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
    """One attention layer. kind: "cross", "self" or "joint" (of MMDiT). place: "down", "mid", "up", or "block" in a
    transformer. factor: latent cells per attention pixel along a side. rank: 0 at the coarsest factor, 1 at the next.
    """

    name: str
    kind: str
    place: str
    factor: int
    rank: int

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the layer's pixels over latents of that size."""
        return ceil(height / self.factor), ceil(width / self.factor)


KINDS = {"cross": ("cross", "joint"), "self": ("self",)}  # what is meant -> the kinds of its sites


@dataclass(frozen=True)
class Layers:
    """Which layers are meant; None is all. A U-Net's "cross" is a transformer's image-to-text block of "joint".

    Resolutions are told by rank from the coarsest: where a paper of Stable Diffusion says 8 x 8 and 16 x 16 of latents
    of 64 x 64, that is 0 and 1.
    """

    kind: str = "cross"
    places: tuple[str, ...] | None = None
    ranks: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"layers have no kind {self.kind!r}: use one of {', '.join(KINDS)}")

    def __contains__(self, site: Site) -> bool:
        return (
            site.kind in KINDS[self.kind]
            and (self.places is None or site.place in (*self.places, "block"))
            and (self.ranks is None or site.rank in self.ranks or site.place == "block")
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
    """maps: site -> (B, heads, pixels, keys), after all edits, with graph. size: height and width of the latents."""

    size: tuple[int, int]
    maps: dict[Site, torch.Tensor] = field(default_factory=dict)

    def of(self, layers: Layers) -> dict[Site, torch.Tensor]:
        """The recorded maps of these layers; ValueError when there are none."""
        found = {site: maps for site, maps in self.maps.items() if site in layers}
        if not found:
            raise ValueError(
                f"no attention of {layers} was recorded: the denoiser has {', '.join(map(str, self.maps))}"
            )
        return found

    def part(self, rows: list[int]) -> "Recorded":
        """Some of the images, without graph."""
        return Recorded(self.size, {site: maps[rows].detach() for site, maps in self.maps.items()})


def sites(denoiser: torch.nn.Module) -> dict[Site, AttentionModule]:
    """Every attention layer of a UNet2DConditionModel or an SD3Transformer2DModel."""
    found = {}
    for name, module in denoiser.named_modules():
        if isinstance(module, AttentionModule):
            kind = "joint" if module.added_kv_proj_dim else "cross" if module.is_cross_attention else "self"
            found[name] = (kind, *_where(denoiser, name), module)
    coarsest = max((factor for _, _, factor, _ in found.values()), default=1)
    return {
        Site(name, kind, place, factor, (coarsest // factor).bit_length() - 1): module
        for name, (kind, place, factor, module) in found.items()
    }


def _where(denoiser, name: str) -> tuple[str, int]:
    """Place and factor, of the blocks' names: every block of a U-Net halves or doubles the sides."""
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
    recorded, changed = Recorded(size), []
    every = sites(denoiser) if read or edits else {}
    for layers in (*read, *(edit.layers for edit in edits)):
        if not any(site in layers for site in every):
            raise ValueError(f"{type(denoiser).__name__} has no attention {layers}: choose other layers")
    try:
        for site, module in every.items():
            mine = [edit for edit in edits if site in edit.layers]
            keep = any(site in layers for layers in read)
            if mine or keep:
                changed.append((module, module.processor))
                module.processor = _Explicit(module.processor, site, images, mine, recorded, keep)
        yield recorded
    finally:
        for module, processor in changed:
            module.processor = processor


class _Explicit:
    """A layer's own processor, its attention computed by `_attend`."""

    def __init__(self, processor, site: Site, images: int, edits: list[Edit], recorded: Recorded, keep: bool):
        self.processor, self.site, self.images, self.edits = processor, site, images, edits
        self.recorded, self.keep = recorded, keep

    def __call__(self, attn, *args, **kwargs):
        self.seen = False
        with _Instead(self._attend):
            out = self.processor(attn, *args, **kwargs)
        if not self.seen:
            raise RuntimeError(
                f"{self.site.name} runs {type(self.processor).__name__}, which does not call "
                "scaled_dot_product_attention: call denoiser.set_attn_processor(AttnProcessor2_0())"
            )
        return out

    def _attend(self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None):
        self.seen, n = True, self.images
        scores = query[:n] @ key[:n].transpose(-1, -2) * (scale or query.size(-1) ** -0.5)
        if attn_mask is not None:  # additive, as diffusers prepares it
            attn_mask = attn_mask.expand(len(query), -1, -1, -1)
            scores = scores + attn_mask[:n]
        pixels = self._pixels()
        scores = self._changed(scores, "scores", pixels)
        probs = self._changed(scores.softmax(-1), "probs", pixels)
        if self.keep:
            self.recorded.maps[self.site] = self._block(probs, pixels)
        mine = probs @ value[:n]
        if len(query) == n:
            return mine
        rest_mask = attn_mask if attn_mask is None else attn_mask[n:]
        return torch.cat([mine, F.scaled_dot_product_attention(query[n:], key[n:], value[n:], rest_mask, scale=scale)])

    def _pixels(self) -> int:
        height, width = self.site.grid(*self.recorded.size)
        return height * width

    def _block(self, full, pixels):
        """Image to text in joint attention, whose keys are the pixels and then the tokens; everything elsewhere."""
        return full[:, :, :pixels, pixels:] if self.site.kind == "joint" else full

    def _changed(self, full, stage: str, pixels: int):
        for change in filter(None, (getattr(edit, stage) for edit in self.edits)):
            block = change(self._block(full, pixels), self.site)
            if self.site.kind == "joint":
                top = torch.cat([full[:, :, :pixels, :pixels], block], -1)
                block = torch.cat([top, full[:, :, pixels:]], -2)
            full = block
        return full


class _Instead(TorchFunctionMode):
    """Inside, scaled_dot_product_attention is `attend`."""

    def __init__(self, attend: Callable):
        super().__init__()
        self.attend = attend

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return (self.attend if func is F.scaled_dot_product_attention else func)(*args, **(kwargs or {}))
