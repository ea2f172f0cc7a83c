"""What a person asks the playground for: data that becomes guidance, a cell of code that does the same, and JSON."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from helpers.conditions import Drag, Layout, Number, Prompt, Region, Whole
from helpers.experiments.methods import method, names
from helpers.guidance.cfg import CFG
from helpers.sampling.hooks import Guidance

MOST_SEEDS = 4  # pictures at once, side by side
METHODS = tuple(name for name in names() if name != "cfg")


class Request(BaseModel):
    """methods: name -> strength, as a multiple of the default one. drag: what it shows is the prompt. seeds: one
    picture each. A method whose layout or drag is missing is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    regions: tuple[Region, ...] = ()
    drag: Drag | None = None
    methods: dict[str, Annotated[Number, Field(ge=0, le=100)]] = {}
    seeds: tuple[Annotated[Whole, Field(ge=0, lt=2**32)], ...] = (0,)
    steps: Annotated[Whole, Field(ge=1, le=1000)] = 20
    cfg_scale: Annotated[Number, Field(ge=0, le=100)] = 5.0
    backbone: str = "mini-sd"

    @field_validator("prompt")
    @classmethod
    def _says_something(cls, prompt):
        return Prompt(text=prompt).text

    @field_validator("seeds")
    @classmethod
    def _few(cls, seeds):
        if not 1 <= len(seeds) <= MOST_SEEDS:
            raise ValueError(f"there are {len(seeds)} seeds: give 1 to {MOST_SEEDS}")
        return seeds

    @model_validator(mode="after")
    def _check(self):
        if self.regions:
            Layout(prompt=self.prompt, regions=self.regions)
        if self.drag is not None and self.drag.prompt != self.prompt:
            raise ValueError(f"the drag is of {self.drag.prompt!r}, the prompt says {self.prompt!r}: make them equal")
        for name, given in self.needs().items():
            if given == "layouts" and not self.regions:
                raise ValueError(f"{name} needs a box: draw one for a phrase of the prompt, or leave the method out")
            if given == "drags" and self.drag is None:
                raise ValueError(f"{name} needs a drag: draw an arrow on a picture, or leave the method out")
        return self

    def needs(self) -> dict[str, str | None]:
        """method -> what it takes: "layouts", "drags" or nothing but the prompt. ValueError for an unknown one."""
        own = {name: {one.name for one in fields(method(name))} for name in self.methods}
        return {name: next((need for need in ("drags", "layouts") if need in has), None) for name, has in own.items()}

    @property
    def layout(self) -> Layout | None:
        return Layout(prompt=self.prompt, regions=self.regions) if self.regions else None

    def settings(self, name: str) -> dict[str, Any]:
        """What of a method differs from its defaults: its strength rule, or its scale, times what is asked for."""
        own, times = {one.name: one.default for one in fields(method(name))}, self.methods[name]
        if times == 1:
            return {}
        if "strength" in own:
            return {"strength": replace(own["strength"], scale=own["strength"].scale * times)}
        scale = "scale" if "scale" in own else "cfg_scale"
        return {scale: own[scale] * times}

    def cfg(self) -> bool:
        """Is there classifier-free guidance beside the methods? Not where one combines the predictions itself, nor
        where a source is drawn again from its inverted noise, which was found without."""
        return not any(method(name).decides or need == "drags" for name, need in self.needs().items())

    def guidance(self) -> list[Guidance]:
        given = {"layouts": self.layout, "drags": self.drag}
        made = []
        for name, need in self.needs().items():
            made.append(method(name)(**({need: given[need]} if need else {}), **self.settings(name)))
        return [CFG(self.cfg_scale), *made] if self.cfg() else made

    def baseline(self) -> list[Guidance]:
        """What the same noise is drawn with without the methods."""
        return [CFG(self.cfg_scale)]

    def code(self) -> str:
        """A cell that draws the same pictures, as it stands."""
        imports = {"helpers.backbones.load": {"load_backbone"}, "helpers.sampling.loop": {"sample"}}
        lines, calls = [], []
        if self.regions:
            imports["helpers.conditions"] = {"Layout", "Region"}
            regions = [f"    Region({_arguments(region)})," for region in self.regions]
            lines += [f"layout = Layout(prompt={self.prompt!r}, regions=[", *regions, "])"]
        if self.drag is not None:
            imports.setdefault("helpers.conditions", set()).add("Drag")
            lines.append(f"drag = Drag.model_validate_json({self.drag.model_dump_json(exclude_none=True)!r})")
        if self.cfg():
            imports["helpers.guidance.cfg"] = {"CFG"}
            calls.append(f"CFG({self.cfg_scale})")
        for name, need in self.needs().items():
            kind, settings = method(name), self.settings(name)
            imports[kind.__module__] = {kind.__name__}
            if "strength" in settings:
                imports.setdefault("helpers.sampling.strength", set()).add(type(settings["strength"]).__name__)
            stated = ([f"{need}={need.removesuffix('s')}"] if need else []) + [
                f"{k}={v!r}" for k, v in settings.items()
            ]
            calls.append(f"{kind.__name__}({', '.join(stated)})")
        drawn = f"steps={self.steps}, seeds={list(self.seeds)}"
        lines += [
            f"guidance = [{', '.join(calls)}]",
            f"prompts = [{self.prompt!r}] * {len(self.seeds)}",
            f"run = sample(load_backbone({self.backbone!r}), prompts, guidance, {drawn})",
            "plt.imshow(torch.cat(list(run.images), 2).permute(1, 2, 0))",
        ]
        heads = [f"from {place} import {', '.join(sorted(names))}" for place, names in sorted(imports.items())]
        return "\n".join(["import matplotlib.pyplot as plt", "import torch", "", *heads, "", *lines]) + "\n"


def _arguments(region: Region) -> str:
    stated: Mapping[str, Any] = region.model_dump(exclude_none=True)
    return ", ".join(f"{key}={value!r}" for key, value in stated.items())
