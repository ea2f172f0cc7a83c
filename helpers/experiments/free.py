"""The experiment `free`: methods that place objects, on boxes that nobody cut around a silhouette."""

from typing import ClassVar, Literal

from helpers import params
from helpers.experiments.layout import guidance_of, watching  # noqa: F401 - as of every layout
from helpers.params import Guide, MethodCase, Name


class FreeCase(MethodCase):
    """images: every method is drawn on the same ones."""

    images: Literal["subset", "ablation"] = "subset"


class Experiment(params.Experiment):
    """guide: the segmenter of the methods that look at the picture."""

    block: ClassVar[str] = "free"
    guide: Guide
    cases: dict[Name, FreeCase]
