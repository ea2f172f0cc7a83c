"""The experiment `layout`: every method that places objects, on the same layouts (boxes) and seeds."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter, signature

from helpers.backbones import Backbone
from helpers.experiments import dga
from helpers.experiments.settings import recurrence
from helpers.guidance import CFG, STRENGTHS, Guidance, Recurrence, Window
from helpers.guidance.attend_excite import AttendExcite
from helpers.guidance.boxdiff import BoxDiff
from helpers.guidance.composable import Composable
from helpers.guidance.densediffusion import DenseDiffusion
from helpers.guidance.directed import Directed
from helpers.guidance.ilgd import ILGD
from helpers.guidance.layout_guidance import LayoutGuidance
from helpers.guidance.multidiffusion import MultiDiffusion
from helpers.guidance.watch import Watch
from helpers.miniature.benchmark import Case as Scene
from helpers.params import MethodCase, Option, Params
from helpers.paths import RESULTS, weights
from helpers.perception.scene_graph import parse
from helpers.perception.segmenter import Segmenter


@dataclass(frozen=True)
class Asked:
    """What every method is made of: params, the scenes' layouts, the segmenter of DGA."""

    params: Params
    layouts: list
    segmenter: Segmenter

    @property
    def cfg(self) -> CFG:
        return CFG(self.params.sampling.cfg_scale)


def none(asked: Asked) -> list[Guidance]:
    """The prompt alone."""
    return [asked.cfg]


def on_layouts(kind: type[Guidance]) -> Callable:
    """A method of attention beside classifier-free guidance."""

    def make(asked: Asked, **options) -> list[Guidance]:
        return [asked.cfg, kind(asked.layouts, **options)]

    make.__signature__ = signature(kind)
    return make


def geometry(asked: Asked, scale: float | None = None, times: int | None = None) -> list[Guidance]:
    """DGA as in the case `full` of its own experiment. scale, times: other than its strength and repeats there."""
    block = asked.params.dga
    case, steps = block.case("full"), recurrence(block.recurrence)
    method = dga.guidance_on(asked.params, case, asked.layouts, asked.segmenter)
    method.strength = method.strength if scale is None else replace(method.strength, scale=scale)
    method.recurrence = steps if times is None else Recurrence(times, steps.window, steps.noise)
    return [asked.cfg, method]


def both(asked: Asked, scale: float | None = None, times: int | None = None, **options) -> list[Guidance]:
    """iLGD and DGA: attention says where from the first steps on, the segmenter how exactly. options: of iLGD."""
    return [*geometry(asked, scale, times), ILGD(asked.layouts, **options)]


def regions(asked: Asked, **options) -> list[Guidance]:
    """A prompt of its own for every region, the whole one for the rest: under a place alone mini-sd draws nothing."""
    texts = [[*said, layout.prompt] for said, layout in zip(concepts_of(asked.layouts), asked.layouts, strict=True)]
    return [MultiDiffusion(asked.layouts, texts, **{"cfg_scale": asked.cfg.cfg_scale} | options)]


def concepts(asked: Asked, **options) -> list[Guidance]:
    """Every object, at its place, is a concept."""
    return [Composable(concepts_of(asked.layouts), **{"scale": asked.cfg.cfg_scale} | options)]


def concepts_of(layouts: Sequence) -> list[list[str]]:
    """Per layout a prompt for every region: "a red car in the snow"."""
    return [
        [
            f"{'an' if region.phrase[0] in 'aeiou' else 'a'} {region.phrase} {parse(layout.prompt).place or ''}".strip()
            for region in layout.regions
        ]
        for layout in layouts
    ]


METHODS: dict[str, Callable] = {
    "none": none,
    "dga": geometry,
    "ilgd": on_layouts(ILGD),
    "attend_excite": on_layouts(AttendExcite),
    "boxdiff": on_layouts(BoxDiff),
    "layout_guidance": on_layouts(LayoutGuidance),
    "densediffusion": on_layouts(DenseDiffusion),
    "multidiffusion": regions,
    "composable": concepts,
    "directed": on_layouts(Directed),
    "ilgd_dga": both,
}
OWN = {"multidiffusion": MultiDiffusion, "composable": Composable, "ilgd_dga": ILGD}  # whose options a method passes on


def guidance_of(
    params: Params, method: str, options: Mapping[str, Option], scenes: Sequence[Scene], segmenter, masks: bool = False
) -> list[Guidance]:
    """The guidance of a method with some options; ValueError for a name or an option that does not exist."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: use one of {', '.join(METHODS)}")
    known = _options(method)
    wrong = next((name for name in options if name not in known), None)
    if wrong:
        raise ValueError(f"{method!r} has no option {wrong!r}: use one of {', '.join(known)}")
    layouts = [scene.layout.masks_only() if masks else scene.layout.boxes_only() for scene in scenes]
    return METHODS[method](Asked(params, layouts, segmenter), **{k: _value(k, v) for k, v in options.items()})


def _options(method: str) -> list[str]:
    """What can be set of a method: everything that does not come from the scenes."""
    made = [METHODS[method], *filter(None, [OWN.get(method)])]
    parameters = [parameter for kind in made for parameter in signature(kind).parameters.values()]
    given = ("asked", "layouts", "prompts")
    return [p.name for p in parameters if p.kind is not Parameter.VAR_KEYWORD and p.name not in given]


def _value(name: str, value: Option):
    if name.endswith("window"):
        return Window(*value)
    if name == "strength":  # such as "raw", or "unit 0.2"
        rule, _, scale = value.partition(" ")
        if rule not in STRENGTHS:
            raise ValueError(f"unknown strength rule {rule!r} in {value!r}: use one of {', '.join(STRENGTHS)}")
        return STRENGTHS[rule](float(scale or 1))
    return value


def watching(methods: Callable) -> Callable:
    """`methods` with their attention in the Trace."""

    def with_watch(scenes: Sequence[Scene]) -> list[Guidance]:
        return [*methods(scenes), Watch([scene.layout.boxes_only() for scene in scenes])]

    return with_watch


def chosen(params: Params, name: str) -> tuple[str, dict[str, Option]]:
    """Method and options of a case of the experiment, or of "<case>_tuned": what the search found best."""
    if name.endswith("_tuned"):
        return tuned(name.removesuffix("_tuned"))
    case: MethodCase = params.layout.case(name)
    return case.method, dict(case.options)


def tuned(case: str) -> tuple[str, dict[str, Option]]:
    """What the search found best for a case; FileNotFoundError says how to search."""
    path = RESULTS / "layout" / "search" / case / "best.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: run `dvc repro search_layout`")
    found = json.loads(path.read_text())
    return found["method"], found["options"]


def load_segmenter(params: Params, backbone: Backbone) -> Segmenter:
    return Segmenter.load(weights(params.dga.guide), backbone.device)
