"""What the explorers share: Traces that belong together, controls, a column per case, curves with a marker.

All pictures of a prompt are made when it is chosen, as PNG bytes; the slider then puts them into `widgets.Image`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from io import BytesIO
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, Normalize, to_hex
from matplotlib.figure import Figure
from PIL import Image

from helpers.conditions import Layout
from helpers.figures import overlay
from helpers.figures.style import METHOD
from helpers.paths import ROOT
from helpers.sampling.trace import Trace
from helpers.widgets import export
from helpers.widgets.colors import color_of
from helpers.widgets.export import Curves
from helpers.widgets.lifetime import Explorer, restore

DPI = 110
LEADING = ("full", "ilgd")  # cases that are shown first
KEPT = ("showcase", "trace")  # folders of a case: what scores keep of one picture; what sampling kept of some

Window = tuple[float, float]  # see `helpers.figures.traces.window_of`
Options = Callable[[int], tuple]  # what a control offers for record k


@dataclass
class Frames:
    """One record, ready to be shown, over its S steps.

    pictures: S PNGs for each of the column's images, in their order. curves: S PNGs, with their figure. numbers: (S,
    N), for the table.
    """

    pictures: Sequence[list[bytes]]
    curves: Curves
    numbers: np.ndarray


class Column:
    """One case: its name and what is seen of it, rows of pictures, the curves below.

    images: what changes with the step; rows: the widgets that hold them, as many in each; captions: of the images.
    """

    def __init__(self, about: str, images: Sequence, rows: Sequence[widgets.Widget], captions: Sequence[str] = ()):
        self.about, self.images, self.captions = about, images, captions
        self.a_row = len(images) // len(rows)
        self.title = widgets.HTML()
        self.curves = widgets.Image(format="png", layout={"width": "100%"})
        self.box = widgets.VBox([self.title, *rows, self.curves], layout={"width": "50%", "padding": "0 8px"})

    def show(self, case: str, frames: Frames, step: int) -> None:
        self.title.value = f"<b>{escape(case)}</b>: {self.about}"
        for image, pictures in zip(self.images, frames.pictures, strict=True):
            image.value = pictures[step]
        self.curves.value = frames.curves[step]

    def svg(self, case: str, frames: Frames, step: int, x: float) -> tuple[str, float]:
        """The same from `x` on, and how high it is."""
        pictures = [of[step] for of in frames.pictures]
        return export.column(f"{case}: {self.about}", pictures, self.captions, self.a_row, frames.curves.svg(step), x)


def png(picture: np.ndarray) -> bytes:
    """uint8 (H, W, 3) -> PNG."""
    stream = BytesIO()
    Image.fromarray(picture).save(stream, "png", compress_level=3)
    return stream.getvalue()


def panels(
    titles: Sequence[str], windows: Mapping[str, Window] | Sequence[Window], steps: int
) -> tuple[Figure, Sequence[Axes]]:
    """Empty axes over the steps 1 to `steps`, one per title, the windows shaded, darker where they overlap; those that
    have a method's name in its colour."""
    fig, named = Figure(figsize=(5.2, 2.3), dpi=DPI, layout="constrained"), isinstance(windows, Mapping)
    shades = [(window, color_of(name)) for name, window in windows.items()] if named else [(w, METHOD) for w in windows]
    axes = fig.subplots(1, len(titles), squeeze=False)[0]
    for ax, title in zip(axes, titles, strict=True):
        for (first, last), color in shades:
            ax.axvspan(first + 1, last + 1, color=color, alpha=0.1, lw=0)
        ax.set_xlim(0.5, steps + 0.5)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("step", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    return fig, axes


def energy_panels(
    axes: Sequence[Axes],
    energies: Mapping[str, np.ndarray],
    names: Sequence[str],
    steps: int,
    color: Callable = color_of,
) -> None:
    """The energies `names` of a case, one per panel; energies: those that it has."""
    for ax, name in zip(axes, names, strict=True):
        if name in energies:
            ax.plot(range(1, steps + 1), energies[name], ".-", color=color_of(name))
        else:
            ax.set_yticks([])
            ax.text(0.5, 0.5, "not guided", transform=ax.transAxes, ha="center", fontsize=8, color="0.5")


def marked(fig: Figure, axes: Sequence[Axes], steps: int) -> Curves:
    """The figure, drawn once; then one copy per step with a marker there, as PNG."""
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3]
    pictures = []
    for step in range(1, steps + 1):
        picture = drawn.copy()
        for ax in axes:
            (x, low), (_, high) = ax.transData.transform([(step, ax.get_ylim()[0]), (step, ax.get_ylim()[1])])
            rows = slice(len(picture) - round(high), len(picture) - round(low))
            picture[rows, round(x) - 1 : round(x) + 1] = (200, 30, 30)
        pictures.append(png(picture))
    return Curves(pictures, fig, axes)


