"""The judges' verdict on pictures of guided maps: `python -m helpers.experiments.guided_factors_score map_ilgd`.

As `helpers.pipeline.score` scores a case; the first strips of map and picture are kept for the report's figure.
"""

import sys
from dataclasses import replace

import numpy as np

from helpers.experiments.guided_factors import parts, pixels
from helpers.paths import RESULTS
from helpers.pipeline.samples import load
from helpers.pipeline.score import judged, save

STRIPS = 4  # that are kept
SHOWN = ("box_iou", "recall", "extra_objects", "seconds")  # printed by the stage


def main(name: str) -> None:
    samples = load(RESULTS / "guided_factors" / "sample" / name)
    scored = judged(replace(samples, images=parts(samples.images)[1].contiguous()), **samples.items)
    scored.pictures = np.stack([pixels(strip) for strip in samples.images[:STRIPS]])
    save(scored, RESULTS / "guided_factors" / "score" / name)
    means = {metric: np.nanmean([row[metric] for row in scored.rows]) for metric in SHOWN}
    print(f"{name}: {len(scored.rows)} images, " + ", ".join(f"{key} {value:.3f}" for key, value in means.items()))


if __name__ == "__main__":
    main(sys.argv[1])
