"""Drags, combinations and curves from runs to figures: what acts, what is scored, what is drawn, what is missing."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from test_dma import DRAGS, PROMPTS, TWO_OBJECTS, Blocks, Centroids, dma, patches
from test_figures import drawn, entry, lost, texts
from torchvision.utils import flow_to_image

from helpers import figures, overlay, score, summary
from helpers.conditions import Layout, Region, encode_mask
from helpers.drawn import Drawn
from helpers.experiments.dma import Nets, guidance_of
from helpers.guidance import CFG, STRENGTHS, Recurrence, Unit, Window
from helpers.guidance.dga import DGA
from helpers.guidance.dma import decaying, rigid
from helpers.inversion import Inverted
from helpers.metrics.judge import Judge
from helpers.miniature.combined import load_combined
from helpers.miniature.drags import load_drags
from helpers.miniature.world import render
from helpers.params import CombinationCase, Curve, RobustnessBlock, load
from helpers.paths import weights
from helpers.perception.disturbed import DisturbedClicks, DisturbedFlow
from helpers.reports import combinations as combinations_report
from helpers.reports import dma as dma_report
from helpers.reports import robustness as robustness_report
from helpers.sampling import sample
from helpers.score import judge_drags, of_drags
from helpers.trace import Record, Trace

PARAMS = load("smoke")
STEPS = 4
TEST = load_drags("test")
SHOWN = (TEST[0], TEST[6])  # one handle; two objects
ASKED = [SimpleNamespace(drag=drag) for drag in DRAGS]


# --- what a case of drags is guided by -------------------------------------------------------------------------------

NETS = Nets("raft", "sam", "dino")


def method(name, **changes):
    case = PARAMS.dma.case(name).model_copy(update=changes)
    (made,) = guidance_of(PARAMS, case, ASKED, NETS)
    return made


def test_the_full_case_acts_with_the_papers_weight_and_keeps_the_background():
    full, case, block = method("full"), PARAMS.dma.case("full"), PARAMS.dma
    assert (full.name, full.weight, full.window, full.blend) == ("dma", 90.0, Window(0, case.window), Window(0, 1))
    assert full.weights == {term: getattr(case, f"{term}_weight") for term in full.weights} and full.field is rigid
    assert len(full.weights) == 3 and all(full.weights.values())
    assert full.strength == STRENGTHS[block.strength.rule](block.strength.scale, block.strength.clip)
    again = block.recurrence
    assert full.recurrence == Recurrence(again.times, Window(0, again.window), again.noise)
    assert full.drags == DRAGS and (full.flow, full.clicks.clicks, full.features) == ("raft", "sam", "dino")
    assert (full.clicks.grow, full.clicks.shift) == (0, (0, 0))


@pytest.mark.parametrize("name", ["none", "none_drawn"])
def test_without_a_weight_nothing_acts_and_no_background_is_kept(name):
    idle = method(name)
    assert idle.window == idle.blend == Window(0, 0)


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("displacement", {"appearance", "semantic"}),
        ("displacement_appearance", {"semantic"}),
        ("displacement_semantic", {"appearance"}),
    ],
)
def test_an_ablation_drops_its_terms_and_nothing_else(name, dropped):
    some, full = method(name), method("full")
    assert some.weights == full.weights | dict.fromkeys(dropped, 0.0)
    assert {**some.settings(), **full.weights} == full.settings()


def test_field_and_window_are_the_cases():
    fading = method("full", field="decaying")
    assert fading.field is decaying and {**fading.settings(), "field": "rigid"} == method("full").settings()
    assert method("full", window=0.3).window == Window(0, 0.3)


@pytest.mark.parametrize(("grow", "shift"), [(-2, (0, 0)), (2, (0, 0)), (0, (3, 0))])
def test_an_error_of_masks_is_put_around_the_click_segmenter(grow, shift):
    wrong = method("full", mask_grow=grow, mask_shift=shift)
    assert isinstance(wrong.clicks, DisturbedClicks) and wrong.clicks.clicks == "sam" and wrong.flow == "raft"
    assert (wrong.clicks.grow, wrong.clicks.shift) == (grow, shift)
    assert wrong.settings() == method("full").settings()


def test_an_error_of_the_flow_is_put_around_it():
    wrong = method("full", flow_error=4.0)
    assert isinstance(wrong.flow, DisturbedFlow) and (wrong.flow.flow, wrong.flow.pixels) == ("raft", 4.0)
    assert (wrong.clicks.grow, wrong.clicks.shift) == (0, (0, 0)) and wrong.settings() == method("full").settings()


def test_a_weight_of_zero_is_zero():
    assert method("full", weight=0.0).weight == 0


@pytest.fixture(scope="module")
def runs(tiny):
    """case -> (run, its method, Trace): the drags of test_dma by the experiment's own guidance, through stand-ins."""
    nets = Nets(Centroids(), Blocks(), patches)
    made = {}
    for name in ("none", "full"):
        methods, trace = guidance_of(PARAMS, PARAMS.dma.case(name), ASKED, nets), Trace([0, 2])
        made[name] = sample(tiny, PROMPTS, methods, steps=STEPS, trace=trace), methods[0], trace
    return made


