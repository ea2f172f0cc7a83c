"""Training of the click segmenter: a tiny SAM on renders and on pictures like x0_hat.

A click lies on a visible pixel of an object; one to three of them ask for that object's visible part.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import SamConfig

from helpers.backbones.backbone import Backbone
from helpers.miniature.scene import Scene
from helpers.miniature.vocabulary import COLORS, KINDS, SIDE
from helpers.miniature.world import random_scene, render
from helpers.perception.clicks import ClickSegmenter, StemmedSam, decode_clicks, embed_images
from helpers.training.estimates import as_estimates, soften
from helpers.training.loop import SEEDS, Scenes, fit
from helpers.training.mixed_dataset import MixedDataset
from helpers.training.segmenter import criterion, overlap

PROMPTS = 4  # per image; an object may be asked for more than once
CLICKS = 3
WIDTH = 96


def build() -> StemmedSam:
    torch.manual_seed(SEEDS["sam"])
    config = SamConfig(
        vision_config={
            "hidden_size": WIDTH,
            "output_channels": WIDTH,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "mlp_ratio": 2.0,
            "image_size": SIDE,
            "patch_size": 4,
            "use_rel_pos": False,
            "global_attn_indexes": [0, 1, 2],
            "num_pos_feats": WIDTH // 2,
            "initializer_range": 0.02,
        },
        prompt_encoder_config={"hidden_size": WIDTH, "image_size": SIDE, "patch_size": 4},
        mask_decoder_config={
            "hidden_size": WIDTH,
            "num_attention_heads": 2,
            "attention_downsample_rate": 1,
            "mlp_dim": 2 * WIDTH,
            "num_multimask_outputs": 0,
            "iou_head_hidden_dim": WIDTH,
        },
        attn_implementation="sdpa",
    )
    model = StemmedSam(config)
    start_where_clicked(model)
    return model


@torch.no_grad()
def start_where_clicked(model: StemmedSam) -> None:
    """Begin with clicks that attend to the patches under them; from the library's weights 300 steps did not find that.

    The library's initial weights are made to be overwritten: too small for so few channels, and frequencies so high
    that neighbouring pixels look unrelated. Queries and keys of the attention between clicks and patches begin as the
    same rotation, so that equal positions match, and what is there counts for less than where it is.
    """
    model.shared_image_embedding.positional_embedding.normal_(std=2)
    decoder = model.mask_decoder
    content = [model.vision_encoder.neck.layer_norm2]
    content += [norm for layer in decoder.transformer.layers for norm in (layer.layer_norm1, layer.layer_norm4)]
    for norm in content:
        norm.weight.fill_(0.3)
    for layer in decoder.modules():
        if isinstance(layer, nn.Linear | nn.ConvTranspose2d):
            layer.weight.normal_(std=layer.weight.size(-1 if isinstance(layer, nn.Linear) else 0) ** -0.5)
    for embedding in (decoder.iou_token, decoder.mask_tokens):
        embedding.weight.normal_(std=0.5)
    for layer in decoder.transformer.layers:
        for attention in (layer.cross_attn_token_to_image, layer.cross_attn_image_to_token):
            nn.init.orthogonal_(attention.q_proj.weight, 2)
            attention.k_proj.weight.copy_(attention.q_proj.weight)


class Student(nn.Module):
    """The segmenter under a head that only speeds up its training: kind and colour of every pixel."""

    def __init__(self):
        super().__init__()
        self.sam = build()
        self.head = nn.Conv2d(WIDTH, 16 * (1 + len(KINDS) + len(COLORS)), 1)


def view(scene: Scene, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """image (3, 64, 64); points (PROMPTS, CLICKS, 2) pixels, x then y, and masks (PROMPTS, 64, 64) of what they click;
    kind and color maps, 0 for background."""
    drawn = render(scene)
    kind, color = np.zeros((2, SIDE, SIDE), np.uint8)
    for thing, mask in zip(scene.things, drawn.visible):
        kind[mask], color[mask] = 1 + KINDS.index(thing.kind), list(COLORS).index(thing.color)
    order = rng.permutation(len(scene.things))
    asked = drawn.visible[np.resize(order, PROMPTS)]
    points = np.stack([clicks(mask, CLICKS, rng) for mask in asked])
    return {"image": drawn.image.transpose(2, 0, 1), "points": points, "masks": asked, "kind": kind, "color": color}


def clicks(mask: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k random pixels (k, 2) of a mask, x then y, float32."""
    pixels = np.argwhere(mask)
    return pixels[rng.integers(len(pixels), size=k)][:, ::-1].astype(np.float32)


