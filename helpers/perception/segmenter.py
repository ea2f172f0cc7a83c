"""Text-prompted segmentation that can be differentiated with respect to the image: CLIPSeg (Lueddecke & Ecker 2022).

`CLIPSegForImageSegmentation.forward` runs its vision encoder without gradients and once per phrase. Here the same
modules are called so that gradients reach the image, every image is encoded once, and the phrases once per run. The
miniature guide (models/guide-segmenter) and the real weights (CIDAS/clipseg-rd64-refined) load the same way, each with
the size and the statistics of its own image processor.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer, ViTImageProcessor

from helpers.perception.loading import image_processor, loading, pretrained, source
from helpers.perception.preprocessing import CLIP, IMAGENET, check_images, prepare


class Stem(nn.Sequential):
    """Patches of 4x4 pixels embedded by convolutions ("early convolutions", Xiao et al. 2021) instead of one matrix."""

    def __init__(self, width: int, blocks: int = 2):
        super().__init__(
            nn.Conv2d(3, 48, 3, 2, 1),
            nn.GroupNorm(8, 48),
            nn.GELU(),
            nn.Conv2d(48, 48, 3, 1, 1),
            nn.GroupNorm(8, 48),
            nn.GELU(),
            nn.Conv2d(48, width, 3, 2, 1),
            *(StemBlock(width) for _ in range(blocks)),
        )

    @property
    def weight(self) -> torch.Tensor:
        """CLIPSeg's embeddings ask their patch embedding's weight for its dtype."""
        return self[0].weight


class StemBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        first, second = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)
        self.layers = nn.Sequential(nn.GroupNorm(8, width), nn.GELU(), first, nn.GroupNorm(8, width), nn.GELU(), second)

    def forward(self, x):
        return x + self.layers(x)


class StemmedCLIPSeg(CLIPSegForImageSegmentation):
    """CLIPSeg of patch size 4 whose patches are embedded by a `Stem`."""

    def __init__(self, config):
        super().__init__(config)
        if config.vision_config.patch_size != 4:
            raise ValueError(f"the stem makes patches of 4 pixels, the config says {config.vision_config.patch_size}")
        self.clip.vision_model.embeddings.patch_embedding = Stem(config.vision_config.hidden_size)


MODELS = {model.__name__: model for model in (CLIPSegForImageSegmentation, StemmedCLIPSeg)}


def usual_processor(model: CLIPSegForImageSegmentation) -> ViTImageProcessor:
    """How pictures are prepared where no file says it: as the miniature was trained, and as the published weights."""
    small = isinstance(model, StemmedCLIPSeg)
    side = model.config.vision_config.image_size if small else 352
    return ViTImageProcessor(size={"height": side, "width": side}, **(CLIP if small else IMAGENET))


def vision_states(model: CLIPSegForImageSegmentation, images: torch.Tensor, processor=None) -> list[torch.Tensor]:
    """The hidden states that the decoder reads, one (B, tokens, width) per extracted layer.

    images: (B, 3, H, W) in [0, 1] at any size; resized and normalised here by the image processor.
    """
    pixels = prepare(processor or usual_processor(model), images).to(model.dtype)
    vision = model.clip.vision_model
    x = vision.pre_layrnorm(vision.embeddings(pixels))
    states = []
    for layer in vision.encoder.layers[: max(model.extract_layers) + 1]:  # what no one reads is not computed
        x = layer(x, None)
        states.append(x)
    return [states[i] for i in model.extract_layers]


def decode(model: CLIPSegForImageSegmentation, states: list[torch.Tensor], text: torch.Tensor) -> torch.Tensor:
    """states of B images, text (B, n, d) embeddings -> logits (B, n, side, side), each phrase on its image."""
    b, n = text.shape[:2]
    states = [s.repeat_interleave(n, 0) for s in states]
    return model.decoder(states, text.flatten(0, 1)).logits.unflatten(0, (b, n))


class Segmenter(nn.Module):
    """A frozen CLIPSeg with its tokenizer and image processor.

    model: a CLIPSegForImageSegmentation; tokenizer: a CLIPTokenizer (batch of phrases -> ids); processor: None for
    `usual_processor`.
    """

    def __init__(self, model: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer, processor=None):
        super().__init__()
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.processor = processor or usual_processor(model)

    @classmethod
    def load(cls, name: str | Path, device="cpu") -> "Segmenter":
        """From a name in models/, a folder in the Hub's layout, or a Hub id; float32. See `loading.source`."""
        where = source(name)
        model = pretrained(where, MODELS)
        with loading(where):
            tokenizer = CLIPTokenizer.from_pretrained(where)
        return cls(model.to(device), tokenizer, image_processor(where, usual_processor(model)))

    @torch.no_grad()
    def embed(self, phrases: list[str]) -> torch.Tensor:
        """phrases -> (n, d) embeddings; compute them once per run. An empty phrase is refused."""
        for phrase in phrases:
            if not phrase.strip():
                raise ValueError(f"phrase {phrase!r} is empty: name the thing to segment, such as 'red car'")
        ids = self.tokenizer(list(phrases), padding=True, return_tensors="pt")
        ids = {key: value.to(self.model.device) for key, value in ids.items() if key in ("input_ids", "attention_mask")}
        return self.model.clip.get_text_features(**ids).pooler_output

    def forward(self, images: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        """images (B, 3, H, W) in [0, 1], embeddings (n, d) or, phrases by image, (B, n, d) -> logits (B, n, H, W).

        Differentiable with respect to the images; sigmoid of a logit is the probability that the pixel belongs to the
        phrase's object. Logits are float32 and have the images' size.
        """
        check_images(images)
        text = embeddings.to(self.model.dtype)
        text = text.expand(len(images), -1, -1) if text.dim() == 2 else text
        logits = decode(self.model, vision_states(self.model, images, self.processor), text).float()
        if logits.shape[-2:] != images.shape[-2:]:
            logits = F.interpolate(logits, images.shape[-2:], mode="bilinear", antialias=True)
        return logits

    def masks(self, images: torch.Tensor, phrases: list[str]) -> torch.Tensor:
        """Probabilities (B, n, H, W) of the phrases in every image; for looking, not for loops."""
        return self(images, self.embed(phrases)).sigmoid()
