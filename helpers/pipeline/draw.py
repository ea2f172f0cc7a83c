"""Benchmark cases drawn with the guidance of a case, batch by batch: what the notebooks of all experiments call."""

from collections.abc import Callable, Iterator, Sequence

import torch
from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from helpers.backbones.backbone import Backbone
from helpers.benchmarks.base import Item
from helpers.params import Params
from helpers.pipeline.samples import Samples
from helpers.sampling.hooks import Guidance
from helpers.sampling.loop import Run, sample
from helpers.sampling.trace import Trace

MOST = 64  # pictures that a GPU draws as one batch, if there is room; more gain nothing
Methods = Callable[[Sequence[Item]], list[Guidance]]  # the guidance of some scenes, in their order


def draw(
    params: Params,
    backbone: Backbone,
    scenes: Sequence[Item],
    methods: Sequence[Guidance],
    trace: Trace | None = None,
    batch: int | None = None,
) -> Run:
    """One image per scene, from the scene's own prompt and seed. batch: None takes the profile's."""
    return sample(
        backbone,
        [scene.prompt for scene in scenes],
        methods,
        steps=params.profile.steps,
        seeds=[scene.seed for scene in scenes],
        batch=batch or params.profile.batch,
        trace=trace,
        progress=False,  # of batches drawn at once in several processes
    )


def draw_benchmark(
    params: Params,
    backbone: Backbone,
    scenes: Sequence[Item],
    methods: Methods,
    showcase: int = 0,
    watching: Methods | None = None,
) -> Samples:
    """Draw the scenes batch by batch; an image's seconds, NFE and peak memory are those of its batch.

    showcase: how many of the first scenes are traced, at most one batch; that batch is drawn with `watching` if given:
    methods that draw the same and show more, such as a guide that never acts beside the baseline. On a CPU every core
    draws batches of its own, with one thread each: convolutions this small hardly gain from more. A GPU draws several
    batches as one where the first has shown that there is room.
    """
    size = params.profile.batch
    gpu = backbone.device.type == "cuda"

    def job(part: Sequence[Item], trace: Trace | None = None, make: Methods = methods):
        return delayed(_draw_batch)(params, backbone, part, make(part), trace)

    def parts() -> Iterator:
        yield job(scenes[:size], Trace(range(showcase)) if showcase else None, watching or methods)
        step = size * _together(size, batches[0].rows[0]["peak_mb"]) if gpu else size
        for first in range(size, len(scenes), step):
            yield job(scenes[first : first + step])

    workers = 1 if gpu else min(torch.get_num_threads(), -(-len(scenes) // size))  # one asks for a part when it is free
    batches: list[Samples] = []
    with parallel_config("loky", inner_max_num_threads=1), tqdm(total=len(scenes), desc="pictures") as bar:
        for done in Parallel(workers, return_as="generator")(parts()):
            batches.append(done)
            bar.update(len(done.rows))
    return Samples(
        torch.cat([batch.images for batch in batches]),
        [row for batch in batches for row in batch.rows],
        [warning for batch in batches for warning in batch.warnings],
        batches[0].trace,
    )


def _together(size: int, peak_mb: float) -> int:
    """How many batches of this size a GPU draws as one: what fits into half of the memory that is free, at most MOST
    pictures."""
    free = torch.cuda.mem_get_info()[0] / 2**20
    return max(1, min(int(free / 2 / peak_mb), MOST // size))


def _draw_batch(params: Params, backbone, scenes: Sequence[Item], methods: list[Guidance], trace: Trace | None):
    run = draw(params, backbone, scenes, methods, trace, len(scenes))
    cost = {"seconds": run.cost.seconds / len(scenes), "nfe": run.cost.nfe, "peak_mb": run.cost.peak_mb}
    rows = [
        {"id": scene.id, "seed": scene.seed, **cost, "eff_cfg": scale}
        for scene, scale in zip(scenes, run.eff_cfg.tolist(), strict=True)
    ]
    return Samples(run.images, rows, run.warnings, trace)
