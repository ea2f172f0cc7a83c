"""The explorer of attention: where the token of every region is seen, before and after, layer by layer.

A token and layer have one scale of colours for all steps and both cases, up to the largest value that occurs there.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps

from helpers.conditions import Layout
from helpers.figures import overlay
from helpers.figures.attention import MAPS, attention_of, cells, inside, layers_of, scale
from helpers.figures.traces import energies_of, windows_of
from helpers.sampling.trace import Trace
from helpers.widgets.common import (
    Column,
    Frames,
    beside,
    by_region,
    checked,
    color_scale,
    energy_panels,
    explore,
    marked,
    panels,
    png,
)
from helpers.widgets.export import Curves
from helpers.widgets.lifetime import Explorer, cell, reopened
from helpers.widgets.picture import Picture

HEAT = colormaps["viridis"]
OPAQUE = 0.75  # of the heat over the picture
CHIPS = ".region-tokens{display:flex}" + "".join(
    f".region-tokens button:nth-of-type({len(overlay.COLORS)}n+{n + 1}){{border-bottom:4px solid {color}}}"
    for n, color in enumerate(overlay.COLORS)
)
CHIPS += ".heard{display:inline-flex;width:200px}.heard span{height:12px}"


def heated(frames: np.ndarray, maps: np.ndarray, top: float) -> np.ndarray:
    """Maps (S, h, w) in [0, top] as colours over grey frames (S, H, W, 3): uint8 (S, SIDE, SIDE, 3)."""
    side = (overlay.SIDE, overlay.SIDE)
    smooth = F.interpolate(torch.from_numpy(maps)[:, None], side, mode="bilinear")[:, 0].numpy()
    grey = np.stack([overlay.dimmed(overlay.enlarge(frame)) for frame in frames])
    heat = HEAT(scale(top)(smooth), bytes=True)[..., :3]
    return (OPAQUE * heat + (1 - OPAQUE) * grey).round().astype(np.uint8)


def framed(picture: np.ndarray, layout: Layout, region: int) -> np.ndarray:
    """`overlay.draw_wanted`, the outline of one region closed."""
    picture = overlay.draw_wanted(picture, layout)
    picture[overlay.edge(overlay.wanted(layout, len(picture))[region], 2)] = overlay.rgb(region)
    return picture


def curves_png(
    shares: np.ndarray, area: float, region: int, energies: Mapping[str, np.ndarray], names: Sequence[str], windows
) -> Curves:
    """Shares inside (S, regions) and the energies `names`, a PNG per step with a marker there.

    area: of the region's place, what evenly spread attention has inside. energies: those that the case has.
    """
    steps = len(shares)
    titles = ("attention inside its place", *(f"energy: {name}" for name in names))
    fig, axes = panels(titles, windows, steps)
    at = range(1, steps + 1)
    for n, share in enumerate(shares.T):
        axes[0].plot(at, share, color=overlay.COLORS[n % len(overlay.COLORS)], lw=2.5 if n == region else 1)
    axes[0].axhline(area, color=overlay.COLORS[region % len(overlay.COLORS)], ls=":", lw=1.5)
    axes[0].set_ylim(0, 1.02)
    energy_panels(axes[1:], energies, names, steps)
    return marked(fig, axes, steps)


def explore_attention(traces: Mapping[str, Trace] | str | Path) -> Explorer:
    """Baseline beside method, step by step: x0_hat, over it where a region's token is seen in a layer, the share of
    every token's attention that lies inside its place, and the method's energy. A click says what a pixel listens to.

    traces: case -> Trace, the baseline first, all of the same prompts, seeds, steps, layers and regions; or a folder
    with <case>/trace. Both cases are compared with the places that the method was asked for.
    """
    traces = checked(traces, [MAPS], "attention", "helpers.sampling.attention_maps.AttentionMaps in the guidance list")
    first = next(iter(traces))
    for case, trace in traces.items():
        if _watched(trace) != _watched(traces[first]):
            raise ValueError(
                f"the traces {first!r} and {case!r} differ in layers or regions: sample both with one backbone and "
                "give AttentionMaps the same layouts"
            )

    @cache
    def maps(case: str, k: int, layer: str) -> np.ndarray:
        return attention_of(traces[case].records[k], layer)

    def top(k: int, compared: str, layer: str, region: int) -> float:
        return max(float(maps(case, k, layer)[:, region].max()) for case in (first, compared)) or 1.0

    def place(k: int, compared: str) -> Layout:
        return traces[compared].records[k].layout

    @cache
    def decoded(case: str, k: int, compared: str, region: int) -> list[bytes]:
        return [
            png(framed(overlay.enlarge(frame), place(k, compared), region)) for frame in traces[case].records[k].frames
        ]

    def frames(case: str, k: int, compared: str, layer: str, region: int) -> Frames:
        trace, found, layout = traces[case], maps(case, k, layer), place(k, compared)
        record, shares = trace.records[k], inside(found, layout)
        heat = heated(record.frames, found[:, region], top(k, compared, layer, region))
        pictures = decoded(case, k, compared, region), [png(framed(picture, layout, region)) for picture in heat]
        names = list(energies_of(traces[compared], traces[compared].records[k]))
        energies, windows = energies_of(trace, record), windows_of(trace)
        return Frames(pictures, curves_png(shares, _areas(layout)[region], region, energies, names, windows), shares)

    def below(k: int, compared: str, step: int, shares: Sequence[np.ndarray], layer: str, region: int) -> str:
        layout = place(k, compared)
        columns = {f"inside, {case}": values for case, values in zip((first, compared), shares, strict=True)}
        table = by_region(layout, "attention to the last word of", {"inside if even": _areas(layout)} | columns)
        word = escape(layout.regions[region].phrase.split()[-1])
        norm = scale(top(k, compared, layer, region))
        listens = {case: maps(case, k, layer)[step] for case in (first, compared)}
        return beside(color_scale(f"attention to “{word}”", HEAT, norm, ".2g"), table) + heard(listens, layout, point)

    def layers(k: int) -> tuple[str, ...]:
        return tuple(layers_of(traces[first].records[k]))

    def tokens(k: int) -> tuple[tuple[str, int], ...]:
        return tuple((region.phrase, n) for n, region in enumerate(traces[first].records[k].layout.regions))

    point: list[float] = []  # of the pixel that was clicked last, shared by all pictures

    def make(before: Mapping[str, object]) -> Explorer:
        layer = widgets.Dropdown(options=layers(0), description="layer", layout={"width": "45%"})
        token = widgets.ToggleButtons(
            options=tokens(0), description="token of", style={"button_width": "auto"}, layout={"width": "50%"}
        )
        token.add_class("region-tokens")
        pictures: list[Picture] = []

        def column() -> Column:
            pair = [Picture(layout={"width": "49%"}) for _ in range(2)]
            pictures.extend(pair)
            row = widgets.HBox(pair, layout={"justify_content": "space-between"})
            return Column("x&#770;<sub>0</sub> decoded, and where the token is seen", pair, [row])

        def listen(change) -> None:
            if change.new == point:
                return  # the other pictures follow
            point[:] = change.new
            for picture in pictures:
                picture.point = change.new
            explorer.refresh()

        explorer = explore(
            "attention", traces, windows_of, column, frames, below, [(layer, layers), (token, tokens)], before
        )
        for picture in pictures:
            picture.observe(listen, "point")
        explorer.children = (*explorer.children, widgets.HTML(f"<style>{CHIPS}</style>"))
        return explorer

    return reopened("attention", cell(), make)


def heard(maps: Mapping[str, np.ndarray], layout: Layout, point: Sequence[float]) -> str:
    """What a pixel listens to, a row of HTML per case: the share of its attention that every region's last word gets,
    and all other tokens of the prompt. maps: case -> (regions, h, w); point: x, y in shares of the picture."""
    if not point:
        return "<div><i>click a pixel, or reach it with the arrow keys: what does it listen to?</i></div>"
    height, width = next(iter(maps.values())).shape[1:]
    column, row = (min(int(share * side), side - 1) for share, side in zip(point, (width, height), strict=True))
    names = [region.phrase.split()[-1] for region in layout.regions]
    lines = ""
    for case, found in maps.items():
        shares = found[:, row, column]
        parts = [*zip(names, shares, map(_chip, range(len(names)))), ("all other tokens", 1 - shares.sum(), "#bbb")]
        bars = "".join(
            f"<span style='background:{color};width:{200 * share:.1f}px'></span>" for _, share, color in parts
        )
        said = ", ".join(f"{escape(name)} {100 * share:.1f} %" for name, share, _ in parts)
        lines += f"<tr><td>{escape(case)}</td><td><span class='heard'>{bars}</span></td><td>{said}</td></tr>"
    head = f"the cell {column + 1}, {row + 1} of {width} x {height} (right, down) listens to"
    return f"<table style='border-spacing:14px 2px'><tr><th colspan=3>{head}</th></tr>{lines}</table>"


def _chip(region: int) -> str:
    return overlay.COLORS[region % len(overlay.COLORS)]


def _watched(trace: Trace) -> list:
    """Per record the regions' phrases and the shapes of the maps."""
    return [
        (
            [region.phrase for region in record.layout.regions],
            {name: maps.shape for name, maps in record.maps.items() if name.startswith(MAPS)},
        )
        for record in trace.records
    ]


def _areas(layout: Layout) -> np.ndarray:
    """The share of the picture that every region's place has."""
    return cells(layout, 1, 1)[:, 0, 0]
