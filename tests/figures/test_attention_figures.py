"""Figures of attention, from Traces made by hand and of a tiny model: what they measure, what they show, bad input."""

import numpy as np
import pytest
from attention_traces import EARLY, ILGD_SETTINGS, LAYERS, LAYOUT, ONE, SIGMAS, STEPS, record, trace
from drawing import drawn

from helpers.conditions import Layout, Region, encode_mask
from helpers.figures import overlay
from helpers.figures.attention import attention_grid, attention_of, cells, inside, layers_of, overlap_plot
from helpers.figures.traces import energies_of, windows_of
from helpers.guidance.cfg import CFG
from helpers.guidance.ilgd import ILGD
from helpers.sampling.attention_maps import AttentionMaps
from helpers.sampling.loop import sample
from helpers.sampling.trace import Trace


@pytest.fixture
def traces():
    """The baseline attends a tenth inside; iLGD more, and as strongly as nothing else while it injects."""
    return {
        "none": trace("none", record(LAYOUT, 0.05, [0.1] * STEPS), record(ONE, 0.05, [0.1] * STEPS)),
        "ilgd": trace("ilgd", record(LAYOUT, 0.1, EARLY), record(ONE, 0.1, EARLY)),
    }


@pytest.fixture(scope="module")
def real(tiny):
    """A tiny model, its attention recorded."""
    methods = {"none": [], "ilgd": [ILGD.paper(layouts=LAYOUT)]}
    made = {case: Trace() for case in methods}
    for case, recorded in made.items():
        sample(
            tiny, [LAYOUT.prompt], [CFG(3), *methods[case], AttentionMaps(layouts=LAYOUT)], steps=STEPS, trace=recorded
        )
    return made


# --- what is measured ------------------------------------------------------------------------------------------------


def test_the_second_coarsest_resolution_comes_first_then_the_others_then_single_layers(traces):
    layers = layers_of(traces["none"].records[0])
    assert list(layers)[:4] == [*(f"mean of all {n} x {n} layers" for n in (4, 2, 8)), "down, 8 x 8"]
    assert list(layers)[3:] == [f"{name}, {side} x {side}" for name, side in LAYERS.items()]
    assert layers["mean of all 8 x 8 layers"] == ["attention.down", "attention.last"]


def test_a_mean_over_layers_is_their_mean(traces):
    entry = traces["ilgd"].records[0]
    found = attention_of(entry, "mean of all 8 x 8 layers")
    assert found.shape == (STEPS, 2, 8, 8) and found.dtype == np.float32
    np.testing.assert_allclose(found, 1.5 * attention_of(entry, "down, 8 x 8"), rtol=2e-3)


def test_one_resolution_and_no_attention():
    single = record(ONE, 0.1, EARLY)
    single.maps = {"attention.block.0": single.maps["attention.up"], "dga.masks": np.zeros((STEPS, 1, 64, 64))}
    assert list(layers_of(single)) == ["mean of all 4 x 4 layers", "block.0, 4 x 4"]
    single.maps = {"dga.masks": np.zeros((STEPS, 1, 64, 64))}
    with pytest.raises(ValueError, match="no attention: put helpers.sampling.attention_maps.AttentionMaps"):
        layers_of(single)


def test_cells_are_covered_by_shares():
    shares = cells(Layout(prompt="a car", regions=[Region(phrase="car", box=(0.125, 0, 0.5, 0.75))]), 2, 4)
    np.testing.assert_allclose(shares, [[[0.5, 1, 0, 0], [0.25, 0.5, 0, 0]]], atol=0.01)
    disc = np.hypot(*(np.indices((64, 64)) - 31.5)) < 20
    round_one = Layout(prompt="a car", regions=[Region(phrase="car", mask=encode_mask(disc))])
    assert cells(round_one, 1, 1)[0, 0, 0] == pytest.approx(disc.mean(), abs=0.01)


def test_the_share_inside_is_that_of_maps_known_on_paper():
    within = np.linspace(0, 1, STEPS)
    maps = attention_of(record(LAYOUT, 0.1, within), "down, 8 x 8")
    np.testing.assert_allclose(inside(maps, LAYOUT), np.stack([within] * 2, 1), atol=2e-3)
    np.testing.assert_allclose(inside(np.ones((1, 2, 8, 8)), LAYOUT), [[0.25, 0.375]])
    assert (inside(np.zeros((1, 2, 8, 8)), LAYOUT) == 0).all(), "a layer that listens to nothing"


@pytest.mark.parametrize(
    "case, windows",
    {
        "none": {},
        "ilgd": {"ilgd": (0.5, 4.5), "injection": (0.5, 2.5)},
        "injection": {"injection": (0.5, 2.5)},
        "loss": {"ilgd": (0.5, 4.5)},
        "both": {"ilgd": (0.5, 4.5), "dga": (-0.5, 6.5), "injection": (0.5, 2.5)},
        "directed": {"directed": (-0.5, 1.5)},
    }.items(),
)
def test_every_method_has_its_window_and_injection_one_of_its_own(case, windows):
    made = trace(case, record(ONE, 0.1, EARLY))
    before = dict(made.settings)
    assert windows_of(made) == windows
    assert made.settings == before


def test_a_guide_that_only_watches_has_no_window():
    made = trace("none", record(ONE, 0.1, EARLY))
    made.settings["dga"] = {"weight": 25.0, "window": {"start": 0.0, "stop": 0.0}}
    assert windows_of(made) == {}


