"""Layouts of free boxes, as a person draws them: of other aspect and size than the objects, read from data/.

`helpers.miniature.free_boxes` drew them. A region's box is what is asked for; its mask is the silhouette that fills the
box best, of its kind and in any size that the world draws, so that the IoU of the two boxes is what can be reached.
"""

from functools import cache

from helpers.benchmarks.files import of_split
from helpers.miniature.items import Case

JUDGE = "judge"
SPLITS = ("dev", "test")


@cache
def load_free(split: str) -> tuple[Case, ...]:
    """The cases of "dev" or "test". FileNotFoundError when data/ is missing, ValueError for an unknown split."""
    return tuple(Case.model_validate(case) for case in of_split("free_boxes.json", split))


items = load_free  # as a benchmark
