"""Why did a case fail? Score rows of any experiment, sorted and filtered beside its baseline, a row's pictures, and how
they came about.

Rows and the first pictures are in the store; other pictures are drawn again when a button is pressed. Guidance
amplifies rounding: whether it is the picture that was scored, its contrast and saturation tell.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from html import escape
from io import StringIO
from pathlib import Path
from typing import Protocol

import ipywidgets as widgets
import numpy as np
from PIL import Image, ImageDraw

from helpers.benchmarks.base import Item
from helpers.conditions import Drag, Layout
from helpers.figures import overlay
from helpers.figures.style import OTHER
from helpers.figures.words import LESS_IS_BETTER, NEITHER, metric
from helpers.judges.base import Found
from helpers.judges.loading import load_judge
from helpers.metrics.appearance import contrast, saturation
from helpers.paths import RESULTS
from helpers.pipeline.samples import Samples
from helpers.pipeline.score import Scored, load_score
from helpers.sampling.trace import Trace
from helpers.widgets.attention import explore_attention
from helpers.widgets.common import png
from helpers.widgets.flow import draw_drag, explore_flow
from helpers.widgets.lifetime import Explorer, cell, close_all, reopened, restore
from helpers.widgets.masks import explore_masks
from helpers.widgets.rows import Row, metrics, number, rows, with_rows
from helpers.widgets.steps import explore_steps

PAGE = 8  # rows at a time
COLUMNS = 5  # metrics at a time: the one that sorts, then the first of `metrics`
CHOICES = ("experiment", "case", "metric", "by", "order", "low", "high")  # kept when the cell runs again
SAME = 0.002  # contrast and saturation of a picture that differs by rounding alone
EXPLORERS = {  # what the Traces of both cases must hold -> what opens them
    "attention": ("attention.", explore_attention),
    "masks": ("dga.masks", explore_masks),
    "flow": ("dma.flow", explore_flow),
    "steps": ("", explore_steps),
}


class Cases(Protocol):
    """An experiment whose pictures can be drawn one by one, such as `helpers.experiments.again.Again`."""

    def baseline(self, case: str) -> str: ...

    def items(self, case: str) -> Sequence[Item]: ...

    def draw(self, case: str, item: Item) -> Samples: ...


@dataclass(frozen=True)
class Shown:
    """A picture, uint8 (H, W, 3), and what the judge finds in it."""

    picture: np.ndarray
    found: Sequence[Found]


def asked(item: Item) -> tuple[Layout | None, Drag | None]:
    """What an item lays out, as boxes, and what it drags."""
    layout = getattr(getattr(item, "scene", item), "layout", None)
    drag = getattr(item, "drag", None)
    return layout and layout.boxes_only(), getattr(drag, "drag", drag)


def draw_finds(shown: Shown, layout: Layout | None) -> bytes:
    """The picture as PNG: dashed where the benchmark has a region, a white frame with a number around every object that
    the judge finds."""
    picture = overlay.enlarge(shown.picture)
    canvas = Image.fromarray(overlay.draw_wanted(picture, layout) if layout else picture.copy())
    pen, scale = ImageDraw.Draw(canvas), overlay.SIDE / len(shown.picture)
    for n, thing in enumerate(shown.found):
        x0, y0, x1, y1 = (round(scale * side) for side in thing.box)
        pen.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline="white", width=2)
        pen.rectangle((x0, y0, x0 + 14, y0 + 14), fill="black")
        pen.text((x0 + 4, y0 + 2), str(n + 1), fill="white")
    return png(np.asarray(canvas))


def opened_by(traces: Mapping[str, Trace]) -> dict[str, Callable]:
    """The explorers that can show these Traces, by name."""
    held = [{"", *record.maps} for trace in traces.values() for record in trace.records]
    return {
        name: explorer
        for name, (begins, explorer) in EXPLORERS.items()
        if len(traces) > 1 and all(any(key.startswith(begins) for key in maps) for maps in held)
    }


def drawn_again(samples: Samples, row: Mapping) -> tuple[Shown, str]:
    """The picture as it would be scored, and whether it is the one of this row."""
    pixels = (samples.images[:1] * 255).round().byte()
    image = pixels.float() / 255
    looks = {"contrast": float(contrast(image)), "saturation": float(saturation(image))}
    same = all(abs(value - row[name]) < SAME for name, value in looks.items())
    said = ", ".join(f"{name} {value:.3f} (scored: {row[name]:.3f})" for name, value in looks.items())
    verdict = "the picture that was scored" if same else "NOT the picture that was scored: rounding, or other settings"
    found = load_judge("judge").recognise(image)[0]
    return Shown(pixels[0].permute(1, 2, 0).numpy(), found), f"{verdict}; {said}"


def showcase(folder: Path) -> Trace:
    """The Trace in a folder, an empty one where a case keeps none."""
    return Trace.load(folder) if folder.is_dir() else Trace([])


class Failures(Explorer):
    """The widget. traces: of the row that is shown, case -> Trace, where every step was kept or drawn again."""

    def __init__(self, experiments: Mapping[str, Cases], results: Path = RESULTS, before: Mapping[str, object] = {}):  # noqa: B006 (only read)
        self.experiments, self.results = experiments, results
        self.known, self.means = with_rows(results)
        self.load = cache(lambda name, case: load_score(results / name / "score" / case))
        self.kept = cache(lambda name, case: showcase(results / name / "score" / case / "showcase"))
        self.traces: dict[str, Trace] = {}
        self.place: int | None = None
        self.page = 0
        self._controls()
        self._parts()
        only = f"{', '.join(self.means)}: only means are kept, no rows" if self.means else ""
        super().__init__(
            [
                _wrapped(self.experiment, self.case, widgets.HTML(escape(only))),
                _wrapped(self.metric, self.by, self.order, self.low, self.high, self.limits),
                self.message,
                self.head,
                *self.lines,
                _wrapped(self.back, self.count, self.forth),
                self.title,
                _wrapped(*(widgets.VBox([head, image, text]) for head, image, text in self.sides)),
                _wrapped(self.again, self.openers, self.progress, self.said),
                self.numbers,
                self.opened,
            ],
            {name: getattr(self, name) for name in CHOICES},
            forget=self._forget,
        )
        self._choose_experiment()
        for name, control in self.controls.items():
            restore(control, before.get(name))

    def _forget(self) -> None:
        self.load.cache_clear()
        self.kept.cache_clear()
        self.traces = {}

    def _controls(self) -> None:
        wide = {"description_width": "initial"}
        self.experiment = widgets.Dropdown(options=list(self.known), description="experiment", style=wide)
        self.case = widgets.Dropdown(description="case", style=wide)
        self.metric = widgets.Dropdown(description="sort by", style=wide)
        self.by = widgets.Dropdown(options=["its value", "its change"], layout={"width": "110px"})
        self.order = widgets.Dropdown(options=["smallest first", "largest first"], layout={"width": "130px"})
        self.low, self.high = (
            widgets.Text(description=word, continuous_update=False, layout={"width": "120px"}, style=wide)
            for word in ("above", "below")
        )
        self.limits, self.message = widgets.HTML(), widgets.HTML()
        self.back, self.forth = (
            widgets.Button(description=word, layout={"width": "90px"}) for word in ("previous", "next")
        )
        self.experiment.observe(lambda _: self._try(self._choose_experiment), "value")
        self.case.observe(lambda _: self._try(self._choose_case), "value")
        self.metric.observe(lambda _: self._try(self._worst_first), "value")
        for control in (self.by, self.order, self.low, self.high):
            control.observe(lambda _: self._try(self._first_page), "value")
        self.back.on_click(lambda _: self._try(lambda: self._turn(-1)))
        self.forth.on_click(lambda _: self._try(lambda: self._turn(1)))

    def _parts(self) -> None:
        self.head, self.count, self.title, self.said, self.numbers = (widgets.HTML() for _ in range(5))
        self.names = [widgets.Button(layout={"width": "140px"}) for _ in range(PAGE)]
        self.cells = [widgets.HTML() for _ in range(PAGE)]
        self.lines = [widgets.HBox(pair) for pair in zip(self.names, self.cells, strict=True)]
        for k, name in enumerate(self.names):
            name.on_click(lambda _, k=k: self._try(lambda: self.show(self.listed()[self.page * PAGE + k].place)))
        size = {"width": "224px", "height": "224px"}
        self.sides = [(widgets.HTML(), widgets.Image(format="png", layout=size), widgets.HTML()) for _ in range(3)]
        self.again = widgets.Button(description="Draw it again", button_style="primary")
        self.openers = widgets.HBox()
        self.progress = widgets.IntProgress(0, 0, 2, layout={"width": "120px", "visibility": "hidden"})
        self.opened = widgets.VBox()
        self.again.on_click(lambda _: self._try(self.draw, self.said))

    # --- rows ---

    @property
    def scored(self) -> Scored:
        return self.load(self.experiment.value, self.case.value)

    @property
    def baseline(self) -> str | None:
        """The case that this one is compared with; None where there are no rows of it, or params.yaml knows neither."""
        name = self.experiment.value
        try:
            base = self.experiments[name].baseline(self.case.value) if name in self.experiments else "none"
        except (ValueError, OSError):
            return None
        return base if base in self.known[name] and base != self.case.value else None

    def listed(self) -> list[Row]:
        """The rows between both limits, in their order; ValueError for a limit that is no number."""
        low, high = number(self.low.value, -math.inf), number(self.high.value, math.inf)
        key = (lambda row: row.value) if self.by.value == "its value" else (lambda row: row.change)
        base = self.baseline and self.load(self.experiment.value, self.baseline)
        found = [row for row in rows(self.scored, base, self.metric.value) if low <= key(row) <= high]
        return sorted(found, key=key, reverse=self.order.value == "largest first")

    def _choose_experiment(self) -> None:
        names = self.known[self.experiment.value]
        self.case.options = names
        self.case.value = next((name for name in names if not name.startswith("none")), names[0])
        self._choose_case()

    def _choose_case(self) -> None:
        kept, names = self.metric.value, metrics(self.scored)
        self.metric.options = [(metric(name), name) for name in names]
        self.metric.value = kept if kept in names else names[0]
        self._worst_first()
        found = self.listed()
        self.show(found[0].place if found else None)

    def _worst_first(self) -> None:
        self.order.value = "largest first" if self.metric.value in LESS_IS_BETTER else "smallest first"
        self._first_page()

    def _first_page(self) -> None:
        self.page = 0
        self._list()

    def _turn(self, pages: int) -> None:
        self.page += pages
        self._list()

    def _list(self) -> None:
        self.limits.value = ""
        try:
            found = self.listed()
        except ValueError as error:
            self.limits.value = _red(error)
            return
        names = [self.metric.value, *(name for name in metrics(self.scored) if name != self.metric.value)][:COLUMNS]
        base = self.baseline and self.load(self.experiment.value, self.baseline)
        numbers = {name: {row.place: row for row in rows(self.scored, base, name)} for name in names}
        beside = f"in brackets the difference to {self.baseline}" if base else "no baseline to compare with"
        self.head.value = _line([f"<b>{escape(metric(name))}</b>" for name in names], f"<i>{escape(beside)}</i>")
        shown = found[self.page * PAGE :][:PAGE]
        for k, (line, button, cells) in enumerate(zip(self.lines, self.names, self.cells, strict=True)):
            line.layout.visibility = "visible" if k < len(shown) else "hidden"
            if k < len(shown):
                button.description, place = shown[k].id, shown[k].place
                button.button_style = "info" if place == self.place else ""
                cells.value = _line([_cell(name, numbers[name].get(place)) for name in names])
        pages = max(1, -(-len(found) // PAGE))
        self.count.value = f"page {self.page + 1} of {pages}: {len(found)} of {len(self.scored.rows)} pictures"
        self.back.disabled, self.forth.disabled = self.page == 0, self.page + 1 >= pages

    # --- one row ---

    def show(self, place: int | None) -> None:
        """A row: its numbers, and its pictures where the store has them."""
        self.place, self.traces, self.said.value = place, {}, ""
        self._list()
        self._offer()
        for head, image, text in self.sides:
            head.value, image.value, text.value, image.layout.display = "", b"", "", "none"
        self.again.disabled = place is None or self.experiment.value not in self.experiments
        if place is None:
            self.title.value = self.numbers.value = ""
            return
        row = self.scored.rows[place]
        try:
            item = self._item()
        except (ValueError, OSError) as error:  # params.yaml or the benchmark is another one since
            item, self.again.disabled, self.said.value = None, True, _red(error)
        self.title.value = f"<b>{escape(row['id'])}</b>: {escape(item.prompt if item else '')} (seed {row['seed']})"
        pictures = {case: self._stored(case) for case in self._compared()}
        self._show_sides(item, pictures)
        wholes = {case: self._whole(case) for case in pictures}
        self.traces = wholes if all(wholes.values()) else {}
        self._offer()
        base = self._row(self.baseline) if self.baseline else {}
        self.numbers.value = _table(self.baseline, base or {}, self.case.value, row)
        if self.experiment.value not in self.experiments:
            self.said.value = f"pictures of {escape(self.experiment.value)} cannot be drawn again one by one"

    def draw(self) -> None:
        """Baseline and case of the row anew, with their Traces, by the code of the pipeline."""
        cases, item = self.experiments[self.experiment.value], self._item()
        self.again.disabled, self.progress.value, self.progress.layout.visibility = True, 0, "visible"
        compared, pictures, traces, said = self._compared(), {}, {}, []
        self.progress.max = len(compared)
        try:
            for n, case in enumerate(compared):
                self.said.value = f"draws {escape(case)} ..."
                with redirect_stderr(StringIO()):  # the bars of single batches and models
                    samples = cases.draw(case, item)
                pictures[case], verdict = drawn_again(samples, self._row(case))
                traces[case] = samples.trace
                said += [f"<b>{escape(case)}</b>: {verdict}", *map(escape, samples.warnings)]
                self.progress.value = n + 1
        finally:
            self.again.disabled, self.progress.layout.visibility = False, "hidden"
        self.traces = traces
        self._show_sides(item, pictures)
        self._offer()
        self.said.value = "<br>".join(said)

    def _compared(self) -> list[str]:
        return [self.baseline, self.case.value] if self.baseline else [self.case.value]

    def _item(self) -> Item | None:
        """The benchmark's item of the row; ValueError where it is not the one that was scored."""
        cases = self.experiments.get(self.experiment.value)
        if cases is None:
            return None
        item, row = cases.items(self.case.value)[self.place], self.scored.rows[self.place]
        if item.id != row["id"]:
            raise ValueError(f"row {self.place} is of {row['id']!r}, not of {item.id!r}: score the case again")
        return item

    def _where(self, case: str) -> int | None:
        """The place of the row's item in a case."""
        wanted = self.scored.rows[self.place]["id"]
        return next(
            (k for k, row in enumerate(self.load(self.experiment.value, case).rows) if row["id"] == wanted), None
        )

    def _row(self, case: str) -> dict | None:
        place = self._where(case)
        return None if place is None else self.load(self.experiment.value, case).rows[place]

    def _record(self, case: str):
        place = self._where(case)
        return next(
            (record for record in self.kept(self.experiment.value, case).records if record.index == place), None
        )

    def _stored(self, case: str) -> Shown | None:
        """The picture of the row that the store has of a case: of the showcase, or beyond."""
        scored, place, record = self.load(self.experiment.value, case), self._where(case), self._record(case)
        if place is None:
            return None
        if record is not None:
            return Shown(record.final, scored.found[place])
        if scored.pictures is not None and place < len(scored.pictures):
            picture = scored.pictures[place]
            return Shown(picture[:, -len(picture) :], scored.found[place])  # a strip ends with the picture
        return None

    def _whole(self, case: str) -> Trace | None:
        """The row's Trace, where the store has every step."""
        kept, record = self.kept(self.experiment.value, case), self._record(case)
        if record is None or not len(record.frames):
            return None
        trace = Trace([record.index])
        trace.records, trace.timesteps = [record], kept.timesteps
        trace.sigmas, trace.settings = kept.sigmas, kept.settings
        return trace

    def _show_sides(self, item: Item | None, pictures: Mapping[str, Shown | None]) -> None:
        layout, drag = asked(item) if item else (None, None)
        if drag or layout:
            head, image, text = self.sides[0]
            head.value = "<b>what the benchmark has</b>"
            _put(image, draw_drag(drag) if drag else png(overlay.target(layout)))
            text.value = _legend(layout) if layout else "from handle to target"
        for (head, image, text), (case, shown) in zip(self.sides[3 - len(pictures) :], pictures.items(), strict=True):
            head.value = f"<b>{escape(case)}</b>"
            _put(image, draw_finds(shown, layout) if shown else b"")
            text.value = _finds(shown.found) if shown else "not in the store: draw it again"

    def _offer(self) -> None:
        """A button for every explorer that can open the Traces."""
        old = (*self.openers.children, *self.opened.children)
        self.opened.children, buttons = (), []
        for name, explorer in opened_by(self.traces).items():
            button = widgets.Button(description=f"Open {name}", layout={"width": "130px"})
            button.on_click(lambda _, explorer=explorer: self._try(lambda: self._open(explorer), self.said))
            buttons.append(button)
        self.openers.children = buttons
        close_all(*old)

    def _open(self, explorer: Callable) -> None:
        old, self.opened.children = self.opened.children, [explorer(self.traces)]
        close_all(*old)

    def _try(self, act: Callable[[], None], place: widgets.HTML | None = None) -> None:
        """What went wrong stands beside the controls, as text: nobody sees the log of a callback."""
        place = place or self.message
        place.value = ""
        try:
            act()
        except Exception as error:
            place.value = _red(error)


