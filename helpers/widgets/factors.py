"""The explorer of factor graphs: candidate maps with their recall, one is chosen and edited, the picture follows.

Every map and picture is drawn when its button is pressed; nothing else draws. What a map shows is read by its codes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

import ipywidgets as widgets
import numpy as np
import torch

from helpers.backbones.backbone import Backbone
from helpers.factor_graph import editing
from helpers.factor_graph.factor import Conditions, ControlledBackbone
from helpers.factor_graph.reading import Shown, objects, recall
from helpers.figures.overlay import enlarge
from helpers.guidance.cfg import CFG
from helpers.perception.scene_graph import parse
from helpers.sampling.best_of import try_seed
from helpers.sampling.loop import denoise
from helpers.widgets.common import png

MAP = "segmentation"
MOST = 10  # candidates
MAP_CFG = 3.0  # of maps, which need less than pictures do


@dataclass
class Drawn:
    """What a factor drew: pictures (n, 3, H, W) in [0, 1], and of every step its guess x0_hat of the same shape."""

    pictures: torch.Tensor
    guesses: list[torch.Tensor] = field(default_factory=list)


def wanted(prompt: str) -> list[tuple[str, str]]:
    """(kind, colour) of every object that a prompt names; ValueError where it names none that the world has."""
    found = []
    for thing in parse(prompt).objects:
        color = next((word for word in thing.attributes if word in editing.COLORS), None)
        if thing.noun in editing.KINDS and color:
            found += [(thing.noun, color)] * (thing.count or 1)
    if not found:
        raise ValueError(f"{prompt!r} names no object of the miniature world: say something like 'a red car'")
    return found


def draw(
    backbone: Backbone,
    prompt: str,
    seeds: Sequence[int],
    steps: int,
    cfg_scale: float,
    given: torch.Tensor | None = None,
    told: Callable[[int], None] = lambda step: None,
) -> Drawn:
    """Pictures of one prompt with what the factor expected at every step. given: a map (3, H, W) for all of them. told:
    is called with the number of every step that is done."""
    conditions = [] if given is None else [Conditions(maps={MAP: given.expand(len(seeds), -1, -1, -1)})]
    guesses = []
    for ctx in denoise(
        backbone, [prompt] * len(seeds), [*conditions, CFG(cfg_scale)], steps=steps, seeds=seeds, batch=len(seeds)
    ):
        with torch.no_grad():
            guesses.append(ctx.image.float().clamp(0, 1).cpu())
        last = ctx.x_prev
        told(ctx.i + 1)
    with torch.no_grad():
        return Drawn(backbone.decode(last).float().clamp(0, 1).cpu(), guesses)


def pixels(picture: torch.Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> uint8 (H, W, 3)."""
    return (255 * picture).round().byte().permute(1, 2, 0).numpy()


