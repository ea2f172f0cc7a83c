"""Optical flow that can be differentiated with respect to both images: RAFT (Teed & Deng 2020).

torchvision's RAFT compares features of every eighth pixel and wants 128 pixels at least. Smaller images are enlarged
here and the flow is brought back to their own pixels. The miniature (models/raft) is `raft_small` with the learned
upsampling of `raft_large`: objects of 25 pixels are a few cells wide, and interpolated flow blurs their borders.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import get_model, list_models, optical_flow
from torchvision.models.optical_flow import RAFT, raft_small
from torchvision.models.optical_flow.raft import MaskPredictor

NAMES = list_models(optical_flow)
SMALLEST = 128  # pixels of the shorter side: the coarsest of the four correlation levels then has two cells


def miniature(mask_hidden: int = 64) -> RAFT:
    """raft_small (untrained) with a predictor of upsampling weights of `mask_hidden` channels, 1.1 M parameters."""
    return raft_small(mask_predictor=MaskPredictor(in_channels=96, hidden_size=mask_hidden))


def flows(raft: RAFT, source: torch.Tensor, target: torch.Tensor, updates: int, smallest: int) -> list[torch.Tensor]:
    """The flow after each of RAFT's updates, (B, 2, H, W) in pixels of the images, which are (B, 3, H, W) in [0, 1].

    Images whose shorter side has less than `smallest` pixels are enlarged by a whole factor.
    """
    h, w = source.shape[-2:]
    factor = max(1, -(-smallest // min(h, w)))
    size = [-(-side * factor // 8) * 8 for side in (h, w)]
    if size != [h, w]:
        source, target = (F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (source, target))
    out = raft(source * 2 - 1, target * 2 - 1, num_flow_updates=updates)
    raft.corr_block.corr_pyramid = []  # torchvision keeps it, and with it the graph of this pass
    if size == [h, w]:
        return out
    scale = torch.tensor([w / size[1], h / size[0]], device=source.device)[:, None, None]
    return [F.interpolate(flow.float(), (h, w), mode="area") * scale for flow in out]


class Flow(nn.Module):
    """A frozen RAFT. smallest: the shorter side in pixels below which images are enlarged."""

    def __init__(self, raft: RAFT, smallest: int = SMALLEST):
        super().__init__()
        self.raft, self.smallest = raft.eval().requires_grad_(False), smallest

    @classmethod
    def load(cls, name_or_path: str | Path, device="cpu") -> "Flow":
        """From a folder that `save` wrote, or torchvision's trained weights: "raft_large" or "raft_small"."""
        if str(name_or_path) in NAMES:
            return cls(get_model(str(name_or_path), weights="DEFAULT").to(device))
        folder = Path(name_or_path)
        if not (folder / "config.json").is_file():
            raise ValueError(f"{name_or_path} is no folder with a config.json: name one, or use {', '.join(NAMES)}")
        config = json.loads((folder / "config.json").read_text())
        raft = miniature(config["mask_hidden"])
        weights = load_file(folder / "model.safetensors", device=str(device))
        raft.load_state_dict({key: value.float() for key, value in weights.items()})
        return cls(raft.to(device), config["smallest"])

    def save(self, folder: Path) -> None:
        """config.json and model.safetensors in half precision, for `load`."""
        config = {"mask_hidden": self.raft.mask_predictor.convrelu[0].out_channels, "smallest": self.smallest}
        (folder / "config.json").write_text(json.dumps(config) + "\n")
        weights = {key: value.half().contiguous() for key, value in self.raft.state_dict().items()}
        save_file(weights, folder / "model.safetensors")

    def forward(self, source: torch.Tensor, target: torch.Tensor, updates: int = 4) -> torch.Tensor:
        """Where every pixel of `source` lies in `target`: (B, 2, H, W) float32, x then y, in pixels.

        source, target: (B, 3, H, W) in [0, 1]. updates: RAFT's refinements; the miniature trained with 4, the real
        weights with 12. Differentiable with respect to both images.
        """
        for name, images in (("source", source), ("target", target)):
            if images.dim() != 4 or images.size(1) != 3:
                raise ValueError(f"{name} must be (B, 3, H, W) in [0, 1], got {tuple(images.shape)}")
        if source.shape != target.shape:
            raise ValueError(f"source {tuple(source.shape)} and target {tuple(target.shape)} differ: resize one")
        return flows(self.raft, source.float(), target.float(), updates, self.smallest)[-1].float()
