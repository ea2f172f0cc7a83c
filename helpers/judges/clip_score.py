"""CLIP score: how well a picture fits its whole prompt, by a CLIP that never guides (models/judge-clip).

Another architecture (a vision transformer), other seeds and other training pictures than the one that guides.
"""

from collections.abc import Sequence

import torch

from helpers.perception.similarity import Similarity


@torch.no_grad()
def clip_score(clip: Similarity, images: torch.Tensor, captions: Sequence[str], batch: int = 50) -> torch.Tensor:
    """max(100 cos(image, text), 0) (Hessel et al. 2021): images (B, 3, H, W) in [0, 1], a caption each -> (B,)."""
    if len(images) != len(captions):
        raise ValueError(f"{len(images)} images and {len(captions)} captions: give one to each")
    seen = torch.cat([clip(part) for part in images.split(batch)])
    read = torch.cat([clip.embed(captions[k : k + batch]) for k in range(0, len(captions), batch)])
    return (100 * (seen * read).sum(1)).clamp(min=0)
