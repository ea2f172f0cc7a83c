"""Factors: diffusion models that draw one variable of the graph, a condition or the picture, given others.

A factor without parents is a plain text-to-image model that draws maps. One with parents is a frozen text-to-image
model with a ControlNet (Zhang et al., ICCV 2023) that reads them: eps_theta(x_t, t, text, y_1 ... y_K), of which any
may be missing. Both are backbones: they sample through the one loop, and every method works inside them.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel

from helpers.backbones.backbone import Backbone, Text
from helpers.backbones.load import load_backbone
from helpers.backbones.unet import UNetBackbone
from helpers.paths import weights
from helpers.sampling.hooks import Guidance, Job

READS = "factor.json"  # beside a ControlNet: {"base": the model that it steers, "conditions": what it reads, in order}


class ControlledBackbone(UNetBackbone):
    """A U-Net whose decoder also gets what a ControlNet makes of maps.

    conditions: their names in the order in which the ControlNet reads them, four channels each: RGB in [0, 1], and 1
    where the map is there. Text holds them as "maps" (B, 4 K, H, W), all 0 unless `Conditions` says otherwise.
    """

    def __init__(self, base: UNetBackbone, control: ControlNetModel, conditions: Sequence[str]):
        channels = control.config.conditioning_channels
        if channels != 4 * len(conditions):
            raise ValueError(
                f"the ControlNet reads {channels} channels, {' and '.join(conditions)} have {4 * len(conditions)}: "
                "name the conditions that it was trained on"
            )
        super().__init__(base.pipe)
        self.control = control.eval().requires_grad_(False).to(self.device, self.dtype)
        self.conditions, self.guides = tuple(conditions), base.guides

    def encode_text(self, texts: Sequence[str]) -> Text:
        empty = torch.zeros(len(texts), 4 * len(self.conditions), *self.image_size)
        return super().encode_text(texts) | {"maps": empty.to(self.device, self.dtype)}

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, text: Text) -> torch.Tensor:
        down, mid = self.control(x_t, t, text["tokens"], controlnet_cond=text["maps"], return_dict=False)
        return self.denoiser(
            x_t,
            t,
            encoder_hidden_states=text["tokens"],
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditions(Guidance):
    """Gives the prompts' branch of a factor its maps; the unconditional branch has none, so that classifier-free
    guidance strengthens both: eps(x, 0, 0) + s (eps(x, text, y) - eps(x, 0, 0)).

    maps: name -> (n, 3, h, w) in [0, 1], a row per image of the run, at any size. Those left out are missing.
    """

    maps: Mapping[str, torch.Tensor]

    def setup(self, job: Job) -> torch.Tensor:
        backbone = job.backbone
        if not isinstance(backbone, ControlledBackbone):
            raise ValueError(f"this model reads no {' or '.join(self.maps) or 'maps'}: load one that does")
        for name, found in self.maps.items():
            if name not in backbone.conditions:
                raise ValueError(f"this model reads no {name!r}: give it {' or '.join(backbone.conditions)}")
            if not isinstance(found, torch.Tensor) or found.ndim != 4 or found.size(1) != 3:
                raise ValueError(f"the {name} is {_shape(found)}: give a tensor (images, 3, height, width)")
            if len(found) != len(job.prompts):
                raise ValueError(f"there are {len(found)} maps of {name} for {len(job.prompts)} prompts: give one each")
            if not (found.isfinite().all() and found.min() >= 0 and found.max() <= 1):
                raise ValueError(f"the {name} has values outside [0, 1]: divide bytes by 255, clamp what was decoded")
        return stacked(self.maps, backbone.conditions, len(job.prompts), backbone.image_size).to(
            backbone.device, backbone.dtype
        )

    def encode(self, text: Text, job: Job, state: torch.Tensor) -> Text:
        return text | {"maps": state}


def stacked(maps: Mapping[str, torch.Tensor], names: Sequence[str], rows: int, size: tuple[int, int]) -> torch.Tensor:
    """(rows, 4 K, *size): the maps in the order of `names`, each with a channel that says whether it is there."""
    parts = []
    for name in names:
        if name in maps:
            found = F.interpolate(maps[name].float().cpu(), size, mode="nearest-exact")
            parts += [found, torch.ones(rows, 1, *size)]
        else:
            parts.append(torch.zeros(rows, 4, *size))
    return torch.cat(parts, 1)


def load_factor(name: str | Path, device: str | torch.device | None = None) -> Backbone:
    """The factor models/<name>, or that of a folder in the Hub's layout: a pipeline, or a ControlNet with `READS`.

    ValueError for a name that is neither.
    """
    folder = Path(name) if Path(name).is_dir() else weights(str(name))
    if (folder / "model_index.json").is_file():
        found = copy.copy(load_backbone(folder, device))
        found.guides = {}  # no guide has learned to look at maps
        return found
    if not (folder / READS).is_file():
        raise ValueError(f"{folder} is no factor: it has neither a model_index.json nor a {READS}")
    stated = json.loads((folder / READS).read_text())
    control = ControlNetModel.from_pretrained(folder, dtype=torch.float32)
    return ControlledBackbone(load_backbone(stated["base"], device), control, stated["conditions"])


def _shape(value) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