def test_the_baseline_is_the_inverted_source_and_the_nets_watch_it(tiny, runs):
    run, idle, trace = runs["none"]
    plain = sample(tiny, PROMPTS, [Inverted(idle.trajectory)], steps=STEPS)
    assert torch.equal(run.images, plain.images) and run.cost.backwards == 0 and "grad_rms" not in run.curves
    for record in trace.records:
        assert np.isfinite(record.curves["dma.displacement"]).all() and record.maps["dma.mask"].any()


def test_the_full_case_changes_the_moved_region_only(runs):
    (before, _, _), (after, acting, _) = runs["none"], runs["full"]
    region = acting._region.expand_as(after.latents)
    assert after.cost.backwards > 0 and (after.latents - before.latents)[region].abs().max() > 0.01
    assert torch.equal(after.latents[~region], acting.trajectory.latents[-1][~region])


def test_without_cfg_there_is_no_effective_scale(tiny, runs):
    for run, _, _ in runs.values():
        assert run.eff_cfg.shape == (3,) and run.eff_cfg.isnan().all()
    guided = sample(tiny, PROMPTS[:1], [CFG(3)], steps=2)
    torch.testing.assert_close(guided.eff_cfg, torch.tensor([3.0]), atol=1e-3, rtol=0)


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge():
    return Judge.from_pretrained(weights("judge")).eval()


def pictures(arrays):
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255


def sources(cases):
    return torch.stack([case.drag.image() for case in cases])


def edits(cases):
    return pictures([case.edited() for case in cases])


def as_drawn(cases, images, /, **settings):
    """These pictures as if a run had drawn them, without CFG."""
    cost = {"seconds": 2.0, "nfe": 20.0, "peak_mb": 500.0, "eff_cfg": float("nan")}
    rows = [{"id": case.id, "seed": case.seed, **cost} for case in cases]
    return Drawn(images, rows, [], settings=settings)


@pytest.fixture(scope="module")
def scored(judge):
    """The sources and the rendered edits of eight drags, one of every form."""
    part = TEST[:8]
    return {
        "none": judge_drags(as_drawn(part, sources(part)), part, judge),
        "full": judge_drags(as_drawn(part, edits(part)), part, judge),
    }


def test_pictures_and_drags_in_another_order_are_refused(judge):
    part = TEST[:2]
    with pytest.raises(ValueError, match="image 0 was drawn for case 'test-001', not for 'test-000': keep their order"):
        judge_drags(as_drawn(part[::-1], sources(part)), part, judge)
    with pytest.raises(ValueError, match="image 1 was drawn for case 'test-002', not for 'test-001'"):
        score.check(as_drawn([TEST[0], TEST[2]], None), part)
    with pytest.raises(ValueError, match="zip"):
        score.check(as_drawn(TEST[:3], None), part)
    assert score.check(as_drawn(part, None), part) is None


def test_scores_of_drags_hold_what_the_run_cost_and_what_the_judge_says(scored, judge):
    for name, found in scored.items():
        assert [row["id"] for row in found.rows] == [case.id for case in TEST[:8]], name
        assert found.features.shape == (8, 64) and len(found.found) == 8
        assert all(row["nfe"] == 20 and np.isnan(row["eff_cfg"]) and row["contrast"] > 0 for row in found.rows)
        assert not {"box_iou", "clip_score", "relation_acc"} & set(found.rows[0])
    before, after = (np.mean([row["drag_md"] for row in scored[name].rows]) for name in ("none", "full"))
    assert after < 1 < before


def test_drags_of_drawn_sources_are_scored_against_their_own_cases(judge):
    own = load_drags("test", "drawn")[:2]
    (row, _) = of_drags(as_drawn(own, sources(own), source="drawn"), judge).rows
    assert row["image_fidelity"] == pytest.approx(1, abs=1e-4) and np.isnan(row["edit_fidelity"])
    (row, _) = of_drags(as_drawn(TEST[:2], sources(TEST[:2]), source="rendered"), judge).rows
    assert row["image_fidelity"] == pytest.approx(1, abs=1e-4) and 0 < row["edit_fidelity"] < 1


