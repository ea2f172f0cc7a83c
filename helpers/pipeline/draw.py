"""Benchmark cases drawn with the guidance of a case, batch by batch: what the notebooks of all experiments call."""

from collections.abc import Callable, Sequence

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

Methods = Callable[[Sequence[Item]], list[Guidance]]  # the guidance of some scenes, in their order


def draw(
    params: Params, backbone: Backbone, scenes: Sequence[Item], methods: Sequence[Guidance], trace: Trace | None = None
) -> Run:
    """One image per scene, from the scene's own prompt and seed."""
    return sample(
        backbone,
        [scene.prompt for scene in scenes],
        methods,
        steps=params.profile.steps,
        seeds=[scene.seed for scene in scenes],
        batch=params.profile.batch,
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
    draws batches of its own, with one thread each: convolutions this small hardly gain from more.
    """
    size = params.profile.batch
    parts = [scenes[first : first + size] for first in range(0, len(scenes), size)]
    workers = min(torch.get_num_threads(), len(parts)) if backbone.device.type == "cpu" else 1
    first = (watching or methods)(parts[0]), Trace(range(showcase)) if showcase else None
    jobs = (
        delayed(_draw_batch)(params, backbone, part, *(first if n == 0 else (methods(part), None)))
        for n, part in enumerate(parts)
    )
    with parallel_config("loky", inner_max_num_threads=1):
        done = Parallel(workers, return_as="generator")(jobs)
        batches = list(tqdm(done, desc="batches", total=len(parts)))
    return Samples(
        torch.cat([batch.images for batch in batches]),
        [row for batch in batches for row in batch.rows],
        [warning for batch in batches for warning in batch.warnings],
        batches[0].trace,
    )


def _draw_batch(params: Params, backbone, scenes: Sequence[Item], methods: list[Guidance], trace: Trace | None):
    run = draw(params, backbone, scenes, methods, trace)
    cost = {"seconds": run.cost.seconds / len(scenes), "nfe": run.cost.nfe, "peak_mb": run.cost.peak_mb}
    rows = [
        {"id": scene.id, "seed": scene.seed, **cost, "eff_cfg": scale}
        for scene, scale in zip(scenes, run.eff_cfg.tolist(), strict=True)
    ]
    return Samples(run.images, rows, run.warnings, trace)