def loss(model, items, generator):
    """Masks of the clicked objects, the model's own guess of its IoU, and kind and colour of every pixel."""
    where = next(model.parameters()).device
    items = {key: value.to(where) for key, value in items.items()}
    k = (1, 1, 2, CLICKS)[int(torch.randint(4, (), generator=generator))]
    embedded = embed_images(model.sam, soften(items["image"].float() / 255, generator))
    logits, expected = decode_clicks(model.sam, embedded, items["points"][:, :, :k])
    logits = logits.float()
    kind, color = F.pixel_shuffle(model.head(embedded), 4).float().split([1 + len(KINDS), len(COLORS)], 1)
    solid = items["kind"] > 0
    wrong = F.cross_entropy(kind, items["kind"].long(), reduction="none")
    hue = F.cross_entropy(color, items["color"].long(), reduction="none")
    parts = {
        "masks": criterion(logits, items["masks"].float()),
        "kind": (wrong * (1 + 2 * solid)).sum() / (1 + 2 * solid).sum(),
        "color": hue[solid].mean(),
        "iou": overlap(logits, items["masks"]),
    }
    with torch.no_grad():
        on = logits > 0
        iou = (on & items["masks"]).sum((2, 3)) / (on | items["masks"]).sum((2, 3))
    parts["expected"] = F.mse_loss(expected.float(), iou)
    return parts["masks"] + parts["kind"] + 0.3 * parts["color"] + 0.1 * parts["expected"], parts


def train(folder: Path, backbone: Backbone, steps: tuple[int, int] = (600, 250), batch: int = 12) -> StemmedSam:
    """Two runs below `folder`: renders; then half of the pictures are made once by models.

    Half of these were decoded from disturbed latents, the rest are mini-sd's x0_hat.
    """
    fresh = Scenes(SEEDS["sam"], view, steps[0] * batch)
    student = fit(Student(), fresh, loss, folder / "renders", steps[0], batch, lr=2e-3, ema=0.995)
    fresh = Scenes(SEEDS["sam"] + 100, view, steps[1] * batch)
    change = as_estimates(backbone, lambda i: random_scene(np.random.default_rng([fresh.seed, i])), fresh.seed)
    mixed = MixedDataset(fresh, min(1600, len(fresh) // 2), change)
    return fit(student.requires_grad_(True), mixed, loss, folder / "mixed", steps[1], batch, lr=7e-4, ema=0.99).sam


# --- held-out numbers -------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(segmenter: ClickSegmenter, scenes: list[Scene], images: torch.Tensor) -> dict[str, float]:
    """The segmenter on images (n, 3, 64, 64) of known scenes, with hard masks (logit > 0).

    mask_iou: mean over objects, each clicked once on a random visible pixel, against its visible silhouette;
    mask_iou_3: the same for three clicks. The clicks are the same on every call.
    """
    rng = np.random.default_rng(0)
    ious = {1: [], CLICKS: []}
    for scene, image in zip(scenes, images):
        truth = render(scene).visible
        points = torch.from_numpy(np.stack([clicks(mask, CLICKS, rng) for mask in truth]))
        for k, found in ious.items():
            logits = segmenter(image.expand(len(truth), -1, -1, -1), points[:, :k])
            on = (logits > 0).cpu().numpy()
            found += ((on & truth).sum((1, 2)) / (on | truth).sum((1, 2))).tolist()
    return {"mask_iou": float(np.mean(ious[1])), "mask_iou_3": float(np.mean(ious[CLICKS]))}