@pytest.fixture
def few_draws(monkeypatch):
    """Intervals from few resamples."""
    monkeypatch.setattr(summary.stats, "resampled", partial(summary.stats.resampled, draws=20))


def reference(n=30):
    return torch.randn(n, 64, generator=torch.Generator().manual_seed(0))


def test_drags_have_no_precision_of_boxes_and_layouts_do(scored, few_draws, judge):
    part = TEST[:8]
    found = summary.summarise(scored["full"], part, reference())
    assert {"drag_md", "kernel_distance", "nfe"} <= set(found) and not {"box_ap50", "box_ap"} & set(found)
    assert found["drag_md"]["n"] == 8 and found["eff_cfg"]["n"] == 0 and np.isnan(found["eff_cfg"]["mean"])
    change = summary.differences(scored["full"], scored["none"], part, reference())
    assert set(change) == set(found) and change["drag_md"]["hi"] < 0 < change["edit_fidelity"]["lo"]
    scenes = [case.scene for case in load_combined("test")[:2]]
    layouts = score.Scored(scored["full"].rows[:2], scored["full"].found[:2], scored["full"].features[:2])
    assert {"box_ap50", "box_ap"} <= set(summary.evaluate(layouts, scenes, reference()).drawn)


# --- figures of drags ------------------------------------------------------------------------------------------------


def masked(case):
    """A benchmark drag with its objects' true masks, for runs without a click segmenter."""
    visible = render(case.scene).visible
    mask = np.any([visible[index] for index, _, _ in case.shifts], 0)
    return case.drag.model_copy(update={"mask": encode_mask(mask)})


def watched(tiny, methods, prompts, images, seeds=None) -> Trace:
    trace = Trace(images)
    sample(tiny, prompts, methods, steps=STEPS, seeds=seeds, trace=trace)
    return trace


@pytest.fixture(scope="module")
def drags(tiny):
    """Traces of drags of the benchmark, the second case first: places in a figure are not places in the run."""
    asked = [masked(case) for case in SHOWN]
    windows = {"none": Window(0, 0), "displacement": Window(0, 0.5), "full": Window(0, 0.5)}
    options = {"displacement": {"appearance_weight": 0.0, "semantic_weight": 0.0}}
    return {
        name: watched(
            tiny,
            [dma(asked, window=window, blend=Window(0, float(window.stop > 0)), **options.get(name, {}))],
            [drag.prompt for drag in asked],
            (1, 0),
        )
        for name, window in windows.items()
    }


def rows_of(names, **metrics):
    """case -> a row for each image, another number everywhere."""
    return {
        name: [{key: value + n + k / 10 for key, value in metrics.items()} for k in range(3)]
        for n, name in enumerate(names)
    }


def shown(ax) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def arrows(ax):
    return [text for text in ax.texts if text.arrow_patch is not None]


def test_drag_grid_has_source_wanted_and_cases_in_order(drags):
    scores = rows_of(drags, drag_md=4.0, edit_fidelity=0.5)
    fig = figures.drag_grid(drags, SHOWN, scores, "tiny, no CFG")
    drawn(fig)
    grid = np.reshape(fig.axes, (2, 5))
    assert [ax.get_title() for ax in grid[0]] == ["source, drag", "wanted", "none", "displacement", "full"]
    assert fig.get_suptitle() == "tiny, no CFG"
    for row, index in zip(grid, (1, 0), strict=True):
        case = SHOWN[index]
        assert (shown(row[1]) == overlay.enlarge(case.edited())).all()
        assert (shown(row[0]) == overlay.enlarge(render(case.scene).image)).all()
        assert f"{case.prompt}, seed {index}" == row[0].get_xlabel().replace("\n", " ")
        for n, (ax, name) in enumerate(zip(row[2:], drags, strict=True)):
            record = next(record for record in drags[name].records if record.index == index)
            assert (shown(ax) == overlay.enlarge(record.final)).all()
            assert ax.get_xlabel() == f"{4 + n + index / 10:.1f} px off, fidelity {0.5 + n + index / 10:.2f}"