def _whole(trace: Trace) -> Trace:
    """Only the pictures of which every step was kept."""
    trace.records = [record for record in trace.records if len(record.frames)]
    return trace


def _images(trace: Trace) -> list:
    return [(record.prompt, record.seed, record.drag) for record in trace.records]


def has_traces(folder: str | Path, *cases: str) -> bool:
    """Is there a Trace of each of these cases for `load_traces`?"""
    return all(any((Path(folder) / case / name).is_dir() for name in KEPT) for case in cases)


def load_traces(folder: str | Path, baseline: str = "none") -> dict[str, Trace]:
    """case -> Trace of every folder/<case>/trace, or of the picture that folder/<case>/showcase keeps whole, that shows
    the same prompts, drags and seeds as the baseline.

    The baseline comes first, then LEADING, then the others by name. FileNotFoundError when there are not two.
    """
    paths = (path for name in KEPT for path in sorted(Path(folder).glob(f"*/{name}")))
    found = {path.parent.name: _whole(Trace.load(path)) for path in paths}
    names = sorted(found, key=lambda name: (name != baseline, name not in LEADING))
    alike = {
        name: found[name] for name in names if baseline in found and _images(found[name]) == _images(found[baseline])
    }
    if len(alike) < 2:
        raise FileNotFoundError(
            f"{folder} holds {len(found)} traces (<case>/trace or <case>/showcase) {names}: {baseline!r} is compared "
            "here with others of the same prompts and seeds, make them with `dvc repro sample_dga@none "
            "sample_dga@full` for masks, `dvc repro sample_dma@none sample_dma@full` for flow, `dvc repro "
            "sample_layout@none sample_layout@ilgd` for attention"
        )
    return alike


def checked(traces: Mapping[str, Trace] | str | Path, maps: Sequence[str], what: str, cure: str) -> dict[str, Trace]:
    """The Traces, or those of a folder; ValueError unless they show the same prompts, drags, seeds and steps.

    maps: how the names of maps begin that every record must have; what, cure: how an error calls them and what helps.
    """
    traces = load_traces(traces) if isinstance(traces, str | Path) else dict(traces)
    if len(traces) < 2:
        raise ValueError(f"the traces are {list(traces)}: give a baseline and at least one case, such as none and full")
    (first, baseline), *others = traces.items()
    for name, trace in traces.items():
        if not trace.records:
            raise ValueError(f"the trace {name!r} is empty: give it to sample(..., trace=) first")
        if not all(any(name.startswith(key) for name in r.maps) for r in trace.records for key in maps):
            raise ValueError(f"the trace {name!r} has no {what}: sample it with {cure}")
    for name, trace in others:
        if _images(trace) != _images(baseline) or trace.timesteps != baseline.timesteps:
            raise ValueError(
                f"the traces {first!r} and {name!r} differ in prompts, seeds or steps, or in drags: sample both with "
                "one profile"
            )
    return traces


def by_region(layout: Layout, about: str, columns: Mapping[str, Sequence[float]]) -> str:
    """A table in HTML: the regions' colours and phrases under the head `about`, then head -> a number for each."""
    rows = "".join(
        f"<tr><td><span style='display:inline-block;width:14px;height:14px;background:"
        f"{overlay.COLORS[n % len(overlay.COLORS)]}'></span> {escape(region.phrase)}</td>"
        + "".join(f"<td>{values[n]:.2f}</td>" for values in columns.values())
        + "</tr>"
        for n, region in enumerate(layout.regions)
    )
    heads = "".join(f"<th>{escape(head)}</th>" for head in (about, *columns))
    return f"<table style='border-spacing:14px 2px'><tr>{heads}</tr>{rows}</table>"


def color_scale(name: str, colors: Colormap, norm: Normalize, digits: str) -> str:
    """The legend of a colour map in HTML, from the norm's lowest to its highest value; digits: format of the latter."""
    low, high = norm.vmin, norm.vmax
    stops = ",".join(to_hex(colors(norm(low + x * (high - low)))) for x in np.linspace(0, 1, 11))
    return (
        f"<span>{name}<br><span style='display:inline-block;width:110px;height:12px;"
        f"background:linear-gradient(to right,{stops})'></span><br>{low:g}"
        f"<span style='float:right'>{high:{digits}}</span></span>"
    )


def beside(*parts: str) -> str:
    """Pieces of HTML in one row."""
    return f"<div style='display:flex;gap:28px;align-items:center'>{''.join(parts)}</div>"


