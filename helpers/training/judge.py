"""Training of the judge: every composition, malformed shapes, augmentation of its own, and reconstructions.

Seeds, architecture, order of data and augmentation differ from the guide's. The judge learns in two runs: from renders
alone, then from a mixture of renders and scenes that went through mini-sd's autoencoder.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from scipy.optimize import linear_sum_assignment

from helpers.judges.recogniser import LABELS, REACH, Recogniser
from helpers.miniature.scene import Scene
from helpers.miniature.vocabulary import BACKGROUNDS, COLORS, KINDS, PATTERNS, SIDE
from helpers.miniature.world import backdrop, random_scene, render, sprite
from helpers.training.autoencoder import through
from helpers.training.loop import SEEDS, Scenes, fit
from helpers.training.malformed import TRAINING, malformed
from helpers.training.mixed_dataset import MixedDataset

NONE = 255  # no colour, pattern or way is asked of this pixel
FEATURES = ("image", "kind", "color", "pattern", "way", "background", "present")


def jitter(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift an object's colour by a few per cent, less than the distance between two colours."""
    patch = patch.copy()
    patch[..., :3] = (patch[..., :3] * rng.uniform(0.92, 1.06, 3) + rng.uniform(-0.02, 0.04)).clip(0, 1)
    return patch


def draw(background: str, patches: list, generator: np.random.Generator | None = None) -> tuple:
    """Composite (patch, thing or None for a malformed shape, x, y) back to front, with dense labels.

    Returns image (64, 64, 3) float32 in [0, 1]; kind, color, pattern (64, 64) uint8 (NONE: do not care); way
    (2, 64, 64) float32, from every object pixel to its cell's centre in units of REACH pixels.
    """
    image = backdrop(background).copy()
    if generator is not None:
        image = (image * generator.uniform(0.94, 1.05, 3) + generator.uniform(-0.02, 0.02)).clip(0, 1)
    kind = np.zeros((SIDE, SIDE), np.uint8)
    color, pattern = np.full_like(kind, NONE), np.full_like(kind, NONE)
    way = np.zeros((2, SIDE, SIDE), np.float32)
    ys, xs = np.mgrid[:SIDE, :SIDE]
    for patch, thing, x, y in patches:
        side = len(patch)
        x0, y0 = x - side // 2, y - side // 2
        where = (slice(max(y0, 0), y0 + side), slice(max(x0, 0), x0 + side))
        patch = patch[max(-y0, 0) : SIDE - y0, max(-x0, 0) : SIDE - x0]
        alpha = patch[..., 3:]
        image[where] = (1 - alpha) * image[where] + alpha * patch[..., :3]
        on = np.zeros((SIDE, SIDE), bool)
        on[where] = alpha[..., 0] > 0.5
        kind[on] = KINDS.index(thing.kind) + 1 if thing else LABELS.index("malformed")
        color[on] = list(COLORS).index(thing.color) if thing else NONE
        pattern[on] = PATTERNS.index(thing.pattern) if thing else NONE
        way[:, on] = np.stack([x - 0.5 - xs[on], y - 0.5 - ys[on]]) / REACH
    return image.astype(np.float32), kind, color, pattern, way