def test_an_arrow_goes_from_every_handle_to_its_target(drags):
    fig = figures.drag_grid({"none": drags["none"]}, SHOWN, rows_of(["none"], drag_md=1.0, edit_fidelity=0.5), "")
    drawn(fig)
    grid = np.reshape(fig.axes, (2, 3))
    for ax, index in zip(grid[:, 0], (1, 0), strict=True):
        moves = SHOWN[index].drag.moves
        assert len(arrows(ax)) == len(moves) == 1 + index
        for arrow, move in zip(arrows(ax), moves, strict=True):
            np.testing.assert_allclose(arrow.xy, 256 * np.array(move.target) - 0.5)
            np.testing.assert_allclose(arrow.xyann, 256 * np.array(move.handle) - 0.5)
    assert not any(arrows(ax) for ax in grid[:, 1:].flat)


@pytest.fixture(scope="module")
def strip(drags):
    fig = figures.flow_strip(drags["none"], drags["full"], ("none", "full"), "tiny, DMA", shown=3)
    drawn(fig)
    return np.reshape(fig.axes[:24], (6, 4)), fig.axes[24:], fig


def test_flow_strip_shows_frames_flows_and_errors_at_its_steps(drags, strip):
    grid, _, fig = strip
    times = drags["full"].timesteps
    assert [ax.get_title() for ax in grid[0]] == [*(f"step {k + 1}, t={times[k]}" for k in (0, 2, 3)), "final"]
    assert [grid[k, 3].get_title() for k in (1, 2, 4, 5)] == ["reference", "source, drag"] * 2
    names = [f"{name}\n{what}" for name in ("none", "full") for what in ("$\\hat x_0$", "flow", "warp error")]
    assert [ax.get_ylabel() for ax in grid[:, 0]] == names
    record = drags["full"].records[0]
    assert fig.get_suptitle() == f"tiny, DMA\n“{record.prompt}”, seed 1, 4 steps"
    for half, name in ((grid[:3], "none"), (grid[3:], "full")):
        record = drags[name].records[0]
        for k, step in enumerate((0, 2, 3)):
            assert (shown(half[0, k]) == overlay.enlarge(record.frames[step])).all()
            assert (shown(half[2, k]) == record.maps["dma.error"][step]).all()
        assert (shown(half[0, 3]) == overlay.enlarge(record.final)).all() and len(arrows(half[2, 3])) == 2


def test_flows_of_a_strip_share_one_scale_of_colours(drags, strip):
    grid, _, _ = strip
    flows = [drags[name].records[0].maps["dma.flow"][step] for name in ("none", "full") for step in (0, 2, 3)]
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
    assert titles == ["loss: displacement", "loss: appearance", "loss: semantic", "rms of the gradient"]
    left, width = curves[0].patches[0].get_x(), curves[0].patches[0].get_width()
    assert (left, left + width) == (0.5, 2.5), "two of four steps are guided"
    for ax, term in zip(curves, ("displacement", "appearance", "semantic")):
        for line, name in zip(ax.lines, ("none", "full"), strict=True):
            np.testing.assert_allclose(line.get_ydata(), drags[name].records[0].curves[f"dma.{term}"])
    assert [line.get_label() for line in curves[3].lines] == ["full"], "the baseline has no gradient"


def test_another_image_of_the_traces_can_be_shown_at_a_single_step(drags):
    fig = figures.flow_strip(drags["none"], drags["displacement"], ("a", "b"), "tiny", image=1, shown=1)
    drawn(fig)
    assert len(fig.axes) == 6 * 2 + 4 and any(SHOWN[0].prompt in text for text in texts(fig))


# --- figures of combinations -----------------------------------------------------------------------------------------

LAYOUT = Layout(
    prompt=TWO_OBJECTS.prompt,
    regions=[Region(phrase="red car", box=(0.1, 0.1, 0.4, 0.4)), Region(phrase="blue fish", box=(0.5, 0.6, 0.8, 0.9))],
)


@pytest.fixture(scope="module")
def combined(tiny, segmenter):
    """Traces of one prompt drawn twice, from other seeds; the runs without a drag or a layout do not know one."""

    def layout(**options):
        return DGA(segmenter, [LAYOUT] * 2, **options)

    def drag(**options):
        return dma([TWO_OBJECTS] * 2, **options)

    methods = {
        "none": [CFG(3)],
        "source": [drag(window=Window(0, 0), blend=Window(0, 0))],
        "layout": [CFG(3), layout()],
        "drag": [drag()],
        "layout_drag": [layout(), drag(strength=Unit(0.2))],
    }
    prompts = [TWO_OBJECTS.prompt] * 2
    return {name: watched(tiny, some, prompts, (0, 1), (3, 4)) for name, some in methods.items()}


COMBINED = SimpleNamespace(
    prompt=LAYOUT.prompt, scene=SimpleNamespace(layout=LAYOUT), drag=SimpleNamespace(drag=TWO_OBJECTS)
)


