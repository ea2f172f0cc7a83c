"""The playground: a prompt, boxes and a drag drawn with the mouse, methods and strengths; both pictures from one noise.

A run draws in a thread of its own, so that controls answer while it works; Cancel acts after the evaluation of the
denoiser that is under way. Every run stays in the list below and in a folder of its own.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from pathlib import Path

import diffusers
import ipywidgets as widgets
import numpy as np
import torch
import transformers
from matplotlib.backends.backend_agg import FigureCanvasAgg
from pydantic import ValidationError

from helpers.backbones.backbone import Backbone
from helpers.backbones.load import NAMED, load_backbone
from helpers.conditions import Drag, Layout, Move, Region, encode_image
from helpers.figures import overlay
from helpers.files import output, writing
from helpers.judges.base import Judge
from helpers.paths import ROOT
from helpers.perception.scene_graph import parse
from helpers.sampling.hooks import Ctx
from helpers.widgets.canvas import Canvas
from helpers.widgets.common import panels, png
from helpers.widgets.drawing import Drawn, Line, draw, read
from helpers.widgets.presets import PRESETS
from helpers.widgets.request import METHODS, Request

WATCH = 2  # steps between two live pictures
FIELDS = ("prompt", "regions", "methods", "seeds", "")  # where an error can stand; "" is beside the button
WRONG = "<span style='color:#b00020'>{}</span>"


@dataclass
class Entry:
    """A finished run: what was asked for, the baseline's and the methods' pictures, what the judge read in each."""

    request: Request
    base: Drawn
    guided: Drawn
    readings: tuple[list[list[Line]], list[list[Line]]] = ([], [])
    folder: Path | None = None

    @property
    def name(self) -> str:
        chosen = " + ".join(f"{m} × {times:g}" for m, times in self.request.methods.items()) or "no method"
        return f"{self.folder.name if self.folder else ''} {chosen}: {self.request.prompt}"


@dataclass
class Words:
    """What a prompt says that can be placed: label -> (phrase, character where it begins)."""

    places: dict[str, tuple[str, int]] = field(default_factory=dict)

    @staticmethod
    def of(prompt: str) -> "Words":
        graph, places = parse(prompt), {}
        for k, one in enumerate(graph.objects):
            phrase = graph.phrase(k)
            again = sum(known == phrase for known, _ in places.values())
            places[f"{phrase} ({again + 1})" if again else phrase] = (phrase, one.start)
        return Words(places)


def pixels(images: torch.Tensor) -> np.ndarray:
    """(n, 3, H, W) in [0, 1] -> uint8 (H', W', 3), up to two side by side."""
    n = len(images)
    rows = [torch.cat(list(images[k : k + 2]), 2) for k in range(0, n - n % 2 if n > 1 else n, 2)]
    if n > 1 and n % 2:
        rows.append(torch.cat([images[-1], torch.ones_like(images[-1])], 2))
    return (255 * torch.cat(rows, 1).clamp(0, 1)).round().byte().permute(1, 2, 0).numpy()


def shown(images: torch.Tensor, layout: Layout | None = None) -> bytes:
    """PNG of pictures, enlarged, with the wanted boxes where there is one picture."""
    picture = overlay.enlarge(pixels(images))
    return png(overlay.draw_wanted(picture, layout) if layout and len(images) == 1 else picture)


class Playground(widgets.VBox):
    """The widget. judge: of the miniature world, None reads nothing. folder: where runs are kept, below out/.

    history: the runs, oldest first. running: is one under way?
    """

    def __init__(self, request: Request, judge: Judge | None, folder: Path):
        self.judge, self.folder, self.history = judge, folder, []
        self.words, self.source = Words(), None
        self.backbone = cache(_loaded)
        self.stop, self.thread = threading.Event(), None
        self.last: tuple[str, Drawn] | None = None  # a baseline, and what it is of
        self._controls()
        super().__init__([self._laid_out()])
        self.load(request)

    # --- what is on the screen

    def _controls(self) -> None:
        wide, full = {"description_width": "initial"}, {"width": "98%"}
        self.preset = widgets.Dropdown(options=["", *PRESETS], description="begin with", layout=full, style=wide)
        self.prompt = widgets.Text(description="prompt", continuous_update=False, layout=full)
        self.unread = widgets.HTML()
        self.mode = widgets.ToggleButtons(
            options=[("boxes", "box"), ("drag", "arrow")],
            style={"button_width": "80px"},
            tooltips=["Draw boxes", "Drag"],
        )
        self.label = widgets.Dropdown(description="box of", layout={"width": "98%"}, style=wide)
        self.take = widgets.Button(description="Drag in the last picture", layout={"width": "auto"})
        self.canvas = Canvas()
        self.add = widgets.Dropdown(
            options=["", *METHODS], description="add method", layout={"width": "260px"}, style=wide
        )
        self.chosen = widgets.VBox()
        self.seeds = widgets.Text("0", description="seeds", layout={"width": "160px"}, style=wide)
        self.steps = widgets.BoundedIntText(20, 1, 1000, description="steps", layout={"width": "100px"}, style=wide)
        self.cfg_scale = widgets.BoundedFloatText(
            5.0, min=0, max=100, description="CFG", layout={"width": "90px"}, style=wide
        )
        self.model = widgets.Combobox(
            value="mini-sd", options=list(NAMED), description="on", layout={"width": "130px"}, style=wide
        )
        self.run_button = widgets.Button(description="Run", button_style="primary", layout={"width": "90px"})
        self.cancel_button = widgets.Button(description="Cancel", disabled=True, layout={"width": "90px"})
        self.progress = widgets.IntProgress(0, 0, 1, layout={"width": "150px"})
        self.state = widgets.HTML()
        self.errors = {name: widgets.HTML() for name in FIELDS}
        self.left, self.right = (widgets.Dropdown(layout={"width": "240px"}) for _ in range(2))
        square = {"width": "240px", "height": "240px"}
        self.pictures = [widgets.Image(format="png", layout=square) for _ in range(2)]
        self.readings = [widgets.HTML(layout={"width": "240px"}) for _ in range(2)]
        self.curve = widgets.Image(format="png", layout={"width": "490px"})
        self.cost = widgets.HTML()
        self.code = widgets.Textarea(layout={"width": "98%", "height": "180px"})
        self.json = widgets.Textarea(layout={"width": "98%", "height": "120px"})
        self.load_button = widgets.Button(description="Load this JSON", layout={"width": "auto"})
        self.json_error = widgets.HTML()

        self.preset.observe(lambda change: change.new and self._try(lambda: self.load(PRESETS[change.new]())), "value")
        self.prompt.observe(lambda _: self._try(self._read_prompt), "value")
        self.mode.observe(lambda _: self._show_canvas(), "value")
        self.label.observe(lambda change: setattr(self.canvas, "label", change.new or ""), "value")
        self.canvas.observe(self._follow_label, "label")
        self.take.on_click(lambda _: self._try(self.take_picture))
        self.add.observe(lambda change: change.new and self.choose(change.new), "value")
        self.run_button.on_click(lambda _: self.run())
        self.cancel_button.on_click(lambda _: self.stop.set())
        self.load_button.on_click(lambda _: self._load_json())
        for side in (self.left, self.right):
            side.observe(lambda _: self._show(), "value")
        self.canvas.observe(lambda _: self._write_json(), ["boxes", "arrows"])

    def _laid_out(self) -> widgets.Widget:
        column = {"width": "335px", "padding": "0 10px 0 0"}
        asks = [
            self.preset, self.prompt, self.unread, self.errors["prompt"],
            self.mode, self.label, self.canvas, self.take,
            self.errors["regions"],
        ]  # fmt: skip
        row = {"flex_flow": "row wrap"}
        sides = zip((self.left, self.right), self.pictures, self.readings, strict=True)
        does = [
            self.add, self.chosen, self.errors["methods"],
            widgets.HBox([self.seeds, self.steps, self.cfg_scale, self.model], layout=row), self.errors["seeds"],
            widgets.HBox([self.run_button, self.cancel_button, self.progress, self.state]), self.errors[""],
            widgets.HBox([widgets.VBox(list(side)) for side in sides], layout=row), self.cost, self.curve,
        ]  # fmt: skip
        more = widgets.Accordion([self.code, widgets.VBox([self.json, self.load_button, self.json_error])])
        more.titles = ("the code that draws this", "as JSON")
        self.more = more
        parts = [widgets.VBox(asks, layout=column), widgets.VBox([*does, more], layout={"width": "500px"})]
        return widgets.HBox(parts, layout=row)

    # --- what is asked for

    def load(self, request: Request) -> None:
        """Everything as a request states it."""
        self.canvas.boxes, self.canvas.arrows = [], []
        self.source = None if request.drag is None else (255 * request.drag.image()).byte().permute(1, 2, 0).numpy()
        self.prompt.value = request.prompt
        self._read_prompt()
        starts = {(phrase, start): label for label, (phrase, start) in self.words.places.items()}
        boxes = []
        for region in request.regions:
            start = self.prompt.value.find(region.phrase) if region.start is None else region.start
            boxes.append({"label": starts.get((region.phrase, start), region.phrase), "box": list(region.box)})
        self.canvas.boxes = boxes
        moves = request.drag.moves if request.drag else ()
        self.canvas.arrows = [{"handle": list(move.handle), "target": list(move.target)} for move in moves]
        self.chosen.children = ()
        for name, times in request.methods.items():
            self.choose(name, times)
        self.seeds.value = ", ".join(map(str, request.seeds))
        self.steps.value, self.cfg_scale.value, self.model.value = request.steps, request.cfg_scale, request.backbone
        self.mode.value = "arrow" if request.drag and not request.regions else "box"
        self._show_canvas()
        self._write_json()

    def choose(self, name: str, times: float = 1.0) -> None:
        """Put a method into the list, with a slider of its strength."""
        if name not in self.methods():
            slider = widgets.FloatLogSlider(
                times, base=10, min=-1.5, max=1.5, step=0.05, description=name, readout_format=".2f",
                continuous_update=False, style={"description_width": "120px"}, layout={"width": "400px"},
            )  # fmt: skip
            slider.value = times  # as it is, not the next step of the slider
            leave = widgets.Button(description="leave out", layout={"width": "auto"})
            line = widgets.HBox([slider, leave])
            leave.on_click(
                lambda _: setattr(self.chosen, "children", [c for c in self.chosen.children if c is not line])
            )
            self.chosen.children = (*self.chosen.children, line)
        self.add.value = ""

    def methods(self) -> dict[str, float]:
        return {line.children[0].description: line.children[0].value for line in self.chosen.children}

    def request(self) -> Request:
        """What the controls say; ValueError (of pydantic: with the field) where that is nothing that can be drawn."""
        regions = []
        for box in self.canvas.boxes:
            if box["label"] not in self.words.places:
                raise _Wrong("regions", f"the prompt has no {box['label']!r} any more: delete its box, or say it again")
            phrase, start = self.words.places[box["label"]]
            alone = self.prompt.value.count(phrase) == 1
            regions.append(Region(phrase=phrase, start=None if alone else start, box=tuple(box["box"])))
        drag = None
        if self.canvas.arrows and self.source is not None:
            moves = [Move(handle=tuple(a["handle"]), target=tuple(a["target"])) for a in self.canvas.arrows]
            drag = Drag(prompt=self.prompt.value, source=encode_image(self.source), moves=moves)
        return Request(
            prompt=self.prompt.value, regions=regions, drag=drag, methods=self.methods(), seeds=self._seeds(),
            steps=self.steps.value, cfg_scale=self.cfg_scale.value, backbone=self.model.value,
        )  # fmt: skip

    def _seeds(self) -> list[int]:
        try:
            return [int(part) for part in self.seeds.value.split(",")]
        except ValueError:
            raise _Wrong("seeds", f"{self.seeds.value!r} is no list of whole numbers: such as 0, 1, 2") from None

    def _read_prompt(self) -> None:
        """Mark words that the model has never read; offer the phrases that can be placed."""
        try:
            before, self.words = list(self.words.places), Words.of(self.prompt.value)
        except ValueError as error:
            raise _Wrong("prompt", str(error)) from None
        labels = list(self.words.places)
        if len(before) == len(labels):  # the same things under other names keep their boxes
            names = dict(zip(before, labels))
            self.canvas.boxes = [box | {"label": names.get(box["label"], box["label"])} for box in self.canvas.boxes]
        self.label.options = labels
        self.canvas.labels = labels
        taken = {box["label"] for box in self.canvas.boxes}
        self.canvas.label = next((label for label in labels if label not in taken), labels[0] if labels else "")
        unread = self.backbone(self.model.value).tokens.unread(self.prompt.value) if self.model.value else []
        said = ", ".join(f"<u>{escape(word)}</u>" for word in dict.fromkeys(unread))
        self.unread.value = f"<small>the model has never read {said}</small>" if said else ""

    def _follow_label(self, change) -> None:
        """The browser goes on to the next phrase when a box is drawn."""
        if change.new in self.label.options:
            self.label.value = change.new

    def take_picture(self) -> None:
        """The last picture becomes what is dragged in."""
        if not self.history:
            raise _Wrong("regions", "there is no picture yet: press Run first")
        entry = self.history[-1]
        self.source = pixels(entry.guided.images[:1])
        self.prompt.value, self.mode.value = entry.request.prompt, "arrow"
        self._show_canvas()

    # --- what is drawn

    @property
    def running(self) -> bool:
        return self.thread is not None and self.thread.is_alive()

    def run(self) -> None:
        """Draw the baseline, unless it is known, and the guided pictures; returns at once."""
        if self.running:
            return
        request = self._try(self.request)
        if request is None:
            return
        self.stop.clear()
        self.run_button.disabled, self.cancel_button.disabled = True, False
        self.progress.value, self.progress.max = 0, 2 * request.steps
        self.thread = threading.Thread(target=self._work, args=(request,), daemon=True)
        self.thread.start()

    def wait(self) -> None:
        """Until the run that is under way has ended."""
        if self.thread is not None:
            self.thread.join()

    def _work(self, request: Request) -> None:
        begin = time.perf_counter()
        try:
            backbone = self.backbone(request.backbone)
            base = self._baseline(backbone, request)
            guided = base and self._drawn(backbone, request, request.guidance(), 1)
            if guided is None:
                self.state.value = f"cancelled after {time.perf_counter() - begin:.1f} s"
            else:
                self._keep(Entry(request, base, guided))
                self.state.value = f"done in {time.perf_counter() - begin:.1f} s"
        except Exception as error:  # nobody else would see what ends a thread
            known = isinstance(error, ValueError | FileNotFoundError | FloatingPointError)
            self._say("", str(error) if known else f"{type(error).__name__}: {error}")
            self.state.value = ""
        finally:
            self.run_button.disabled, self.cancel_button.disabled = False, True

    def _baseline(self, backbone: Backbone, request: Request) -> Drawn | None:
        """The same noise without the methods; of a drag the picture that it starts from."""
        if request.drag is not None and not request.cfg():
            return Drawn(request.drag.image()[None].expand(len(request.seeds), -1, -1, -1), cost=None)
        asked = request.model_dump_json(include={"prompt", "seeds", "steps", "cfg_scale", "backbone"})
        if self.last is None or self.last[0] != asked:
            drawn = self._drawn(backbone, request, request.baseline(), 0)
            if drawn is None:
                return None
            self.last = asked, drawn
        self.pictures[0].value = shown(self.last[1].images, request.layout)
        return self.last[1]

    def _drawn(self, backbone: Backbone, request: Request, methods: Sequence, side: int) -> Drawn | None:
        self.state.value = ("the baseline", "guided")[side]
        if side:
            self.curve.value = b""

        def told(ctx: Ctx, drawn: Drawn) -> None:
            self.progress.value = side * request.steps + ctx.i + 1
            if ctx.i % WATCH == 0:
                with torch.no_grad():
                    self.pictures[side].value = shown(ctx.image.float().cpu(), request.layout)
                if drawn.losses:
                    self.curve.value = self._losses(drawn, request)

        return draw(backbone, request, methods, told, self.stop)

    @staticmethod
    def _losses(drawn: Drawn, request: Request) -> bytes:
        """The losses of the methods so far, each in an axis of its own: they have no common unit."""
        fig, axes = panels([f"loss of {name}" for name in drawn.losses], (), request.steps)
        for ax, points in zip(axes, drawn.losses.values(), strict=True):
            ax.plot(*zip(*points), ".-")
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        return png(np.asarray(canvas.buffer_rgba())[..., :3])

    def _keep(self, entry: Entry) -> None:
        """Read the pictures, save them, put the run into the lists."""
        request = entry.request
        if self.judge is not None:
            found = [self.judge.recognise(drawn.images) for drawn in (entry.base, entry.guided)]
            size = tuple(entry.guided.images.shape[-2:])
            entry.readings = tuple([read(request, one, size) for one in some] for some in found)
        entry.folder = self._saved(entry)
        self.history.append(entry)
        options = [
            (f"{entry.folder.name} {'guided' if side else 'baseline'}", (k, side))
            for k, entry in enumerate(self.history)
            for side in (0, 1)
        ]
        last = len(self.history) - 1
        for control, side in ((self.left, 0), (self.right, 1)):
            control.options = options
            control.value = (last, side)
        if entry.guided.losses:
            self.curve.value = self._losses(entry.guided, request)
        self._show()
        self._show_canvas()

    def _saved(self, entry: Entry) -> Path:
        """A folder that no other run has."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(path.name) for path in self.folder.iterdir() if path.name.isdigit()), default=0)
        while True:
            folder = self.folder / f"{number:04d}"
            try:
                folder.mkdir()
                break
            except FileExistsError:  # somebody else's run
                number += 1
        with writing(folder / "request.json") as file:
            file.write(entry.request.model_dump_json(indent=1, exclude_none=True))
        with writing(folder / "code.py") as file:
            file.write(entry.request.code())
        for name, drawn in (("baseline", entry.base), ("guided", entry.guided)):
            with writing(folder / f"{name}.png", "wb") as file:
                file.write(png(pixels(drawn.images)))
        return folder

    # --- what is shown

    def _show(self) -> None:
        """The two pictures that are compared, and of the right one its code and cost."""
        for control, picture, reading in zip((self.left, self.right), self.pictures, self.readings, strict=True):
            if control.value is None:
                continue
            k, side = control.value
            entry = self.history[k]
            drawn = (entry.base, entry.guided)[side]
            picture.value = shown(drawn.images, entry.request.layout)
            reading.value = _table(entry.readings[side])
        if self.right.value is not None:
            entry = self.history[self.right.value[0]]
            self.code.value = entry.request.code()
            self.cost.value = _costs(entry)

    def _show_canvas(self) -> None:
        """The source while a drag is drawn, the last picture, pale, behind boxes."""
        if self.mode.value == "arrow":
            picture = self.source
        else:
            picture = pixels(self.history[-1].guided.images[:1]) if self.history else None
        self.canvas.mode = self.mode.value
        self.canvas.picture = b"" if picture is None else png(overlay.enlarge(picture))

    def _write_json(self) -> None:
        try:
            self.json.value = self.request().model_dump_json(indent=1, exclude_none=True)
        except ValueError:  # said when it is run
            pass

    def _load_json(self) -> None:
        """A request, or a layout or drag alone, as `model_dump_json` writes them."""
        self.json_error.value = ""
        try:
            data = json.loads(self.json.value)
            if not isinstance(data, dict):
                raise ValueError(f"{self.json.value[:40]!r} is no request: copy what stands here after a run")
            if "source" in data:
                drag = Drag.model_validate(data)
                data = {"prompt": drag.prompt, "drag": drag, "methods": {"dma": 1.0}}
            elif set(data) == {"prompt", "regions"}:
                data |= {"methods": self.methods() or {"dga": 1.0}}
            self.load(Request.model_validate(data))
        except ValueError as error:
            self.json_error.value = WRONG.format(escape(_words(error)))

    def _say(self, where: str, words: str) -> None:
        self.errors[where].value = WRONG.format(escape(words)) if words else ""

    def _try(self, act: Callable):
        """What act returns; what went wrong stands beside its field, as text, and None is returned."""
        for name in FIELDS:
            self._say(name, "")
        try:
            return act()
        except ValidationError as error:
            place = error.errors()[0]["loc"]
            self._say(str(place[0]) if place and place[0] in FIELDS else "", _words(error))
        except _Wrong as error:
            self._say(error.where, str(error))
        except (ValueError, FileNotFoundError) as error:
            self._say("", str(error))


