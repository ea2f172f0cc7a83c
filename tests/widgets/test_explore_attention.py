"""The explorer of attention: what it shows when controls move, one scale for both cases, and bad input."""

import re
from io import BytesIO

import numpy as np
import pytest
import torch
from attention_traces import EARLY, LAYOUT, ONE, SETTINGS, STEPS, record, trace
from matplotlib import colormaps
from PIL import Image

from helpers.conditions import Layout, Region
from helpers.figures import overlay
from helpers.figures.attention import attention_of, scale
from helpers.guidance.cfg import CFG
from helpers.guidance.ilgd import ILGD
from helpers.sampling.attention_maps import AttentionMaps
from helpers.sampling.loop import sample
from helpers.sampling.trace import Trace
from helpers.widgets.attention import explore_attention, framed, heard, heated
from helpers.widgets.common import load_traces

X0_HATS, HEATS, CURVES = (0, 3), (1, 4), (2, 5)


@pytest.fixture
def traces():
    """Of a prompt with two regions and one with one: iLGD moves attention early, the others differ in what they are."""
    within = {case: EARLY for case in SETTINGS} | {"none": [0.1, 0.12] * 5}
    return {
        case: trace(case, record(LAYOUT, 0.1, share), record(ONE, 0.05, share[::-1])) for case, share in within.items()
    }


class Shown:
    """The parts of an explorer."""

    def __init__(self, box):
        (self.prompt, self.method, self.layer, self.token), (self.play, self.slider) = (
            row.children for row in box.children[:2]
        )
        self.label, self.table, self.style = box.children[2], box.children[4], box.children[-1]
        self.columns = [column.children for column in box.children[3].children]

    def pictures(self):
        """The PNGs of x0_hat, heat and curves, of baseline and method."""
        images = [widget for _, pair, curves in self.columns for widget in (*pair.children, curves)]
        for image in images:
            Image.open(BytesIO(image.value)).verify()
        return [image.value for image in images]


def pixels_of(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)


def same(before, after):
    return tuple(k for k, (a, b) in enumerate(zip(before, after)) if a == b)


# --- pictures --------------------------------------------------------------------------------------------------------


def test_heat_has_the_colours_of_its_scale_over_the_picture_in_grey():
    frames = np.full((2, 64, 64, 3), (200, 100, 0), np.uint8)
    maps = np.zeros((2, 2, 2), np.float32)
    maps[1, 0, 0] = 0.5
    cold, hot = heated(frames, maps, 0.5)
    grey, lowest, highest = overlay.dimmed(frames[0])[0, 0], *(np.array(colormaps["viridis"](v)[:3]) for v in (0, 1.0))
    np.testing.assert_allclose(cold, np.broadcast_to(0.75 * 255 * lowest + 0.25 * grey, cold.shape), atol=1)
    np.testing.assert_allclose(hot[0, 0], 0.75 * 255 * highest + 0.25 * grey, atol=1)
    np.testing.assert_allclose(hot[-1, -1], cold[-1, -1])
    assert scale(0.5)(0.125) == pytest.approx(0.5), "colours go with the square root"


def test_the_chosen_region_has_a_closed_outline():
    picture = np.full((256, 256, 3), 90, np.uint8)
    for n in (0, 1):
        found = framed(picture, LAYOUT, n)
        edges = [overlay.edge(mask, 2) for mask in overlay.wanted(LAYOUT)]
        assert (found[edges[n]] == overlay.rgb(n)).all()
        other = found[edges[1 - n]]
        assert 0.3 < (other == overlay.rgb(1 - n)).all(-1).mean() < 0.7, "dashes"
    assert (picture == 90).all()


# --- the explorer ----------------------------------------------------------------------------------------------------