def _put(image: widgets.Image, picture: bytes) -> None:
    """Nothing is no broken picture."""
    image.value, image.layout.display = picture, None if picture else "none"


def _wrapped(*parts: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(parts, layout={"flex_flow": "row wrap", "align_items": "flex-start"})


def _red(error: Exception) -> str:
    kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
    return f"<span style='color:#b00020'>{escape(kind + str(error))}</span>"


def _line(cells: Sequence[str], first: str = "") -> str:
    """Cells of one width beside a row's button; with `first`, as the head of all."""
    begin = f"<span style='width:140px;display:inline-block;line-height:1.2'>{first}</span>" if first else ""
    inner = "".join(f"<span style='width:116px;display:inline-block;line-height:1.2'>{cell}</span>" for cell in cells)
    return f"<div style='display:flex;align-items:flex-end;gap:6px;padding-left:6px'>{begin}{inner}</div>"


def _cell(name: str, row: Row | None) -> str:
    """A value and its difference, in colour where that is for the worse."""
    if row is None:
        return "-"
    if math.isnan(row.change):
        return f"{row.value:.2f}"
    worse = name not in NEITHER and (row.change > 0 if name in LESS_IS_BETTER else row.change < 0)
    change = f"({row.change:+.2f})"
    return f"{row.value:.2f} " + (f"<b style='color:{OTHER}'>{change}</b>" if worse else change)


def _finds(found: Sequence[Found]) -> str:
    lines = [
        f"{n + 1}: {escape(' '.join(word for word in (thing.pattern, thing.color, thing.kind) if word != 'plain'))}, "
        f"{thing.score:.2f}"
        for n, thing in enumerate(found)
    ]
    return "the judge finds " + ("<br>".join(lines) if lines else "nothing")


def _legend(layout: Layout) -> str:
    return "<br>".join(
        f"<span style='display:inline-block;width:12px;height:12px;background:"
        f"{overlay.COLORS[n % len(overlay.COLORS)]}'></span> {escape(region.phrase)}"
        for n, region in enumerate(layout.regions)
    )


def _table(baseline: str | None, before: Mapping, case: str, own: Mapping) -> str:
    """All numbers of a row, folded."""
    lines = [
        f"<tr><td>{escape(metric(name))}</td><td>{_number(before.get(name))}</td><td>{_number(value)}</td></tr>"
        for name, value in own.items()
        if name not in ("id", "seed")
    ]
    head = f"<tr><th></th><th>{escape(baseline or '')}</th><th>{escape(case)}</th></tr>"
    table = f"<table style='line-height:1.25;border-spacing:12px 0'>{head}{''.join(lines)}</table>"
    return f"<details><summary>all numbers of this picture</summary>{table}</details>"


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def explore_failures(experiments: Mapping[str, Cases], results: Path = RESULTS) -> Failures:
    """Score rows of every experiment in `results`. experiments: those whose pictures can be drawn again, such as
    {name: Again(name) for name in NAMES} of `helpers.experiments.again`. FileNotFoundError where there are no rows."""
    return reopened("failures", cell(), lambda before: Failures(experiments, results, before))
