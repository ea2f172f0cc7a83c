"""Models of transformers by name or folder: the class that the configuration names, among those that a role serves."""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedConfig, PreTrainedModel


def pretrained(
    name_or_path: str | Path,
    config: type[PreTrainedConfig],
    models: Mapping[str, type[PreTrainedModel]],
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """From a folder in the Hub's layout, or a name on the Hub; ValueError for a class that is not in `models`."""
    (name,) = config.from_pretrained(name_or_path).architectures
    if name not in models:
        raise ValueError(f"{name_or_path} holds a {name}: use one of {', '.join(models)}")
    return models[name].from_pretrained(name_or_path, attn_implementation="sdpa", dtype=dtype)