def _loaded(name: str) -> Backbone:
    """Without the libraries' bars, which would stand above the widget for good."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    return load_backbone(name)


class _Wrong(ValueError):
    """What is wrong with a field."""

    def __init__(self, where: str, words: str):
        super().__init__(words)
        self.where = where


def _words(error: ValueError) -> str:
    """What an error says, without pydantic's frame."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        return (f"{place}: " if place else "") + first["msg"].removeprefix("Value error, ")
    return str(error)


def _table(readings: Sequence[Sequence[Line]]) -> str:
    """What the judge read in every picture."""
    parts = []
    for lines in readings:
        rows = "".join(
            f"<tr><td>{'✓' if line.right else '✗'}</td><td>{escape(line.wish)}</td><td>{escape(line.seen)}"
            + (f", IoU {line.iou:.2f}" if line.iou is not None else "")
            + "</td></tr>"
            for line in lines
        )
        parts.append(f"<table style='line-height:1.3'>{rows}</table>")
    return f"<b>a judge that never guided</b>{''.join(parts)}" if parts else ""


def _costs(entry: Entry) -> str:
    lines = [
        f"{word}: {drawn.cost.seconds:.1f} s, {drawn.cost.nfe:g} evaluations of the denoiser a picture"
        for word, drawn in (("baseline", entry.base), ("guided", entry.guided))
        if drawn.cost is not None
    ]
    said = "".join(f"<br>{escape(one)}" for one in dict.fromkeys(entry.guided.warnings))
    return f"{'; '.join(lines)}{said}<br><small>kept in {escape(_short(entry.folder))}</small>"


def _short(folder: Path) -> str:
    return str(folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder)


def playground(request: Request | None = None, judge: Judge | None = None, folder: Path | None = None) -> Playground:
    """Type a prompt, draw boxes or a drag, choose methods, run. request: what stands there first. judge: reads the
    pictures of the miniature world. folder: for the runs, out/playground without one."""
    return Playground(request or next(iter(PRESETS.values()))(), judge, folder or output("out/playground"))
