"""The six seeded examples that iLGD's authors publish, and their counterparts in the miniature world.

Boxes are theirs, (x, y, width, height) on a grid of 64 x 64 latent cells; so are the seeds, of a generator of another
solver (LMS): pictures show the same layouts, not the same pixels.
"""

from dataclasses import dataclass

from helpers.conditions import Layout, Region

GRID = 64
WEIGHT = 0.48  # eta of the published commands; injection .75 as always


@dataclass(frozen=True)
class Fixture:
    """boxes: of the phrases, in their order. prompt for Stable Diffusion, and of the miniature world."""

    real: tuple[str, tuple[str, ...]]
    miniature: tuple[str, tuple[str, ...]]
    boxes: tuple[tuple[int, int, int, int], ...]
    seed: int

    def layout(self, backbone: str) -> Layout:
        """For "mini-sd", or any real model."""
        prompt, phrases = self.miniature if backbone == "mini-sd" else self.real
        regions = [
            Region(phrase=phrase, box=tuple(v / GRID for v in (x, y, x + w, y + h)))
            for phrase, (x, y, w, h) in zip(phrases, self.boxes, strict=True)
        ]
        return Layout(prompt=prompt, regions=tuple(regions))


FIXTURES = (
    Fixture(
        ("a donut and a carrot", ("donut", "carrot")),
        ("a pink ball and an orange tree on the grass", ("pink ball", "orange tree")),
        ((2, 33, 27, 27), (37, 4, 8, 55)),
        5,
    ),
    Fixture(
        ("a red book and clock", ("book", "clock")),
        ("a red box and a yellow ball on sand", ("red box", "yellow ball")),
        ((3, 20, 25, 39), (32, 26, 29, 31)),
        3,
    ),
    Fixture(
        ("a giraffe on a field", ("giraffe",)),
        ("a striped yellow tree on the grass", ("striped yellow tree",)),
        ((4, 6, 23, 56),),
        10,
    ),
    Fixture(
        ("a bowl and a spoon", ("bowl", "spoon")),
        ("a blue moon and a green tree at night", ("blue moon", "green tree")),
        ((3, 11, 29, 28), (43, 4, 9, 42)),
        2,
    ),
    Fixture(
        ("a dog on a bench", ("dog", "bench")),
        ("a purple heart and a red car in the snow", ("purple heart", "red car")),
        ((11, 21, 10, 20), (4, 32, 56, 20)),
        7,
    ),
    Fixture(
        ("a balloon and a cake and a frame, high quality, photography", ("balloon", "cake", "frame")),
        ("a red ball, a pink house and a yellow box in the sky", ("red ball", "pink house", "yellow box")),
        ((2, 38, 22, 22), (35, 33, 25, 28), (27, 3, 32, 19)),
        10,
    ),
)
