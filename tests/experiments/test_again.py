"""A picture drawn again, alone: the item of the row, the case's own settings, and where nothing amplifies rounding the
same picture."""

import numpy as np
import pytest

from helpers import params
from helpers.experiments import again
from helpers.experiments.again import NAMES, Again
from helpers.paths import RESULTS
from helpers.pipeline.score import load_score
from helpers.widgets.failures import drawn_again
from helpers.widgets.rows import with_rows


@pytest.fixture(scope="module")
def rows():
    return with_rows(RESULTS)[0]


def test_every_experiment_with_rows_can_be_drawn_again(rows):
    assert set(rows) == set(NAMES)
    with pytest.raises(ValueError, match="pictures of 'robustness' cannot be drawn again: use one of dga, dma"):
        Again("robustness")


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_of_the_benchmarks_items_and_baselines_have_rows(name, rows):
    for case in rows[name]:
        found = load_score(RESULTS / name / "score" / case).rows
        assert [row["id"] for row in found] == [item.id for item in Again(name).items(case)[: len(found)]], case
        assert Again(name).baseline(case) in rows[name]


def test_a_case_that_is_none_is_refused():
    with pytest.raises(ValueError, match="unknown case 'nothing': use one of none"):
        Again("dga").draw("nothing", None)


def test_the_picture_that_was_scored():
    """Edits of attention, without a network to look through."""
    layout, place = Again("layout"), 10
    samples = layout.draw("densediffusion", layout.items("densediffusion")[place])
    row = load_score(RESULTS / "layout" / "score" / "densediffusion").rows[place]
    assert drawn_again(samples, row)[1].startswith("the picture that was scored"), drawn_again(samples, row)[1]
    assert samples.rows[0]["id"] == row["id"] and samples.rows[0]["nfe"] == row["nfe"]
    assert any(name.startswith("attention.") for name in samples.trace.records[0].maps)


@pytest.mark.parametrize(
    ("name", "case", "map"),
    [
        ("dga", "none", "dga.masks"),
        ("dga", "full_masks", "dga.masks"),
        ("dma", "full_drawn", "dma.flow"),
        ("dca", "full_best", "dca.boxes"),
        ("free", "dga_free", "attention.mid_block.attentions.0"),
        ("combinations", "layout", "dga.masks"),
        ("sbpc", "short_10", None),
        ("guided_factors", "map_arranged_5_free", None),
        ("guided_factors", "picture_layout_guidance", None),
    ],
)
def test_every_kind_of_case_leaves_a_picture_and_its_trace(name, case, map, monkeypatch):
    """In few steps: what is drawn is the notebooks' own."""
    short = params.load(profile="smoke").profile.model_copy(update={"steps": 2})
    monkeypatch.setattr(params, "load", _shortened(params.load, short))
    again._settings.cache_clear()
    try:
        one = Again(name)
        samples = one.draw(case, one.items(case)[3])
    finally:
        again._settings.cache_clear()
    (record,), images = samples.trace.records, samples.images
    assert images.shape == (1, 3, 64, 64) and images.isfinite().all()
    assert len(record.frames) == 2 and (record.prompt == one.items(case)[3].prompt)
    np.testing.assert_allclose(record.final / 255, images[0].permute(1, 2, 0), atol=0.01)
    assert map is None or map in record.maps


def _shortened(load, profile):
    def loaded(kind=None, *_):
        found = load(kind, "smoke")
        return type(found)(found.name, profile, found.sampling, found.experiment)

    return loaded