def test_energies_are_there_while_a_method_acts():
    made = trace("both", record(ONE, 0.1, EARLY))
    energies = energies_of(made, made.records[0])
    assert {name: np.isfinite(curve).nonzero()[0].tolist() for name, curve in energies.items()} == {
        "ilgd": [1, 2, 3, 4],
        "dga": [0, 1, 2, 3, 4, 5, 6],
    }
    assert energies_of(trace("directed", made.records[0]), made.records[0]) == {}


# --- figures ---------------------------------------------------------------------------------------------------------


def test_the_grid_has_a_block_per_phrase_with_the_baseline_above(traces):
    fig = attention_grid(traces, "tiny", shown=4)
    drawn(fig)
    blocks = fig.subfigs
    assert [block.get_supylabel() for block in blocks] == ["red car", "blue fish"]
    for n, block in enumerate(blocks):
        grid, bar = np.reshape(block.axes[:10], (2, 5)), block.axes[10]
        assert [row[0].get_ylabel() for row in grid] == ["none", "ilgd"]
        assert [ax.get_title() for ax in grid[0]] == [
            *(f"step {k + 1}" for k in (0, 3, 6, 9)),
            "final",
        ]
        assert [ax.get_xlabel() for ax in grid[0, :4]] == ["10 % inside"] * 4
        assert [ax.get_xlabel() for ax in grid[1, :4]] == [f"{n} % inside" for n in (10, 50, 40, 30)]
        limits = {ax.images[0].get_clim() for ax in grid[:, :4].flat}
        top = max(attention_of(t.records[0], "up, 4 x 4")[:, n].max() for t in traces.values())
        assert limits == {(0, float(top))}, "also of steps that are not shown"
        assert bar.get_ylim() == (0, float(top))
        shown = np.asarray(grid[1, 1].images[0].get_array())
        np.testing.assert_allclose(shown, attention_of(traces["ilgd"].records[0], "up, 4 x 4")[3, n])
        outline = grid[0, 0].collections[0].get_paths()[0].vertices
        x0, y0, x1, y1 = LAYOUT.regions[n].box
        np.testing.assert_allclose([outline.min(0), outline.max(0)], [(x0, y0), (x1, y1)], atol=0.01)
        final = np.asarray(grid[0, -1].images[0].get_array())
        assert (final == overlay.enlarge(traces["none"].records[0].final)).all()
    assert "“a red car and a blue fish”" in fig.get_suptitle()
    assert "seed 0; mean of all 4 x 4 layers" in fig.get_supxlabel().replace("\n", " ")


def test_the_grid_of_another_picture_and_layer(traces):
    fig = attention_grid(traces, "tiny", image=1, layer="down, 8 x 8")
    drawn(fig)
    (block,) = fig.subfigs
    assert block.get_supylabel() == "red ball" and block.axes[0].images[0].get_array().shape == (8, 8)
    assert len(block.axes) == 2 * 7 + 1 and "down, 8 x 8" in fig.get_supxlabel()


def test_overlap_says_when_and_how_strongly(traces):
    fig = overlap_plot(traces["ilgd"], "tiny")
    drawn(fig)
    over, under, *masks = fig.axes
    lines = {ax.get_title().split(":")[0]: ax.lines[1] for ax in (over, under)}
    ratio = SIGMAS / np.sqrt(1 - SIGMAS**2)
    np.testing.assert_allclose(lines["injection"].get_xydata(), np.stack([[2, 3], 0.75 * np.log1p(ratio[1:3])], 1))
    np.testing.assert_allclose(lines["loss"].get_xydata(), np.stack([[2, 3, 4, 5], 0.32 * ratio[1:5]], 1))
    spans = [(p.get_x(), p.get_x() + p.get_width()) for ax in (over, under) for p in ax.patches]
    assert spans == [(1.5, 3.5), (1.5, 5.5)]
    assert [ax.images[0].get_array().shape[:2] for ax in masks] == [(8, 8), (4, 4), (2, 2)]
    four = np.asarray(masks[1].images[0].get_array())
    assert (four[:2, :2] == overlay.rgb(0)).all() and (four[1:, 2:] == overlay.rgb(1)).all()
    assert (four[2:, :2] == overlay.PAPER).all() and (four[0] != four[1]).any()


def test_overlap_knows_both_readings_of_sigma_and_no_others(traces):
    raw = trace("ilgd", record(ONE, 0.1, EARLY))
    raw.settings["ilgd"] = ILGD_SETTINGS | {"strength": {"rule": "raw", "scale": 2.0}}
    loss = overlap_plot(raw, "tiny").axes[1].lines[1]
    np.testing.assert_allclose(loss.get_ydata(), 0.64 * SIGMAS[1:5])
    raw.settings["ilgd"] = ILGD_SETTINGS | {"strength": {"rule": "unit", "scale": 0.2}}
    with pytest.raises(ValueError, match="the strength rule 'unit' has no eta sigma_t"):
        overlap_plot(raw, "tiny")
    with pytest.raises(ValueError, match="the trace has no iLGD but cfg, attention, steps"):
        overlap_plot(traces["none"], "tiny")


def test_traces_of_a_real_run(real, tmp_path):
    loaded = {case: Trace.load(made.save(tmp_path / case / "trace")) for case, made in real.items()}
    drawn(attention_grid(loaded, "tiny", shown=3))
    drawn(overlap_plot(loaded["ilgd"], "tiny"))
    assert set(windows_of(loaded["ilgd"])) == {"ilgd", "injection"}
    assert np.isfinite(energies_of(loaded["ilgd"], loaded["ilgd"].records[0])["ilgd"]).sum() == 4