@pytest.mark.parametrize(
    "names", [("none", "source", "layout", "drag", "layout_drag"), ("none", "layout"), ("source", "drag")]
)
def test_combination_grid_shows_the_drag_the_layout_and_the_cases(combined, names):
    traces = {name: combined[name] for name in names}
    fig = figures.combination_grid(traces, [COMBINED] * 2, rows_of(names, box_iou=0.25, center_dist=3.0), "tiny")
    drawn(fig)
    grid = np.reshape(fig.axes, (2, len(names) + 1))
    titles = [ax.get_title().replace("\n", " ") for ax in grid[0]]
    assert titles == ["source, drag, wanted", *(name.replace("_", " ") for name in names)]
    source = overlay.enlarge((TWO_OBJECTS.image() * 255).byte().permute(1, 2, 0).numpy())
    for k, row in enumerate(grid):
        assert (shown(row[0]) == overlay.draw_wanted(source, LAYOUT)).all() and len(arrows(row[0])) == 2
        assert row[0].get_xlabel().replace("\n", " ") == LAYOUT.prompt
        for n, (ax, name) in enumerate(zip(row[1:], names, strict=True)):
            final = overlay.enlarge(traces[name].records[k].final)
            assert (shown(ax) == overlay.draw_wanted(final, LAYOUT)).all(), "also where no layout was asked for"
            assert ax.get_xlabel() == f"IoU {0.25 + n + k / 10:.2f}, {3 + n + k / 10:.0f} px off"


def curves_of(*curves) -> Trace:
    """A Trace that recorded nothing but these curves, of an image each."""
    trace = Trace(range(len(curves)))
    trace.records = [Record(k, "a red car", k, curves=own) for k, own in enumerate(curves)]
    return trace


def test_cosines_plot_has_a_panel_per_case_with_several_rules(combined):
    assert "cosine.dga.dma" in combined["layout_drag"].records[0].curves
    fig = figures.cosines_plot(combined, "tiny")
    drawn(fig)
    (ax,) = fig.axes
    assert ax.get_title() == "layout, drag" and ax.get_ylabel() == "cosine of gradients"
    values = np.stack([record.curves["cosine.dga.dma"] for record in combined["layout_drag"].records])
    assert np.isfinite(values[:, :3]).all() and np.isnan(values[:, 3]).all(), "the last step is not guided"
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), values[:, :3].mean(0))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["dga and dma"]


def test_cosines_plot_names_every_pair_and_shares_its_axis():
    one = {"cosine.dca.dga": np.array([0.5, np.nan, -0.5]), "cosine.dca.dma": np.array([0.1, 0.2, 0.3]), "dca": [1] * 3}
    other = {"cosine.dca.dga": np.array([0.1, 0.3, -0.1]), "cosine.dca.dma": np.array([0.3, 0.2, 0.1])}
    traces = {"none": curves_of({}, {}), "text_layout_drag": curves_of(one, other), "text_drag": curves_of(one)}
    fig = figures.cosines_plot(traces, "tiny")
    drawn(fig)
    left, right = fig.axes
    assert (left.get_title(), right.get_title()) == ("text, layout, drag", "text, drag")
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    assert legend == ["dca and dga", "dca and dma"] and left.get_ylim() == right.get_ylim()
    np.testing.assert_array_equal(left.lines[0].get_xdata(), [1, 3])
    np.testing.assert_allclose(left.lines[0].get_ydata(), [0.3, -0.3])
    np.testing.assert_allclose(left.lines[1].get_ydata(), [0.2, 0.2, 0.2])


def test_cosines_plot_without_any_cosine_is_an_empty_panel(combined):
    fig = figures.cosines_plot({"none": combined["none"], "drag": combined["drag"]}, "nothing to compare")
    drawn(fig)
    assert len(fig.axes) == 1 and not fig.axes[0].lines


COST = {"none": (2.0, 40, 500), "text": (4.0, 60, 600), "text_drag": (8.0, 90, 700), "text_drag_paper": (5.0, 50, 650)}