class FactorExplorer(widgets.VBox):
    """The widget. map: the segmentation that is edited, uint8 (H, W, 3) or None; picture: what was drawn given it."""

    def __init__(self, planner: Backbone, painter: ControlledBackbone, prompt: str, steps: int, cfg_scale: float):
        self.planner, self.painter, self.cfg_scale = planner, painter, cfg_scale
        self.candidates: Drawn | None = None
        self.map: np.ndarray | None = None
        self.earlier: list[np.ndarray] = []  # for undo
        self.picture: Drawn | None = None
        wide = {"description_width": "initial"}
        self.prompt = widgets.Text(prompt, description="prompt", layout={"width": "70%"})
        self.seed = widgets.BoundedIntText(0, 0, 2**32 - 1, description="seed", layout={"width": "20%"})
        self.count = widgets.IntSlider(6, 1, MOST, description="maps")
        self.map_steps = widgets.IntSlider(10, 2, 50, description="steps of a map", style=wide)
        self.steps = widgets.IntSlider(steps, 2, 50, description="steps of the picture", style=wide)
        self.plan = widgets.Button(description="Draw maps", button_style="primary")
        self.progress = widgets.IntProgress(0, 0, 1, layout={"width": "30%", "visibility": "hidden"})
        self.strip = widgets.HBox(layout={"flex_flow": "row wrap"})
        self.shown = widgets.Image(format="png", layout={"width": "256px", "height": "256px"})
        self.said = widgets.HTML()
        self.message = widgets.HTML()
        self.which = widgets.Dropdown(options=[("nothing", None)], description="object")
        self.dx, self.dy = (widgets.IntSlider(0, -40, 40, description=name) for name in ("right by", "down by"))
        self.scale = widgets.FloatSlider(1.0, min=0.4, max=2.5, step=0.1, description="size ×")
        self.kind = widgets.Dropdown(options=editing.KINDS, description="kind")
        self.color = widgets.Dropdown(options=tuple(editing.COLORS), description="colour")
        self.box = widgets.Text("4, 4, 24, 24", description="box x0, y0, x1, y1", style=wide)
        self.buttons = {
            name: widgets.Button(description=name, layout={"width": "auto"})
            for name in ("Move and resize", "Flip", "Recolour", "Replace", "Delete", "Add", "Undo")
        }
        self.paint = widgets.Button(description="Draw the picture", button_style="primary")
        self.step = widgets.IntSlider(1, 1, 1, description="step", continuous_update=True)
        self.before, self.after = (
            widgets.Image(format="png", layout={"width": "256px", "height": "256px"}) for _ in range(2)
        )
        self.pair = widgets.HBox([self._titled("the picture before", self.before), self._titled("now", self.after)])
        edits = widgets.VBox(
            [
                self.which,
                widgets.HBox([self.dx, self.dy]),
                widgets.HBox([self.scale, self.buttons["Move and resize"], self.buttons["Flip"]]),
                widgets.HBox([self.kind, self.color]),
                widgets.HBox([self.buttons["Recolour"], self.buttons["Replace"], self.buttons["Delete"]]),
                widgets.HBox([self.box, self.buttons["Add"], self.buttons["Undo"]]),
            ]
        )
        self.plan.on_click(lambda _: self._try(self.draw_maps))
        self.paint.on_click(lambda _: self._try(self.draw_picture))
        for name, edit in self._edits().items():
            self.buttons[name].on_click(lambda _, edit=edit: self._try(lambda: self._edited(edit)))
        self.buttons["Undo"].on_click(lambda _: self._try(self.undo))
        self.step.observe(lambda _: self._show_picture(), "value")
        super().__init__(
            [
                widgets.HBox([self.prompt, self.seed]),
                widgets.HBox([self.count, self.map_steps, self.plan, self.progress]),
                self.message,
                self.strip,
                widgets.HBox([widgets.VBox([self.shown, self.said]), edits]),
                widgets.HBox([self.steps, self.paint, self.step]),
                self.pair,
            ]
        )

    def draw_maps(self) -> None:
        """New candidates for the prompt; the one with the best recall is chosen."""
        asked = wanted(self.prompt.value)
        seeds = [try_seed(self.seed.value, k) for k in range(self.count.value)]
        self.candidates = self._drawn(self.planner, seeds, self.map_steps.value, MAP_CFG)
        shares, boxes = [], []
        for k, one in enumerate(self.candidates.pictures):
            shares.append(recall([(o.kind, o.color) for o in objects(pixels(one))], asked))
            image = widgets.Image(value=png(enlarge(pixels(one))), format="png", layout={"width": "110px"})
            button = widgets.Button(description=f"recall {shares[k]:.2f}", layout={"width": "110px"})
            button.on_click(lambda _, k=k: self._try(lambda: self.choose(k)))
            boxes.append(widgets.VBox([image, button]))
        self.strip.children = boxes
        self.choose(int(np.argmax(shares)))

    def choose(self, k: int) -> None:
        """Take candidate k as the map."""
        self.earlier, self.map = [], pixels(self.candidates.pictures[k])
        for n, box in enumerate(self.strip.children):
            box.children[1].button_style = "success" if n == k else ""
        self._show_map()

    def undo(self) -> None:
        """Take the last edit back."""
        if not self.earlier:
            raise ValueError("nothing was edited yet")
        self.map = self.earlier.pop()
        self._show_map()

    def draw_picture(self) -> None:
        """The picture given the map as it is now; the last one moves to the left."""
        if self.map is None:
            raise ValueError("there is no map yet: draw maps first")
        given = torch.from_numpy(self.map.copy()).permute(2, 0, 1) / 255
        before = self.picture
        self.picture = self._drawn(self.painter, [self.seed.value], self.steps.value, self.cfg_scale, given)
        if before is not None:
            self.before.value = png(enlarge(pixels(before.pictures[0])))
        self.step.max = len(self.picture.guesses) + 1
        self.step.value = self.step.max
        self._show_picture()

    def selected(self) -> Shown:
        """The object that edits are of; ValueError where none is chosen."""
        if self.which.value is None:
            raise ValueError("choose an object first: draw maps, or another map that shows one")
        return objects(self.map)[self.which.value]

    def _edits(self) -> dict[str, Callable[[], np.ndarray]]:
        def at() -> editing.Box:
            try:
                x0, y0, x1, y1 = (int(part) for part in self.box.value.split(","))
            except ValueError:
                raise ValueError(f"the box {self.box.value!r} is no four whole numbers: such as 4, 4, 24, 24") from None
            return x0, y0, x1, y1

        def placed() -> np.ndarray:
            one = self.selected()
            larger = editing.resized(self.map, one, self.scale.value)
            again = max((o for o in objects(larger) if (o.kind, o.color) == (one.kind, one.color)), key=_overlap(one))
            return editing.moved(larger, again, self.dx.value, self.dy.value)

        return {
            "Move and resize": placed,
            "Flip": lambda: editing.flipped(self.map, self.selected()),
            "Recolour": lambda: editing.recoloured(self.map, self.selected(), self.color.value),
            "Replace": lambda: editing.replaced(self.map, self.selected(), self.kind.value, self.color.value),
            "Delete": lambda: editing.deleted(self.map, self.selected()),
            "Add": lambda: editing.added(self._map(), self.kind.value, self.color.value, at()),
        }

    def _map(self) -> np.ndarray:
        if self.map is None:
            raise ValueError("there is no map yet: draw maps first")
        return self.map

    def _edited(self, edit: Callable[[], np.ndarray]) -> None:
        after = edit()
        self.earlier.append(self.map)
        self.map = after
        self.dx.value = self.dy.value = 0
        self.scale.value = 1.0
        self._show_map()

    def _drawn(self, backbone: Backbone, seeds: Sequence[int], steps: int, cfg_scale: float, given=None) -> Drawn:
        self.progress.max, self.progress.value = steps, 0
        self.progress.layout.visibility = "visible"
        try:
            return draw(backbone, self.prompt.value, seeds, steps, cfg_scale, given, self._tell)
        finally:
            self.progress.layout.visibility = "hidden"

    def _tell(self, step: int) -> None:
        self.progress.value = step

    def _try(self, act: Callable[[], None]) -> None:
        """What went wrong stands beside the controls, as text."""
        self.message.value = ""
        try:
            act()
        except ValueError as error:
            self.message.value = f"<span style='color:#b00020'>{escape(str(error))}</span>"

    def _show_map(self) -> None:
        self.shown.value = png(enlarge(self.map))
        shown = objects(self.map)
        kept = self.which.value
        self.which.options = [(f"{o.color} {o.kind} ({o.box[0]}, {o.box[1]})", k) for k, o in enumerate(shown)] or [
            ("nothing", None)
        ]
        self.which.index = kept if kept is not None and kept < len(shown) else 0  # a Dropdown of one None may have none
        share = recall([(o.kind, o.color) for o in shown], wanted(self.prompt.value))
        self.said.value = f"recall {share:.2f}: {escape(', '.join(f'{o.color} {o.kind}' for o in shown) or 'nothing')}"

    def _show_picture(self) -> None:
        if self.picture is not None:
            frames = [*self.picture.guesses, self.picture.pictures]
            self.after.value = png(enlarge(pixels(frames[min(self.step.value, len(frames)) - 1][0])))

    @staticmethod
    def _titled(title: str, image: widgets.Image) -> widgets.Widget:
        return widgets.VBox([widgets.HTML(f"<b>{title}</b>"), image])


def _overlap(one: Shown) -> Callable[[Shown], int]:
    return lambda other: int((one.mask & other.mask).sum())


def explore_factors(
    planner: Backbone, painter: ControlledBackbone, prompt: str, steps: int = 20, cfg_scale: float = 5.0
) -> FactorExplorer:
    """Type a prompt, draw maps, choose one, edit it, draw the picture again.

    planner: text -> segmentation, painter: (text, segmentation) -> picture, see `load_factor`. ValueError where the
    painter reads no segmentation.
    """
    if MAP not in getattr(painter, "conditions", ()):
        raise ValueError(f"the painter reads no {MAP}: load one that does, such as load_factor('fgdm-image')")
    return FactorExplorer(planner, painter, prompt, steps, cfg_scale)
