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

from helpers.perception.loading import loading, source
from helpers.perception.preprocessing import check_images

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
    """A frozen RAFT. smallest: the shorter side in pixels below which images are enlarged; updates: its refinements.

    The miniature was trained with 4 updates, torchvision's weights with 12, which is what `load` gives each of them.
    """

    def __init__(self, raft: RAFT, smallest: int = SMALLEST, updates: int = 4):
        super().__init__()
        self.raft, self.smallest, self.updates = raft.eval().requires_grad_(False), smallest, updates

    @classmethod
    def load(cls, name: str | Path, device="cpu") -> "Flow":
        """From a name in models/ or a folder that `save` wrote, or torchvision's "raft_large" or "raft_small"."""
        where = source(name, *NAMES)
        if isinstance(where, str):
            if where not in NAMES:
                raise ValueError(f"{where!r} is no RAFT: name one in models/, a folder, or one of {', '.join(NAMES)}")
            with loading(where):
                raft = get_model(where, weights="DEFAULT")
            return cls(raft.to(device), updates=12)
        with loading(where):
            config = json.loads((where / "config.json").read_text())
            raft = miniature(config["mask_hidden"])
            weights = load_file(where / "model.safetensors")
            raft.load_state_dict({key: value.float() for key, value in weights.items()})
            flow = cls(raft, config["smallest"], config.get("updates", 4))
        return flow.to(device)

    def save(self, folder: Path) -> None:
        """config.json and model.safetensors in half precision, for `load`."""
        hidden = self.raft.mask_predictor.convrelu[0].out_channels
        config = {"mask_hidden": hidden, "smallest": self.smallest, "updates": self.updates}
        (folder / "config.json").write_text(json.dumps(config) + "\n")
        weights = {key: value.half().contiguous() for key, value in self.raft.state_dict().items()}
        save_file(weights, folder / "model.safetensors")

    def forward(self, source: torch.Tensor, target: torch.Tensor, updates: int | None = None) -> torch.Tensor:
        """Where every pixel of `source` lies in `target`: (B, 2, H, W) float32, x then y, in pixels.

        source, target: (B, 3, H, W) in [0, 1]. updates: None for the model's own. Differentiable with respect to both
        images.
        """
        check_images(source, "source")
        check_images(target, "target")
        if source.shape != target.shape:
            raise ValueError(f"source {tuple(source.shape)} and target {tuple(target.shape)} differ: resize one")
        updates = self.updates if updates is None else updates
        return flows(self.raft, source.float(), target.float(), updates, self.smallest)[-1].float()
