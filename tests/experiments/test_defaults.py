"""What a method does with its defaults, as a user first calls it: DGA moves the objects into their boxes."""

import pytest

from helpers.benchmarks.miniature import load_captioned
from helpers.guidance.cfg import CFG
from helpers.guidance.dga import DGA
from helpers.judges.loading import load_judge
from helpers.metrics import layout
from helpers.sampling.loop import sample
from helpers.sampling.trace import Trace

SCENES = load_captioned("dev")[:4]


@pytest.fixture(scope="module")
def runs(mini):
    """CFG alone, which DGA with an empty window watches, and DGA with nothing but its layouts."""
    layouts = [scene.layout.boxes_only() for scene in SCENES]
    drawn = {}
    for name, options in {"cfg": {"window": (0, 0)}, "dga": {}}.items():
        trace, methods = Trace(range(len(SCENES))), [CFG(5), DGA(layouts=layouts, **options)]
        prompts, seeds = [scene.prompt for scene in SCENES], [scene.seed for scene in SCENES]
        drawn[name] = sample(mini, prompts, methods, steps=20, seeds=seeds, trace=trace), trace
    return drawn


def test_the_guides_own_iou_rises(runs):
    coverage = {
        name: [record.curves["dga.coverage"][-1] for record in trace.records] for name, (_, trace) in runs.items()
    }
    assert sum(coverage["dga"]) / 4 < sum(coverage["cfg"]) / 4 - 0.2, "it is 1 - IoU: .73 without, .37 with"


def test_the_judges_box_iou_rises(runs):
    judge = load_judge("judge")

    def box_iou(images):
        found, backgrounds = judge.recognise(images), judge.background(images)
        rows = [layout.score(*of) for of in zip(SCENES, found, backgrounds, strict=True)]
        return sum(row["box_iou"] for row in rows) / len(rows)

    assert box_iou(runs["dga"][0].images) > box_iou(runs["cfg"][0].images) + 0.2