def test_it_follows_slider_prompt_and_method(traces, tmp_path):
    for case, made in traces.items():
        made.save(tmp_path / case / "trace")
    shown = Shown(explore_attention(tmp_path))
    assert (shown.slider.min, shown.slider.max, shown.play.max) == (1, STEPS, STEPS)
    assert "none" in shown.columns[0][0].value and "ilgd" in shown.columns[1][0].value, "the baseline stands left"
    assert shown.method.options == ("ilgd", "both", "directed", "injection", "loss"), "ilgd is shown first"

    first = shown.pictures()
    shown.slider.value = 4
    assert "step 4 of 10" in shown.label.value and "t = 699" in shown.label.value
    assert "ilgd is guided here (ilgd)" in shown.label.value
    fourth = shown.pictures()
    assert same(first, fourth) == ()
    shown.prompt.value = 1
    assert same(fourth, shown.pictures()) == ()
    shown.method.value = "both"
    assert "both" in shown.columns[1][0].value
    shown.slider.value = 3
    assert "both is guided here (ilgd, dga, injection)" in shown.label.value
    shown.slider.value = 8
    assert "both is not guided here" in shown.label.value


def test_layers_and_tokens_can_be_chosen(traces):
    shown = Shown(explore_attention(traces))
    assert shown.layer.value == "mean of all 4 x 4 layers" and len(shown.layer.options) == 3 + 4
    assert [label for label, _ in shown.token.options] == ["red car", "blue fish"]
    before = shown.pictures()
    shown.layer.value = "mean of all 8 x 8 layers"
    finer = shown.pictures()
    assert set(X0_HATS) <= set(same(before, finer)) and not set(HEATS) & set(same(before, finer))
    shown.token.value = 1
    assert same(finer, shown.pictures()) == (), "another outline and another map"
    shown.prompt.value = 1
    assert [label for label, _ in shown.token.options] == ["red ball"] and shown.token.value == 0
    assert shown.layer.value == "mean of all 8 x 8 layers", "a layer stays chosen"
    shown.prompt.value = 0
    assert [label for label, _ in shown.token.options] == ["red car", "blue fish"]
    assert all(color in shown.style.value for color in overlay.COLORS)


def test_the_heat_is_that_of_layer_token_and_step(traces):
    shown = Shown(explore_attention(traces))
    shown.slider.value, shown.token.value, shown.layer.value = 2, 1, "down, 8 x 8"
    record_, layout = traces["ilgd"].records[0], LAYOUT
    maps = {case: attention_of(traces[case].records[0], "down, 8 x 8")[:, 1] for case in ("none", "ilgd")}
    top = max(found.max() for found in maps.values())
    expected = framed(heated(record_.frames[1:2], maps["ilgd"][1:2], float(top))[0], layout, 1)
    assert (pixels_of(shown.pictures()[4]) == expected).all()


def test_baseline_and_method_share_their_scale(traces):
    alike = Shown(explore_attention({"none": traces["none"], "same": traces["none"]}))
    left = alike.pictures()
    assert left[:3] == left[3:]
    stronger = trace("ilgd", *(record(r.layout, 0.4, EARLY) for r in traces["none"].records))
    beside = Shown(explore_attention({"none": traces["none"], "stronger": stronger}))
    shown = beside.pictures()
    assert shown[0] == left[0] and shown[1] != left[1], "the baseline's heat fades beside a stronger method"
    tops = [re.search(r"float:right'>([\d.]+)<", part.table.value)[1] for part in (alike, beside)]
    found = [attention_of(r, "up, 4 x 4")[:, 0].max() for r in (traces["none"].records[0], stronger.records[0])]
    assert tops == [f"{top:.2g}" for top in found]


def test_the_table_says_the_shares_inside(traces):
    shown = Shown(explore_attention(traces))
    shown.slider.value = 2
    rows = [re.findall(r"<td>([\d.]+)</td>", row) for row in shown.table.value.split("<tr>")[2:]]
    assert rows == [["0.25", "0.12", "0.90"], ["0.38", "0.12", "0.90"]], "if even, none, ilgd"
    for words in ("red car", "blue fish", "inside, none", "inside, ilgd", "inside if even", "attention to “car”"):
        assert words in shown.table.value
    shown.token.value = 1
    assert "attention to “fish”" in shown.table.value