@pytest.mark.parametrize("names", [list(COST), ["none", "text"], ["text_drag_paper"]])
def test_cost_plot_has_a_point_per_case_over_the_number_of_modules(names):
    modules = {"none": 0, "text": 1, "text_drag": 2, "text_drag_paper": 2}
    metrics = {name: dict(zip(("seconds", "nfe", "peak_mb"), map(entry, COST[name]))) for name in names}
    fig = figures.cost_plot(metrics, {name: modules[name] for name in names}, "tiny")
    drawn(fig)
    titles = ["seconds per image", "evaluations of the U-Net", "peak memory of a batch, MB"]
    assert [ax.get_ylabel() for ax in fig.axes] == titles and {ax.get_xlabel() for ax in fig.axes} == {"modules"}
    for n, ax in enumerate(fig.axes):
        points = np.concatenate([c.get_offsets() for c in ax.collections])
        ticks = [label.get_text() for label in ax.get_xticklabels()]
        found = sorted((ticks[round(x)], y) for x, y in points)
        assert found == sorted((str(modules[name]), COST[name][n]) for name in names)
        assert ax.get_ylim()[0] == 0
        kinds = {"paper, one gradient" if "paper" in name else "tuned, one each" for name in names}
        assert {text.get_text() for text in ax.get_legend().get_texts()} == kinds


# --- figures of curves -----------------------------------------------------------------------------------------------


def curve(values, metric, start=0.5, baseline=0.1):
    """value -> metric -> entry, as the notebook writes it."""

    def point(mean, far):
        return {metric: entry(mean), "kernel_distance": entry(far)}

    turned = {f"{value:g}": point(start - 0.01 * k, 0.1 + 0.1 * k) for k, value in enumerate(values)}
    return {"none": point(baseline, 0.05)} | turned


def test_curves_plot_draws_mean_interval_and_baseline_over_the_values():
    curves = {"layout_noise": curve([0, 0.05, 0.2], "box_iou"), "mask_error": curve([-4, 0, 4], "drag_md", 5, 12)}
    fig = figures.curves_plot(curves, {"layout_noise": "box_iou", "mask_error": "drag_md"}, "tiny")
    drawn(fig)
    noise, mask = fig.axes
    assert [ax.get_title() for ax in fig.axes] == ["layout noise", "mask error"]
    assert [ax.get_ylabel() for ax in fig.axes] == ["box_iou ↑", "drag_md ↓"]
    np.testing.assert_allclose(noise.lines[0].get_xdata(), [0, 0.05, 0.2])
    np.testing.assert_allclose(noise.lines[0].get_ydata(), [0.5, 0.49, 0.48])
    np.testing.assert_allclose(mask.lines[0].get_xdata(), [-4, 0, 4])
    assert [set(ax.lines[1].get_ydata()) for ax in fig.axes] == [{0.1}, {12}]
    edges = noise.collections[0].get_paths()[0].vertices
    assert edges[:, 1].min() == pytest.approx(0.43) and edges[:, 1].max() == pytest.approx(0.55)


@pytest.mark.parametrize(("count", "places"), [(1, 1), (5, 5), (7, 10)])
def test_curves_plot_breaks_into_rows_and_hides_what_is_left_over(count, places):
    curves = {f"curve_{k}": curve([0, 1], "box_iou") for k in range(count)}
    fig = figures.curves_plot(curves, dict.fromkeys(curves, "box_iou"), "tiny")
    drawn(fig)
    assert len(fig.axes) == places
    assert [ax.axison for ax in fig.axes] == [True] * count + [False] * (places - count)


def test_a_curve_of_numbers_that_do_not_exist_is_drawn_with_gaps():
    broken = curve([0, 1, 2], "relation_acc")
    broken["1"]["relation_acc"] = {"mean": float("nan"), "lo": float("nan"), "hi": float("nan")}
    fig = figures.curves_plot({"missing": broken}, {"missing": "relation_acc"}, "tiny")
    drawn(fig)
    assert np.isnan(fig.axes[0].lines[0].get_ydata()).tolist() == [False, True, False]


def test_tradeoff_plot_goes_from_unguided_to_the_strongest():
    sweeps = {"layout": curve([4, 0.25, 1], "box_iou"), "drag": curve([1, 2], "drag_md", 5, 12)}
    fig = figures.tradeoff_plot(sweeps, {"layout": "box_iou", "drag": "drag_md", "text": "relation_acc"}, "tiny")
    drawn(fig)
    layout, drag = fig.axes
    assert (layout.get_title(), drag.get_title()) == ("layout", "drag")
    assert (layout.get_ylabel(), drag.get_ylabel()) == ("box_iou ↑", "drag_md ↓")
    assert [text.get_text() for text in layout.texts] == ["none", "0.25", "1", "4"]
    np.testing.assert_allclose(layout.lines[0].get_ydata(), [0.1, 0.49, 0.48, 0.5])
    np.testing.assert_allclose(layout.lines[0].get_xdata(), [0.05, 0.2, 0.3, 0.1])
    assert len(drag.texts) == 3


