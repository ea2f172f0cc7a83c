"""Traces of drags by hand."""

import numpy as np

from helpers.conditions import Drag, Move, encode_image
from helpers.sampling.trace import Record, Trace

STEPS = 5
WAY = np.array([24.0, 10.0])  # pixels, of length 26
BOX = (slice(20, 36), slice(8, 24))  # rows and columns of the object
GUIDED = {"none": 0.0, "full": 0.6, "displacement": 0.6}


def picture(dx=0, dy=0, side=64):
    image = np.full((side, side, 3), 240, np.uint8)
    image[20 + dy : 36 + dy, 8 + dx : 24 + dx] = (180, 30, 60)
    return image


def drag(way=WAY, side=64, prompt="a red ball"):
    handle = np.array([15.5, 27.5])
    move = Move(handle=tuple(handle / 64), target=tuple((handle + way) / 64))
    return Drag(
        prompt=prompt,
        source=encode_image(np.kron(picture(), np.ones((side // 64,) * 2 + (1,), np.uint8))),
        moves=[move],
    )


def record(arrived, asked, wrong=0.5, seed=0):
    """An object that has gone the share `arrived` (S,) of the way that the drag asks for; its maps are 64 x 64."""
    on = np.zeros((64, 64), bool)
    on[BOX] = True
    handles, targets = asked.points()
    way = (targets - handles)[0].numpy()
    reference = np.broadcast_to(on * way[:, None, None], (STEPS, 2, 64, 64))
    share = np.asarray(arrived)[:, None, None]
    frames = [picture(*(s * way * 64 / asked.size[0]).round().astype(int)) for s in arrived]
    maps = {
        "dma.flow": (reference * share[:, None]).astype(np.float16),
        "dma.reference": reference.astype(np.float16),
        "dma.mask": np.broadcast_to(on * np.uint8(255), (STEPS, 64, 64)),
        "dma.error": (255 * wrong * abs(1 - share) * on).round().astype(np.uint8),
    }
    curves = {f"dma.{name}": 0.1 * (1 - np.asarray(arrived)) for name in ("displacement", "appearance", "semantic")}
    return Record(0, asked.prompt, seed, None, asked, np.stack(frames), frames[-1], maps, curves)


def trace(stop, *records):
    made = Trace(range(len(records)))
    made.records, made.timesteps, made.sigmas = list(records), [999, 799, 599, 399, 199], [1.0, 0.9, 0.7, 0.4, 0.2]
    made.settings = {"dma": {"window": {"start": 0.0, "stop": stop}}, "steps": STEPS}
    return made


ARRIVED = {
    "none": [0.05, 0.1, 0.06, 0.03, 0.01],
    "full": [0.2, 0.5, 0.8, 0.9, 1],
    "displacement": [0.3, 0.6, 0.9, 1, 1.1],
}
