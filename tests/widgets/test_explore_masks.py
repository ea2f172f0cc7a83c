"""The explorer of masks: what it shows when controls move, and bad input."""

from io import BytesIO

import numpy as np
import pytest
from dga_traces import ASKED, LAYOUT, STEPS, record
from PIL import Image

from helpers.guidance.cfg import CFG
from helpers.paths import RESULTS
from helpers.sampling.loop import sample
from helpers.sampling.trace import Trace
from helpers.widgets.common import has_traces, load_traces
from helpers.widgets.masks import explore_masks, measure


@pytest.fixture(scope="module")
def traces(tiny, segmenter):
    return {case: record(tiny, segmenter, *asked) for case, asked in ASKED.items()}


def test_measuring_against_the_own_layout_gives_what_was_recorded(traces):
    for case in traces:
        record = traces[case].records[0]
        measured = measure(record, record.layout)
        np.testing.assert_allclose(measured["iou"], record.maps["dga.iou"], atol=0.01)
        np.testing.assert_allclose(measured["coverage"], record.curves["dga.coverage"], atol=0.01)


def test_the_explorer_follows_slider_prompt_and_method(traces, tmp_path):
    for case, trace in traces.items():
        trace.save(tmp_path / case / "trace")
    box = explore_masks(tmp_path)
    (prompt, method), (play, slider) = (row.children for row in box.children[:2])
    columns = [column.children for column in box.children[3].children]

    def pictures():
        images = [widget for _, pair, curves in columns for widget in (*pair.children, curves)]
        for image in images:
            Image.open(BytesIO(image.value)).verify()
        return [image.value for image in images]

    assert (slider.min, slider.max, play.max) == (1, STEPS, STEPS)
    assert "none" in columns[0][0].value and "full" in columns[1][0].value, "the baseline stands left"
    assert method.options == ("full", "full_masks")
    before = pictures()
    slider.value = 4
    assert "step 4 of 5" in box.children[2].value and "not guided" in box.children[2].value
    moved = pictures()
    assert all(a != b for a, b in zip(before, moved))
    prompt.value = 1
    other = pictures()
    assert all(a != b for a, b in zip(moved, other))
    method.value = "full_masks"
    assert "full_masks" in columns[1][0].value
    assert pictures()[0] != other[0], "the baseline is compared with silhouettes, too"
    slider.value = 3
    assert "full_masks is guided here" in box.children[2].value


def test_traces_that_do_not_belong_together_are_refused(tiny, segmenter, traces, tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc repro sample_dga@none"):
        load_traces(tmp_path)
    with pytest.raises(ValueError, match="give a baseline and at least one case"):
        explore_masks({"none": traces["none"]})
    other = record(tiny, segmenter, LAYOUT.boxes_only(), 0.6, seeds=(0, 5))
    with pytest.raises(ValueError, match="'none' and 'full' differ in prompts, seeds or steps"):
        explore_masks({"none": traces["none"], "full": other})
    blind = Trace([0])
    sample(tiny, [LAYOUT.prompt], [CFG(5)], steps=STEPS, trace=blind)
    with pytest.raises(ValueError, match="'full' has no masks"):
        explore_masks({"none": traces["none"], "full": blind})


def test_the_store_opens_without_sampling():
    """What `make repro` fetches keeps one picture of every case whole."""
    folder = RESULTS / "dga" / "score"
    assert has_traces(folder, "none", "full") and not has_traces(folder, "none", "nothing")
    traces = load_traces(folder)
    assert list(traces)[:2] == ["none", "full"] and len(traces) >= 8
    assert all(len(trace.records) == 1 and len(trace.records[0].frames) == 20 for trace in traces.values())
    assert explore_masks({case: traces[case] for case in ("none", "full")}).children