def test_tradeoff_plot_without_a_sweep_is_an_empty_panel():
    fig = figures.tradeoff_plot({}, {"layout": "box_iou"}, "no strengths were tried")
    drawn(fig)
    assert len(fig.axes) == 1 and not fig.axes[0].lines


# --- tables ----------------------------------------------------------------------------------------------------------


def cells(fig) -> list[list[str]]:
    ax = fig.axes[0]
    columns = len(ax.get_xticklabels())
    found = [text.get_text() for text in ax.texts]
    return [found[k : k + columns] for k in range(0, len(found), columns)]


def test_a_table_compares_every_metric_with_what_it_is_told():
    gain, loss = ({"mean": d, "lo": d - 0.05, "hi": d + 0.05} for d in (0.3, -0.3))
    metrics = {
        "layout": {"box_iou": entry(0.6, 0.5), "drag_md": entry(9.0)},
        "layout_drag": {
            "box_iou": entry(0.5, 0.4) | {"diff_layout": loss, "diff_drag": gain},
            "drag_md": entry(2.0, 0.0) | {"diff_layout": gain, "diff_drag": loss},
        },
    }
    fig = figures.ablation_table(metrics, ["box_iou", "drag_md"], "tiny", {"box_iou": "diff_layout"})
    drawn(fig)
    verdicts = np.asarray(fig.axes[0].collections[0].get_array()).reshape(2, 2)
    assert verdicts.tolist() == [[0, 0], [-1, 0]], "drag_md is compared as always"
    assert cells(fig)[0] == ["0.600", "9.000\n+0.000 [-0.050, +0.050]"], "no difference, only a mean"
    assert cells(fig)[1][0] == "0.500\n-0.300 [-0.350, -0.250]"
    both = figures.ablation_table(
        metrics, ["box_iou", "drag_md"], "tiny", {"box_iou": "diff_drag", "drag_md": "diff_drag"}
    )
    verdicts = np.asarray(both.axes[0].collections[0].get_array()).reshape(2, 2)
    assert verdicts.tolist() == [[0, 0], [1, 1]], "less distance is better"


def test_a_table_leaves_blank_what_does_not_exist():
    metrics = {
        "none": {"drag_md": lost(float("nan")), "box_iou": entry(0.1)},
        "drag": {"drag_md": entry(3.0) | {"diff": lost(float("nan"))["diff"]}, "box_iou": lost(None)},
    }
    fig = figures.ablation_table(metrics, ["drag_md", "box_iou"], "tiny", {"drag_md": "diff"})
    drawn(fig)
    assert cells(fig) == [["-", "0.100\n+0.000 [-0.050, +0.050]"], ["3.000", "-"]]
    assert not np.asarray(fig.axes[0].collections[0].get_array()).any()
    assert "nan" not in " ".join(texts(fig))


# --- reports ---------------------------------------------------------------------------------------------------------


def with_run(block, *run):
    """The parameters with fewer cases."""
    return PARAMS.model_copy(update={block: getattr(PARAMS, block).model_copy(update={"run": run})})


def test_the_report_of_drags_compares_with_the_baseline_and_with_displacement(
    drags, scored, few_draws, judge, monkeypatch, tmp_path
):
    monkeypatch.setattr(dma_report, "DMA", tmp_path / "results")
    own = load_drags("test", "drawn")[:5]
    redrawn = judge_drags(as_drawn(own, sources(own)), own, judge)
    found = {"none": scored["none"], "displacement": scored["none"], "full": scored["full"]}
    for case, one in (found | {"none_drawn": redrawn, "full_drawn": redrawn}).items():
        score.save(one, tmp_path / "results" / "score" / case)
    for case, trace in drags.items():
        trace.save(tmp_path / "results" / "sample" / case / "trace")
    params = with_run("dma", "none", "displacement", "full", "none_drawn", "full_drawn")
    metrics = dma_report.write(tmp_path, params, reference())
    assert metrics["full"]["drag_md"]["diff"] == metrics["full"]["drag_md"]["diff_displacement"]
    assert metrics["full"]["drag_md"]["diff"]["hi"] < 0 == metrics["displacement"]["drag_md"]["diff"]["mean"]
    assert metrics["full_drawn"]["image_fidelity"]["n"] == 5 and metrics["full_drawn"]["edit_fidelity"]["n"] == 0
    forms = pd.read_csv(tmp_path / "dma_by_form.csv")
    assert set(forms[forms.case == "full"].form) == {"one", "two handles", "two objects", "partly outside"}
    assert set(pd.read_csv(tmp_path / "dma.csv").case) == set(metrics)
    assert sorted(path.stem for path in tmp_path.glob("*.png")) == [
        "dma_cases",
        "dma_metrics",
        "dma_steps",
        "dma_table",
    ]


