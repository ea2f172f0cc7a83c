"""`make bench`: what sampling costs against what it must do, on this machine, with the trained miniature models.

Unguided: against diffusers' own pipeline, same solver, steps, batch, noise: at most 1.03 times its time, images equal
to 1e-4. Guided (DGA, iLGD): against its floor, the sum of its parts timed alone (denoiser, decoder and guide, forward
and backward, as often as the run does them): at most 1.05 times. Recording all cross attention: at most 1.5 times the
run that records none. Both sides are timed in turns; the fastest round counts.
"""

import time

import pytest
import torch

from helpers.backbones.attention import Edit, Layers
from helpers.backbones.load import load_backbone
from helpers.benchmarks.miniature import load_cases
from helpers.guidance.cfg import CFG
from helpers.guidance.dga import DGA
from helpers.guidance.ilgd import ILGD
from helpers.perception.segmenter import Segmenter
from helpers.sampling.hooks import Guidance, Recurrence
from helpers.sampling.loop import sample
from helpers.sampling.seeds import noise

STEPS, ROUNDS, CFG_SCALE = 25, 8, 5.0


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("mini-sd")


@pytest.fixture(scope="module")
def guide(backbone):
    return Segmenter.load(backbone.guide("segmenter"), backbone.device)


def timed(work, backbone) -> float:
    start = time.perf_counter()
    work()
    if backbone.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turns(backbone, *works) -> list[float]:
    """Fastest of ROUNDS rounds of each, in seconds, after one to warm up."""
    rounds = [[timed(work, backbone) for work in works] for _ in range(ROUNDS + 1)]
    return [min(column) for column in zip(*rounds[1:], strict=True)]


def report(benchmark, title, batch, seconds, reference, name, peak_mb):
    ratio = seconds / reference
    benchmark.extra_info.update(seconds_per_image=seconds / batch, ratio=ratio, peak_mb=peak_mb)
    print(
        f"\n{title}, batch {batch}: {seconds / batch:.3f} s an image, {name} {reference / batch:.3f}, "
        f"ratio {ratio:.3f}, peak {peak_mb:.0f} MiB"
    )
    return ratio


def forward_backward(function, x):
    x = x.clone().requires_grad_()
    y = function(x)
    torch.autograd.grad(y, x, torch.ones_like(y))


@pytest.mark.parametrize("batch", [1, 8])
def test_unguided_against_diffusers(benchmark, backbone, batch):
    prompts = [case.prompt for case in load_cases("dev")[:batch]]
    kept = {}

    def ours():
        kept["run"] = sample(backbone, prompts, [CFG(CFG_SCALE)], steps=STEPS, batch=batch)

    def theirs():
        generators = [torch.Generator().manual_seed(seed) for seed in range(batch)]
        latents = noise(generators, backbone.latent_shape, torch.empty(0, device=backbone.device))
        options = {"num_inference_steps": STEPS, "guidance_scale": CFG_SCALE, "output_type": "pt"}
        kept["images"] = backbone.pipe(prompts, latents=latents, **options).images

    seconds, reference = benchmark.pedantic(in_turns, (backbone, ours, theirs))
    torch.testing.assert_close(kept["run"].images, kept["images"].float().cpu(), atol=1e-4, rtol=0)
    title = "unguided"
    ratio = report(benchmark, title, batch, seconds, reference, "diffusers", kept["run"].cost.peak_mb)
    assert ratio <= 1.03


def against_its_floor(benchmark, backbone, title, prompts, method, texts, guided_step):
    """texts(): encode what a run reads beside the prompts. guided_step(latents, t, text): the parts of a guided step,
    forward and backward, for latents of both branches."""
    batch, kept = len(prompts), {}

    def ours():
        kept["run"] = sample(backbone, prompts, [CFG(CFG_SCALE), method], steps=STEPS, batch=batch)

    ours()
    guided = kept["run"].cost.backwards // batch
    latents = torch.randn(2 * batch, *backbone.latent_shape, device=backbone.device)
    text, t = backbone.encode_text(2 * prompts), torch.tensor(500, device=backbone.device)

    def parts():
        with torch.no_grad():
            backbone.encode_text([*dict.fromkeys(prompts)])
            backbone.encode_text([""])
            texts()
        for _ in range(guided):
            guided_step(latents, t, text)
        with torch.no_grad():
            for _ in range(STEPS - guided):
                backbone.predict(latents, t, text)
            backbone.decode(latents[:batch])

    seconds, floor = benchmark.pedantic(in_turns, (backbone, ours, parts))
    ratio = report(benchmark, title, batch, seconds, floor, "floor", kept["run"].cost.peak_mb)
    assert ratio <= 1.05


@pytest.mark.parametrize("batch", [1, 8])
def test_dga_against_its_floor(benchmark, backbone, guide, batch):
    cases = load_cases("dev")[:batch]
    layouts = [case.layout.boxes_only() for case in cases]
    images = torch.rand(batch, 3, *backbone.image_size, device=backbone.device)
    phrases = [[region.phrase for region in layout.regions] for layout in layouts]
    most = max(map(len, phrases))
    words = torch.stack([guide.embed(p + (most - len(p)) * p[:1]) for p in phrases])

    def texts():
        guide.embed([*dict.fromkeys(p for row in phrases for p in row)])

    def guided_step(latents, t, text):
        forward_backward(lambda x: backbone.predict(x, t, text), latents)
        forward_backward(backbone.decode, latents[:batch])
        forward_backward(lambda x: guide(x, words), images)

    prompts = [case.prompt for case in cases]
    against_its_floor(
        benchmark,
        backbone,
        "DGA",
        prompts,
        DGA(layouts=layouts, segmenter=guide, recurrence=Recurrence()),
        texts,
        guided_step,
    )


class Reader(Guidance):
    """Reads all cross attention and does nothing with it."""

    layers = Layers()


@pytest.mark.parametrize("batch", [1, 8])
def test_recording_attention_against_none(benchmark, backbone, batch):
    prompts = [case.prompt for case in load_cases("dev")[:batch]]
    kept = {}

    def recording():
        kept["run"] = sample(backbone, prompts, [CFG(CFG_SCALE), Reader()], steps=STEPS, batch=batch)

    def plain():
        sample(backbone, prompts, [CFG(CFG_SCALE)], steps=STEPS, batch=batch)

    seconds, reference = benchmark.pedantic(in_turns, (backbone, recording, plain))
    ratio = report(benchmark, "attention recorded", batch, seconds, reference, "plain", kept["run"].cost.peak_mb)
    assert ratio <= 1.5


@pytest.mark.parametrize("batch", [1, 8])
def test_ilgd_against_its_floor(benchmark, backbone, batch):
    """The floor computes the attention openly too, where iLGD does."""
    cases = load_cases("dev")[:batch]
    ilgd = ILGD.paper(layouts=[case.layout.boxes_only() for case in cases])
    unchanged = Edit(Layers(), scores=lambda scores, site: scores)

    def guided_step(latents, t, text):
        with backbone.attention(batch, [Layers()], [unchanged]):
            forward_backward(lambda x: backbone.predict(x, t, text), latents)

    against_its_floor(benchmark, backbone, "iLGD", [case.prompt for case in cases], ilgd, lambda: None, guided_step)
