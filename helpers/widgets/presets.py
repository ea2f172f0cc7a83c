"""Where to begin in the playground: one request for each thing that it shows."""

from helpers.benchmarks.miniature_combined import items
from helpers.conditions import Region
from helpers.widgets.request import Request

Box = tuple[float, float, float, float]


def _asked(prompt: str, boxes: dict[str, Box], *methods: str, seed: int = 0) -> Request:
    regions = tuple(Region(phrase=phrase, box=box) for phrase, box in boxes.items())
    return Request(prompt=prompt, regions=regions, methods=dict.fromkeys(methods, 1.0), seeds=(seed,))


def _combined(k: int, layout: bool, *methods: str) -> Request:
    """A case of the benchmark of prompts with layouts and drags."""
    case = items("test")[k]
    regions = case.scene.layout.boxes_only().regions if layout else ()
    return Request(prompt=case.prompt, regions=regions, drag=case.drag.drag, methods=dict.fromkeys(methods, 1.0))


PRESETS = {
    "one object, to a corner": lambda: _asked("a red car in the snow", {"red car": (0.55, 0.55, 0.95, 0.9)}, "dga"),
    "four objects": lambda: _asked(
        "a blue ball, a red house, a yellow star and a green tree on grass",
        {
            "blue ball": (0.05, 0.05, 0.4, 0.4),
            "red house": (0.55, 0.5, 0.97, 0.97),
            "yellow star": (0.58, 0.05, 0.93, 0.4),
            "green tree": (0.05, 0.52, 0.42, 0.96),
        },
        "ilgd",
        "dga",
    ),
    "two that overlap": lambda: _asked(
        "an orange fish in front of a purple house on sand",
        {"orange fish": (0.3, 0.5, 0.72, 0.82), "purple house": (0.45, 0.2, 0.92, 0.72)},
        "ilgd",
        "dga",
    ),
    "a small box": lambda: _asked(
        "a pink heart at night", {"pink heart": (0.1, 0.1, 0.3, 0.3)}, "layout_guidance", "dga"
    ),
    "a relation turned": lambda: _asked("a red ball left of a blue box in the sky", {}, "dca", seed=3),
    "a drag": lambda: _combined(1, False, "dma"),
    "text, layout and drag": lambda: _combined(4, True, "dca", "dga", "dma"),
    "one that fails": lambda: _asked("a yellow moon on grass", {"yellow moon": (0.02, 0.4, 0.98, 0.6)}, "dga"),
}