@pytest.fixture(scope="module")
def results(combined, judge, tmp_path_factory):
    """What the stages of combinations leave: with a drag or a layout the true edit was drawn, otherwise the source."""
    folder, scenes = tmp_path_factory.mktemp("results"), load_combined("test")[:5]
    for case in [*combined, "layout_drag_paper", "layout_paper", "drag_paper"]:
        modules = tuple(part for part in case.split("_") if part not in ("none", "paper"))
        images = (edits if {"drag", "layout"} & set(modules) else sources)([scene.drag for scene in scenes])
        settings = CombinationCase(modules=modules).model_dump(mode="json")
        found = score.of_combinations(as_drawn(scenes, images, **settings), judge)
        score.save(found, folder / "score" / case)
        combined[case.removesuffix("_paper")].save(folder / "sample" / case / "trace")
    return folder


@pytest.fixture
def combinations(results, few_draws, monkeypatch, tmp_path):
    """The report on some cases."""
    monkeypatch.setattr(combinations_report, "COMBINATIONS", results)
    return lambda *names: combinations_report.write(tmp_path, with_run("combinations", *names), reference())


def test_the_report_of_combinations_compares_with_each_module_alone(combinations, tmp_path):
    names = ("none", "source", "layout", "drag", "layout_drag", "layout_paper", "drag_paper", "layout_drag_paper")
    metrics = combinations(*names)
    for name in ("layout_drag", "layout_drag_paper"):
        assert metrics[name]["box_iou"]["diff_layout"]["mean"] == 0 == metrics[name]["drag_md"]["diff_drag"]["mean"]
        assert metrics[name]["box_iou"]["diff"]["mean"] > 0 > metrics[name]["drag_md"]["diff"]["mean"]
    assert np.isnan(metrics["layout"]["drag_md"]["mean"]) and np.isnan(
        metrics["layout_drag"]["drag_md"]["diff_layout"]["mean"]
    )
    pictures = {f"combinations_{kind}" for kind in ("cases", "matrix", "table", "gradients", "cost")}
    assert {path.stem for path in tmp_path.glob("*.png")} == pictures
    table = pd.read_csv(tmp_path / "combinations.csv")
    assert set(table.case) == set(names) and {"diff_mean", "diff_layout_lo", "diff_drag_hi"} <= set(table.columns)


def test_only_cases_of_several_modules_are_compared_with_one_alone(combinations):
    metrics = combinations("none", "source", "layout", "drag", "layout_drag")
    compared = {case for case, found in metrics.items() for key in found["box_iou"] if key.startswith("diff_")}
    assert compared == {"layout_drag"}


def test_the_report_of_robustness_names_the_metric_of_each_module(monkeypatch, tmp_path):
    monkeypatch.setattr(robustness_report, "ROBUSTNESS", tmp_path / "results")
    curves = {
        "window_layout": Curve(module="layout", knob="window", values=(0.1, 1)),
        "detector_error": Curve(module="text", knob="guide", values=(0, 8)),
        "strength_drag": Curve(module="drag", knob="strength", values=(0.25, 1, 4)),
    }
    for (name, asked), metric in zip(curves.items(), ("box_iou", "relation_acc", "drag_md"), strict=True):
        (tmp_path / "results" / name).mkdir(parents=True)
        found = curve(asked.values, metric)
        found["none"][metric] |= lost(float("nan"))
        (tmp_path / "results" / name / "curve.json").write_text(json.dumps(found))
    block = RobustnessBlock(run=tuple(curves), curves=curves)
    written = robustness_report.write(tmp_path, PARAMS.model_copy(update={"robustness": block}))
    assert list(written) == list(curves) and list(written["strength_drag"]) == ["none", "0.25", "1", "4"]
    table = pd.read_csv(tmp_path / "robustness.csv")
    modules = {name: asked.module for name, asked in curves.items()}
    assert set(zip(table.curve, table.module, strict=True)) == set(modules.items())
    row = table[(table.curve == "strength_drag") & (table.value == "4") & (table.metric == "drag_md")].iloc[0]
    assert row["mean"] == pytest.approx(0.48) and row["diff_mean"] == 0 and row["n"] == 96
    assert table[(table.value == "none") & (table.metric == "drag_md")]["mean"].isna().all()
    assert {path.stem for path in tmp_path.glob("*.png")} == {"robustness", "robustness_strength"}