def test_curves_are_shares_of_all_tokens_and_the_methods_energies(traces, monkeypatch):
    drawn = []

    def keep(fig, axes, steps):
        drawn.append([(ax.get_title(), [line.get_ydata() for line in ax.lines], len(ax.patches)) for ax in axes])
        return [b""] * steps

    monkeypatch.setattr("helpers.widgets.attention.marked", keep)
    explore_attention({"none": traces["none"], "both": traces["both"]})
    (shares, *energies), (guided, ilgd, dga) = drawn
    assert [title for title, *_ in (guided, ilgd, dga)] == ["attention inside its place", "energy: ilgd", "energy: dga"]
    assert [title for title, *_ in energies] == ["energy: ilgd", "energy: dga"]
    assert not any(lines for _, lines, _ in energies), "the baseline has none"
    np.testing.assert_allclose(guided[1][:2], [EARLY] * 2, atol=2e-3)
    np.testing.assert_allclose(guided[1][2], 0.25, err_msg="if even")
    np.testing.assert_allclose(shares[1][0], [0.1, 0.12] * 5, atol=2e-3)
    assert np.isfinite(ilgd[1][0]).sum() == 4 and np.isfinite(dga[1][0]).sum() == 7
    assert (shares[2], guided[2], ilgd[2]) == (0, 3, 3), "loss, injection and dga shade their steps"

    drawn.clear()
    explore_attention({"none": traces["none"], "directed": traces["directed"]})
    assert [len(panels) for panels in drawn] == [1, 1], "an edit has no energy"


def test_a_layer_that_listens_to_nothing_is_shown(traces):
    for made in traces.values():
        for entry in made.records:
            entry.maps["attention.mid"] = np.zeros_like(entry.maps["attention.mid"])
    shown = Shown(explore_attention(traces))
    shown.layer.value = "mid, 2 x 2"
    shown.pictures()
    assert "<td>0.00</td><td>0.00</td>" in shown.table.value