def explore(
    kind: str,
    traces: Mapping[str, Trace],
    windows: Callable[[Trace], Mapping[str, Window]],
    column: Callable[[], Column],
    frames: Callable[..., Frames],
    below: Callable[..., str],
    choosers: Sequence[tuple[widgets.Widget, Options]] = (),
    chosen_before: Mapping[str, object] = {},  # noqa: B006 (only read)
) -> Explorer:
    """The explorer: controls, the baseline left, a method right, a table below; `traces` as `checked` returns them.

    kind: how its files are called. windows: where a Trace is guided, and by what. column: makes an empty one.
    frames(case, k, compared, *chosen): of record k of a case when the baseline is compared with the method `compared`;
    called once for each. below(k, compared, step, numbers, *chosen): the table in HTML, from the (N,) numbers of both
    cases at the step, which is counted from 0. choosers: more controls, made for record 0, whose values are `chosen`;
    where another prompt has other options, the first is chosen. chosen_before: what `Explorer.choices` said.
    """
    first, *methods = traces
    records, timesteps, sigmas = traces[first].records, traces[first].timesteps, traces[first].sigmas
    steps = len(timesteps)

    options = [(f"{r.prompt} (seed {r.seed})", k) for k, r in enumerate(records)]
    prompt = widgets.Dropdown(options=options, description="prompt", layout={"width": "55%"})
    method = widgets.Dropdown(options=methods, description="method", layout={"width": "25%"})
    slider = widgets.IntSlider(1, 1, steps, description="step", continuous_update=False, layout={"width": "60%"})
    play = widgets.Play(value=1, min=1, max=steps, interval=250, show_repeat=False)
    link = widgets.jslink((play, "value"), (slider, "value"))
    label, table, written = widgets.HTML(), widgets.HTML(), widgets.HTML()
    save = widgets.Button(description="Save as SVG", layout={"width": "120px"})
    columns = [column(), column()]
    frames = cache(frames)

    def offer(_) -> None:
        for chooser, options in choosers:
            if chooser.options != options(prompt.value):
                chooser.options = options(prompt.value)

    def chosen() -> list:
        return [chooser.value for chooser, _ in choosers]

    def parts() -> list[tuple[Column, str, Frames]]:
        both = [(case, frames(case, prompt.value, method.value, *chosen())) for case in (first, method.value)]
        return [(column, case, part) for column, (case, part) in zip(columns, both, strict=True)]

    def said() -> str:
        step, compared = slider.value - 1, method.value
        acting = [name for name, (begin, end) in windows(traces[compared]).items() if begin < step < end]
        acts = f"guided here ({', '.join(acting)})" if acting else "not guided here"
        return (
            f"<b>step {step + 1} of {steps}</b> &nbsp; t = {timesteps[step]}, "
            f"&sigma;<sub>t</sub> = {sigmas[step]:.2f}, {escape(compared)} is {acts}"
        )

    def show(_=None) -> None:
        step, shown = slider.value - 1, parts()
        for column, case, part in shown:
            column.show(case, part, step)
        label.value = said()
        table.value = below(prompt.value, method.value, step, [part.numbers[step] for *_, part in shown], *chosen())

    def keep(_) -> None:
        step, xs = slider.value - 1, (export.GAP, 2 * export.GAP + export.WIDTH)
        drawn = [column.svg(case, part, step, x) for (column, case, part), x in zip(parts(), xs, strict=True)]
        names = [f"{chooser.description} {chooser.label}" for chooser, _ in choosers]
        svg = export.document([prompt.label, ", ".join([said(), *map(escape, names)])], drawn, xs)
        seed = records[prompt.value].seed
        path = export.saved(svg, kind, method.value, "seed", seed, *names, "step", step + 1)
        written.value = f"written: {escape(path.relative_to(ROOT).as_posix())}"

    controls = {control.description: control for control in (prompt, method, slider, *(of for of, _ in choosers))}
    for control in (prompt, method, slider):
        restore(control, chosen_before.get(control.description))
    offer(None)
    for chooser, _ in choosers:
        restore(chooser, chosen_before.get(chooser.description))
    prompt.observe(offer, "value")
    for control in controls.values():
        control.observe(show, "value")
    save.on_click(keep)
    show()
    head = widgets.HBox([prompt, method, *(chooser for chooser, _ in choosers)], layout={"flex_flow": "row wrap"})
    sides = widgets.HBox([column.box for column in columns])
    children = [head, widgets.HBox([play, slider]), label, sides, table, widgets.HBox([save, written])]
    return Explorer(children, controls, [link], frames.cache_clear, show)
