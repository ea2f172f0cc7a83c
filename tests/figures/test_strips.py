"""How a picture comes about, step by step: DGA's masks on a tiny model, flows by hand."""

import numpy as np
import pytest
import torch
from dga_traces import ASKED
from dga_traces import record as dga_record
from drawing import arrows, drawn, shown, texts
from flow_traces import ARRIVED, GUIDED, STEPS, drag, record, trace
from torchvision.utils import flow_to_image

from helpers.figures import overlay
from helpers.figures.strips import flow_strip, steps_strip


@pytest.fixture(scope="module")
def traces(tiny, segmenter):
    return {case: dga_record(tiny, segmenter, *asked) for case, asked in ASKED.items()}


def test_steps_strip_shows_every_row_and_shades_the_window(traces):
    fig = steps_strip(traces["none"], traces["full"], ("none", "full"), "tiny, DGA", shown=3)
    drawn(fig)
    found = texts(fig)
    assert "“a red car and a blue fish”" in fig.get_suptitle() and "tiny, DGA, seed 0" in fig.get_supxlabel()
    assert [f"step {k + 1}" in found for k in (0, 2, 4)] == [True] * 3
    images, curves = fig.axes[:16], fig.axes[16:]
    assert all(ax.images for ax in images) and len(curves) == 4
    left, right = curves[0].patches[0].get_x(), curves[0].patches[0].get_x() + curves[0].patches[0].get_width()
    assert (left, right) == (0.5, 3.5), "three of five steps are guided"
    np.testing.assert_allclose(curves[0].lines[1].get_ydata(), traces["full"].records[0].curves["dga.coverage"])
    assert len(curves[3].lines) == 1, "the baseline has no gradient"


@pytest.fixture(scope="module")
def drags():
    """Two drags, the second goes back: the baseline trembles, full arrives, displacement goes too far."""
    asked = drag(), drag((-4, 20), prompt="a blue ball")
    made = {
        case: trace(GUIDED[case], record(share, asked[0], seed=1), record(share[::-1], asked[1]))
        for case, share in ARRIVED.items()
    }
    for case in ("full", "displacement"):
        for of in made[case].records:
            of.curves["grad_rms"] = np.linspace(1, 0, STEPS)
    return made


@pytest.fixture(scope="module")
def strip(drags):
    fig = flow_strip(drags["none"], drags["full"], ("none", "full"), "tiny, DMA", shown=3)
    drawn(fig)
    return np.reshape(fig.axes[:24], (6, 4)), fig.axes[24:], fig


def test_flow_strip_shows_frames_flows_and_errors_at_its_steps(drags, strip):
    grid, _, fig = strip
    assert [ax.get_title() for ax in grid[0]] == ["step 1", "step 3", "step 5", "final"]
    assert [grid[k, 3].get_title() for k in (1, 2, 4, 5)] == ["reference", "source, drag"] * 2
    names = [f"{name}:\n{what}" for name in ("none", "full") for what in ("guess", "flow", "warp error")]
    assert [ax.get_ylabel() for ax in grid[:, 0]] == names
    of = drags["full"].records[0]
    assert f"“{of.prompt}”" in fig.get_suptitle() and "tiny, DMA, seed 1" in fig.get_supxlabel()
    for half, name in ((grid[:3], "none"), (grid[3:], "full")):
        of = drags[name].records[0]
        for k, step in enumerate((0, 2, 4)):
            assert (shown(half[0, k]) == overlay.enlarge(of.frames[step])).all()
            assert (shown(half[2, k]) == of.maps["dma.error"][step]).all()
        assert (shown(half[0, 3]) == overlay.enlarge(of.final)).all() and len(arrows(half[2, 3])) == 1


def test_flows_of_a_strip_share_one_scale_of_colours(drags, strip):
    grid, _, _ = strip
    flows = [drags[name].records[0].maps["dma.flow"][step] for name in ("none", "full") for step in (0, 2, 4)]
    every = torch.from_numpy(np.stack([drags["none"].records[0].maps["dma.reference"][0], *flows])).float()
    expected = flow_to_image(every).permute(0, 2, 3, 1).numpy()
    panels = [shown(ax) for half in (grid[1], grid[4]) for ax in half[:3]]
    assert all((a == b).all() for a, b in zip(panels, expected[1:], strict=True))
    assert (shown(grid[1, 3]) == expected[0]).all() and (shown(grid[4, 3]) == expected[0]).all()
    shortest = int(every.flatten(1).abs().amax(1)[1:].argmin())
    alone = flow_to_image(every[1 + shortest]).permute(1, 2, 0).numpy()
    assert (alone != panels[shortest]).any(), "by itself it would be more colourful"
    limits = {ax.images[0].get_clim() for half in (grid[2], grid[5]) for ax in half[:3]}
    assert limits == {(0, max(drags[name].records[0].maps["dma.error"].max() for name in ("none", "full")))}


def test_flow_strip_draws_the_losses_and_shades_the_window(drags, strip):
    _, curves, _ = strip
    titles = [ax.get_title() for ax in curves]
    assert titles == ["loss: displacement", "loss: appearance", "loss: semantic", "size of the gradient"]
    left, width = curves[0].patches[0].get_x(), curves[0].patches[0].get_width()
    assert (left, left + width) == (0.5, 3.5), "three of five steps are guided"
    for ax, term in zip(curves, ("displacement", "appearance", "semantic")):
        for line, name in zip(ax.lines, ("none", "full"), strict=True):
            np.testing.assert_allclose(line.get_ydata(), drags[name].records[0].curves[f"dma.{term}"])
    assert [line.get_label() for line in curves[3].lines] == ["full"], "the baseline has no gradient"


def test_another_image_of_the_traces_can_be_shown_at_a_single_step(drags):
    fig = flow_strip(drags["none"], drags["displacement"], ("a", "b"), "tiny", image=1, shown=1)
    drawn(fig)
    assert len(fig.axes) == 6 * 2 + 4 and any("a blue ball" in text for text in texts(fig))
