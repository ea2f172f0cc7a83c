"""Traces of attention by hand."""

import numpy as np

from helpers.conditions import Layout, Region
from helpers.figures.attention import cells
from helpers.sampling.trace import Record, Trace

STEPS = 10
LAYOUT = Layout(
    prompt="a red car and a blue fish",
    regions=[Region(phrase="red car", box=(0, 0, 0.5, 0.5)), Region(phrase="blue fish", box=(0.5, 0.25, 1, 1))],
)
ONE = Layout(prompt="a red ball", regions=[Region(phrase="red ball", box=(0.25, 0.25, 0.75, 0.75))])
LAYERS = {"down": 8, "mid": 2, "up": 4, "last": 8}  # name -> side
SIGMAS = np.linspace(0.98, 0.1, STEPS)


ILGD_SETTINGS = {
    "weight": 0.32,
    "window": {"start": 0.1, "stop": 0.5},
    "strength": {"rule": "exploding", "scale": 1.0, "clip": None},
    "injection": 0.75,
    "injection_window": {"start": 0.1, "stop": 0.3},
}
SETTINGS = {
    "none": {},
    "ilgd": {"ilgd": ILGD_SETTINGS},
    "injection": {"ilgd": ILGD_SETTINGS | {"weight": 0.0}},
    "loss": {"ilgd": ILGD_SETTINGS | {"injection": 0.0}},
    "both": {"ilgd": ILGD_SETTINGS, "dga": {"weight": 25.0, "window": {"start": 0.0, "stop": 0.7}}},
    "directed": {"directed": {"window": {"start": 0.0, "stop": 0.2}}},
}


def record(layout, level, within, prompt_seed=0) -> Record:
    """Every layer attends with `level` on average; `within` (S,): the share of it that lies inside the places."""
    maps = {}
    for name, side in LAYERS.items():
        shares = cells(layout, side, side)[None]
        area = shares.mean((2, 3), keepdims=True)
        share = np.asarray(within)[:, None, None, None]
        spread = share * shares / area + (1 - share) * (1 - shares) / (1 - area)
        maps[f"attention.{name}"] = (level * spread * (1 + (name == "last"))).astype(np.float16)
    frames = np.full((STEPS, 64, 64, 3), np.arange(STEPS)[:, None, None, None] * 20 + 40, np.uint8)
    return Record(0, layout.prompt, prompt_seed, layout, None, frames, frames[-1], maps)


def trace(case, *records) -> Trace:
    """The records with the curves of the case's methods."""
    made = Trace(range(len(records)))
    made.records, made.timesteps, made.sigmas = list(records), list(range(999, -1, -100))[:STEPS], [*SIGMAS]
    made.settings = {"cfg": {"window": {"start": 0.0, "stop": 1.0}}, **SETTINGS[case], "attention": {}, "steps": STEPS}
    for entry in records:
        entry.curves = {"grad_rms": np.ones(STEPS)}
        entry.curves |= {name: np.linspace(1, 0, STEPS) for name in SETTINGS[case] if name != "directed"}
    return made


EARLY = [0.1, 0.9, 0.9, 0.5, 0.5, 0.4, 0.4, 0.3, 0.3, 0.3]
