"""FG-DM's first factor, text -> segmentation: a small U-Net from scratch, in the latents of the extended autoencoder.

p(y | text) of p(x, y | text) = p(x | y, text) p(y | text). It is trained as mini-sd is (v prediction, its schedule, its
alignment head), on segmentations in place of pictures, with mini-sd's text encoder as it stands.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTextModel

from helpers.factor_graph.reading import objects, recall
from helpers.miniature.items import Case
from helpers.miniature.maps import segmentation
from helpers.training import diffusion
from helpers.training.loop import fit

SEED = 22
WIDTHS = {"half": (32, 64, 96), "full": (64, 128, 192)}


def train(
    folder: Path,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    steps: int,
    batch: int,
    lr: float,
    scenes: int,
    width: str = "half",
) -> StableDiffusionPipeline:
    """Train (or continue in `folder`) and return the pipeline with averaged weights.

    vae: the extended one. text_encoder stays as it is. scenes: how many are encoded beforehand.
    """
    data = diffusion.EncodedScenes(vae, folder / "scenes", scenes, steps * batch, SEED, segmentation)
    net = diffusion.unet(WIDTHS[width], SEED)
    model = diffusion.Denoiser(text_encoder.requires_grad_(False), net)
    return diffusion.pipeline(fit(model, data, diffusion.loss, folder, steps, batch, lr, ema=0.999), vae)


def read(maps: np.ndarray, cases: Sequence[Case]) -> dict[str, float]:
    """How much of what captions ask for segmentations (n, H, W, 3) in 0 to 255 show: means over the captions.

    recall: of objects, kind and colour; recall_kind: of kinds; extra: share of maps with more objects than asked for.
    """
    rows = []
    for picture, case in zip(maps, cases, strict=True):
        shown, wanted = objects(picture), [(thing.kind, thing.color) for thing in case.things]
        both, kinds = [(one.kind, one.color) for one in shown], [one.kind for one in shown]
        rows.append((recall(both, wanted), recall(kinds, [kind for kind, _ in wanted]), len(shown) > len(wanted)))
    return dict(zip(("recall", "recall_kind", "extra"), np.mean(rows, 0).tolist(), strict=True))
