"""The sources of drags, inverted once for many runs: `python -m helpers.experiments.sources` does so for the benchmark
on which modules are combined; a robustness curve does it for itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from helpers.backbones.backbone import Backbone
from helpers.backbones.load import load_backbone
from helpers.benchmarks.base import DragItem
from helpers.benchmarks.miniature_combined import load_combined
from helpers.files import writing
from helpers.params import Params, load
from helpers.paths import RESULTS
from helpers.sampling.inversion import Trajectory, invert


@dataclass(frozen=True)
class Sources:
    """trajectory: of the sources of the drags with these ids, in their order."""

    trajectory: Trajectory
    ids: tuple[str, ...]

    def of(self, drags: Sequence[DragItem]) -> Trajectory:
        """The trajectories of some of the drags; ValueError when one was not inverted."""
        missing = [drag.id for drag in drags if drag.id not in self.ids]
        if missing:
            raise ValueError(f"the source of drag {missing[0]!r} was not inverted: give invert_sources every drag")
        return self.trajectory.part([self.ids.index(drag.id) for drag in drags])

    def save(self, path: Path) -> None:
        """Write a npz file, all or nothing."""
        arrays = {name: value.cpu().numpy() for name, value in vars(self.trajectory).items()}
        with writing(path, "wb") as file:
            np.savez_compressed(file, ids=np.array(self.ids), **arrays)

    @classmethod
    def load(cls, path: Path) -> "Sources":
        """What `save` wrote; FileNotFoundError says how to make it."""
        if not path.exists():
            raise FileNotFoundError(f"{path} holds no inverted sources: run `dvc repro`")
        with np.load(path) as stored:
            arrays = {name: torch.from_numpy(stored[name]) for name in stored if name != "ids"}
            return cls(Trajectory(**arrays), tuple(stored["ids"].tolist()))


def invert_sources(params: Params, backbone: Backbone, drags: Sequence[DragItem]) -> Sources:
    """Invert the drags' sources for the profile's number of steps."""
    images = torch.stack([drag.drag.image() for drag in drags])
    trajectory = invert(backbone, images, [drag.prompt for drag in drags], params.profile.steps)
    return Sources(trajectory, tuple(drag.id for drag in drags))


def main() -> None:
    params = load()
    drags = [case.drag for case in load_combined("test")[: params.profile.curve]]
    found = invert_sources(params, load_backbone(params.sampling.backbone), drags)
    found.save(RESULTS / "combinations" / "sources.npz")
    print(f"{len(drags)} sources inverted, drawn again at {found.trajectory.psnr.mean():.1f} dB on average")


if __name__ == "__main__":
    main()
