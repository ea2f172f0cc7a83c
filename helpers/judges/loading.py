"""A judge by its name."""

from helpers.judges.quality import Quality
from helpers.judges.recogniser import Recogniser
from helpers.paths import weights
from helpers.perception.similarity import Similarity


def _clip() -> Similarity:
    return Similarity.load(weights("judge-clip"))


JUDGES = {
    "judge": lambda: Recogniser.from_pretrained(weights("judge")).eval(),
    "judge-clip": _clip,
    "quality": lambda: Quality.load(_clip()),
}


def load_judge(name: str) -> Recogniser | Similarity | Quality:
    """ "judge": recognises the miniature world's objects. "judge-clip": embeds pictures and captions, for `clip_score`.
    "quality": how flawless a picture looks. All on the CPU.

    ValueError naming the known ones; FileNotFoundError with the cure where the weights are missing.
    """
    if name not in JUDGES:
        raise ValueError(f"unknown judge {name!r}; choose one of {', '.join(JUDGES)}")
    return JUDGES[name]()