def example(scene: Scene, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A training image with its dense labels; in two scenes of five some objects are malformed or added, malformed."""
    share = rng.choice([0.0, 0.4, 1.0], p=[0.6, 0.3, 0.1])
    patches = []
    for thing in scene.things:
        if rng.random() < share:
            patches.append((malformed(TRAINING, thing.side, rng), None, thing.x, thing.y))
        else:
            patch = jitter(sprite(thing.kind, thing.color, thing.pattern, thing.side), rng)
            patches.append((patch, thing, thing.x, thing.y))
    image, kind, color, pattern, way = draw(scene.background, patches, rng)
    present = np.zeros(len(LABELS) - 1 + len(COLORS), np.float32)
    present[kind[kind > 0] - 1] = 1
    present[len(LABELS) - 1 + color[color != NONE]] = 1
    background = list(BACKGROUNDS).index(scene.background)
    image = (image.transpose(2, 0, 1) * 255).round().astype(np.uint8)
    return dict(zip(FEATURES, (image, kind, color, pattern, way, background, present)))


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Per image: blur or a lost octave, a change of brightness and contrast, noise. x: (B, 3, 64, 64) in [0, 1]."""
    n = len(x)

    def draw_uniform(low, high):
        return torch.empty(n, 1, 1, 1).uniform_(low, high, generator=generator).to(x)

    kernel = torch.tensor([1.0, 2.0, 1.0]).to(x) / 4
    kernel = (kernel[:, None] * kernel)[None, None].repeat(3, 1, 1, 1)
    blurred = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    coarse = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
    which = draw_uniform(0, 1)
    other = torch.where(which < 0.7, blurred, coarse)
    x = torch.lerp(x, other, draw_uniform(-0.8, 1).clamp(min=0))
    x = (x - 0.5) * draw_uniform(0.88, 1.1) + 0.5 + draw_uniform(-0.05, 0.05)
    coarse_noise = F.interpolate(torch.randn((n, 3, SIDE // 4, SIDE // 4), generator=generator).to(x), scale_factor=4)
    noise = torch.randn(x.shape, generator=generator).to(x)
    x = x + draw_uniform(-0.04, 0.06).clamp(min=0) * noise + draw_uniform(-0.06, 0.05).clamp(min=0) * coarse_noise
    return x.clamp(0, 1)


def loss(model, items, generator):
    """Cross-entropies of the dense and global heads, and the L1 distance of the way to the centre."""
    where = next(model.parameters()).device
    items = {key: value.to(where) for key, value in items.items()}
    out = model(augment(items["image"].float() / 255, generator))
    on = items["color"] != NONE
    solid = items["kind"] > 0
    weight = 1 + 2 * solid.float()
    kind = F.cross_entropy(out["kind"].float(), items["kind"].long(), reduction="none")
    parts = {
        "kind": (kind * weight).sum() / weight.sum(),
        "color": F.cross_entropy(out["color"].float(), items["color"].long(), ignore_index=NONE),
        "pattern": F.cross_entropy(out["pattern"].float(), items["pattern"].long(), ignore_index=NONE),
        "way": ((out["way"].float() - items["way"]).abs().sum(1) * solid).sum() / solid.sum().clamp(min=1),
        "background": F.cross_entropy(out["background"].float(), items["background"]),
        "present": F.binary_cross_entropy_with_logits(out["present"].float(), items["present"]),
    }
    value = 2 * parts["kind"] + 0.5 * parts["color"] + 0.3 * parts["pattern"] + parts["way"]
    value = value + 0.2 * parts["background"] + 0.3 * parts["present"]
    with torch.no_grad():
        parts["pixels_right"] = (out["kind"].argmax(1) == items["kind"])[solid].float().mean()
        parts["colors_right"] = (out["color"].argmax(1) == items["color"])[on].float().mean()
    return value, parts


def build() -> Recogniser:
    torch.manual_seed(SEEDS["judge"])
    return Recogniser().to(memory_format=torch.channels_last)


def train(
    folder: Path, autoencoder: AutoencoderKL, steps: tuple[int, int] = (1100, 200), batch: int = 24
) -> Recogniser:
    """Two runs below `folder`: renders only, then as many reconstructions by the autoencoder as renders."""
    fresh = Scenes(SEEDS["judge"], example, steps[0] * batch)
    judge = fit(build(), fresh, loss, folder / "renders", steps[0], batch, lr=3e-3, ema=0.995)
    fresh = Scenes(SEEDS["judge"] + 100, example, steps[1] * batch)
    mixed = MixedDataset(fresh, min(1000, len(fresh) // 2), lambda x, first: through(autoencoder, x))
    return fit(judge.requires_grad_(True), mixed, loss, folder / "mixed", steps[1], batch, lr=1e-3, ema=0.99)


# --- held-out numbers -------------------------------------------------------------------------------------------------


def match(truth: np.ndarray, found: list) -> np.ndarray:
    """IoU (n, m) of true masks (n, 64, 64) with found masks, zeroed except in the best one-to-one assignment."""
    kept = np.zeros((len(truth), len(found)))
    if found:
        masks = np.stack([f.mask for f in found]).reshape(len(found), -1).astype(float)
        flat = truth.reshape(len(truth), -1).astype(float)
        both = flat @ masks.T
        iou = both / np.maximum(flat.sum(1)[:, None] + masks.sum(1) - both, 1)
        rows, columns = linear_sum_assignment(-iou)
        kept[rows, columns] = iou[rows, columns]
    return kept


def evaluate(judge: Recogniser, scenes: list[Scene], images: torch.Tensor) -> dict[str, float]:
    """The judge on images (n, 3, 64, 64) of known scenes.

    mask_iou: mean over objects, 0 for one that was not found; recall: share found with IoU of at least .5; class_acc,
    color_acc, pattern_acc over those; extra_objects: share of images with an object of less than .1 IoU with every true
    one; background_acc over images.
    """
    ious, right, extra = [], [], []
    for scene, found in zip(scenes, judge.recognise(images)):
        kept = match(render(scene).visible, found)
        extra.append(bool(found) and bool((kept.max(0) < 0.1).any()))
        for thing, row in zip(scene.things, kept):
            ious.append(row.max(initial=0))
            if ious[-1] >= 0.5:
                f = found[row.argmax()]
                right.append([f.kind == thing.kind, f.color == thing.color, f.pattern == thing.pattern])
    names = judge.background(images)
    kind, color, pattern = np.mean(right or [[np.nan] * 3], 0).tolist()  # nan: nothing was found
    return {
        "mask_iou": float(np.mean(ious)),
        "recall": len(right) / len(ious),
        "class_acc": kind,
        "color_acc": color,
        "pattern_acc": pattern,
        "extra_objects": float(np.mean(extra)),
        "background_acc": float(np.mean([n == s.background for n, s in zip(names, scenes)])),
    }


def reject(judge: Recogniser, generators, n: int, seed: int) -> float:
    """The share of n images with one malformed shape in which the judge recognises no object."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n):
        scene = random_scene(rng, n=1)
        thing = scene.things[0]
        patch = malformed(generators, thing.side, rng)
        images.append(draw(scene.background, [(patch, None, thing.x, thing.y)])[0])
    found = judge.recognise(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2))
    return float(np.mean([not f for f in found]))
