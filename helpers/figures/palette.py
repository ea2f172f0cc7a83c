"""Pictures of 256 colours of their own: PNGs of a third of the size in which the eye sees no difference."""

import numpy as np
from PIL import Image
from scipy.spatial import KDTree

COLORS = 256
FAR = 64  # of these, for what the others do not show
SAMPLED = 3  # every so many-th pixel of either side decides the others
PLACES = np.array([256**2, 256, 1])  # of red, green and blue in one number


def reduced(picture: Image.Image) -> Image.Image:
    """In mode P, every pixel the nearest colour; exact where there are no more than COLORS."""
    pixels = np.asarray(picture.convert("RGB"))
    codes, index = np.unique(pixels @ PLACES, return_inverse=True)
    found = codes[:, None] // PLACES % 256
    palette = found if len(found) <= COLORS else _palette(pixels, found)
    nearest = KDTree(palette).query(found)[1].astype(np.uint8)
    small = Image.fromarray(nearest[index.reshape(-1)].reshape(pixels.shape[:2]), "P")
    small.putpalette(palette.astype(np.uint8).tobytes())
    return small


def _palette(pixels: np.ndarray, found: np.ndarray) -> np.ndarray:
    """(COLORS, 3) for colours `found` (n, 3): median cut and k-means, which care for what is large, then one after the
    other the colour that is farthest from all, so that a small green car does not turn blue."""
    few = Image.fromarray(np.ascontiguousarray(pixels[::SAMPLED, ::SAMPLED]))
    cut = few.quantize(COLORS - FAR, method=Image.Quantize.MEDIANCUT, kmeans=1)
    palette = list(np.array(cut.getpalette()).reshape(-1, 3))
    away = KDTree(palette).query(found)[0]
    while len(palette) < COLORS:
        palette.append(found[away.argmax()])
        away = np.minimum(away, np.linalg.norm(found - palette[-1], axis=1))
    return np.array(palette)