def test_nothing_is_sampled_and_pictures_are_made_once(traces, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a network ran")

    monkeypatch.setattr(torch.nn.Module, "__call__", refuse)
    shown = Shown(explore_attention(traces))
    made = []
    monkeypatch.setattr("helpers.widgets.attention.heated", lambda *args: made.append(args))
    for step in range(1, STEPS + 1):
        shown.slider.value = step
    assert not made


def test_traces_of_a_real_run(tiny):
    guidance = {"none": [], "ilgd": [ILGD(layouts=LAYOUT)]}
    real = {case: Trace() for case in guidance}
    for case, recorded in real.items():
        methods = [CFG(3), *guidance[case], AttentionMaps(layouts=LAYOUT)]
        sample(tiny, LAYOUT.prompt, methods, steps=STEPS, trace=recorded)
    shown = Shown(explore_attention(real))
    first = shown.pictures()
    shown.slider.value, shown.token.value = STEPS, 1
    assert same(first, shown.pictures()) == ()


# --- bad input -------------------------------------------------------------------------------------------------------


def test_traces_that_do_not_belong_together_are_refused(traces, tmp_path):
    with pytest.raises(FileNotFoundError, match="dvc repro sample_layout@none sample_layout@ilgd"):
        explore_attention(tmp_path)
    with pytest.raises(ValueError, match="give a baseline and at least one case"):
        explore_attention({"none": traces["none"]})
    with pytest.raises(ValueError, match="'ilgd' is empty: give it to sample"):
        explore_attention({"none": traces["none"], "ilgd": Trace([0])})
    other = trace("ilgd", *(record(r.layout, 0.1, EARLY, prompt_seed=5) for r in traces["none"].records))
    with pytest.raises(ValueError, match="'none' and 'ilgd' differ in prompts, seeds or steps"):
        explore_attention({"none": traces["none"], "ilgd": other})


def test_traces_without_attention_say_how_to_record_it(traces):
    blind = traces["ilgd"]
    blind.records[1].maps = {"dga.masks": np.zeros((STEPS, 1, 64, 64), np.uint8)}
    with pytest.raises(ValueError, match="'ilgd' has no attention: sample it with helpers.sampling.attention_maps"):
        explore_attention({"none": traces["none"], "ilgd": blind})


def test_other_layers_or_regions_are_refused(traces):
    other = trace("ilgd", *(record(r.layout, 0.1, EARLY) for r in traces["none"].records))
    del other.records[0].maps["attention.mid"]
    with pytest.raises(
        ValueError, match="'none' and 'ilgd' differ in layers or regions: .* AttentionMaps the same layouts"
    ):
        explore_attention({"none": traces["none"], "ilgd": other})
    swapped = Layout(prompt=LAYOUT.prompt, regions=LAYOUT.regions[::-1])
    turned = trace("ilgd", *(record(layout, 0.1, EARLY) for layout in (swapped, ONE)))
    with pytest.raises(ValueError, match="differ in layers or regions"):
        explore_attention({"none": traces["none"], "ilgd": turned})


def test_the_baseline_is_compared_with_the_places_that_the_method_was_asked_for(traces):
    moved = Layout(
        prompt=LAYOUT.prompt,
        regions=[Region(phrase="red car", box=(0.5, 0, 1, 0.5)), LAYOUT.regions[1]],
    )
    other = trace("ilgd", *(record(layout, 0.1, EARLY) for layout in (moved, ONE)))
    shown = Shown(explore_attention({"none": traces["none"], "ilgd": other}))
    for picture in (shown.pictures()[k] for k in X0_HATS):
        assert (pixels_of(picture)[:60, 254] == overlay.rgb(0)).all()
    numbers = re.findall(r"<td>([\d.]+)</td>", shown.table.value.split("<tr>")[2])
    assert numbers == ["0.25", "0.30", "0.10"], "a third of what the baseline attends to outside of its own place"


def test_a_folder_gives_them_in_order(traces, tmp_path):
    for case, made in traces.items():
        made.save(tmp_path / case / "trace")
    assert list(load_traces(tmp_path)) == ["none", "ilgd", "both", "directed", "injection", "loss"]


# --- a pixel ---------------------------------------------------------------------------------------------------------


def test_a_click_says_what_that_pixel_listens_to(traces):
    shown = Shown(explore_attention(traces))
    assert "click a pixel" in shown.table.value
    shown.slider.value, shown.layer.value = 3, "down, 8 x 8"
    x0_hat, heat = shown.columns[1][1].children
    heat.point = [0.3, 0.9]
    assert x0_hat.point == [0.3, 0.9] and shown.columns[0][1].children[0].point == [0.3, 0.9], "marked in all pictures"
    assert "the cell 3, 8 of 8 x 8" in shown.table.value
    for case in ("none", "ilgd"):
        car, fish = 100 * attention_of(traces[case].records[0], "down, 8 x 8")[2, :, 7, 2]
        said = f"<td>{case}</td>.*?car {car:.1f} %, fish {fish:.1f} %, all other tokens {100 - car - fish:.1f} %"
        assert re.search(said, shown.table.value), (said, shown.table.value)
    before = shown.table.value
    shown.slider.value = 8
    assert shown.table.value != before and "the cell 3, 8" in shown.table.value, "it follows the step"
    x0_hat.point = [0.0, 0.0]
    assert "the cell 1, 1 of 8 x 8" in shown.table.value and heat.point == [0.0, 0.0]


def test_a_phrase_is_text(traces):
    layout = Layout(prompt="a <b>red</b> car", regions=[Region(phrase="<b>red</b>", box=(0, 0, 0.5, 0.5))])
    said = heard({"<i>": np.full((1, 4, 4), 0.25, np.float32)}, layout, [0.99, 0.0])
    assert "&lt;b&gt;red&lt;/b&gt; 25.0 %, all other tokens 75.0 %" in said and "&lt;i&gt;" in said
    assert "the cell 4, 1 of 4 x 4" in said
