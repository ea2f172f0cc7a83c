"""Five and six objects, more than mini-sd ever drew, under short and under long captions: the split `many`, pooled."""

from functools import cache

from helpers.benchmarks.miniature import load_captioned
from helpers.miniature.items import Case

JUDGE = "judge"
SPLITS = ("test",)
CAPTIONS = ("short", "long")


@cache
def items(split: str = "test") -> tuple[Case, ...]:
    """Every layout twice, under its short and then its long caption, with a seed and an id of its own for each.

    ValueError for another split: all of them test.
    """
    if split not in SPLITS:
        raise ValueError(f"five and six objects have no split {split!r}: use {' or '.join(SPLITS)}")
    pairs = zip(*(load_captioned("many", caption) for caption in CAPTIONS), strict=True)
    return tuple(
        case.model_copy(update={"id": f"{case.id}-{caption}", "seed": case.seed + 1_000_000 * k})
        for pair in pairs
        for k, (caption, case) in enumerate(zip(CAPTIONS, pair, strict=True))
    )
