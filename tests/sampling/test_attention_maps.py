"""AttentionMaps changes nothing, and the Trace gets what every layer attends to after all edits."""

import copy

import numpy as np
import torch
from single_steps import LAYOUTS, PROMPTS, context

from helpers.backbones.load import wrap
from helpers.guidance.cfg import CFG
from helpers.guidance.ilgd import ILGD
from helpers.sampling.attention_maps import AttentionMaps
from helpers.sampling.hooks import Window
from helpers.sampling.loop import sample
from helpers.sampling.trace import Trace


def test_nothing_is_changed_and_the_trace_gets_maps_of_the_regions(mini):
    trace = Trace([1, 0])
    run = sample(mini, PROMPTS, [CFG(5), AttentionMaps(layouts=LAYOUTS)], steps=3, trace=trace)
    torch.testing.assert_close(run.images, sample(mini, PROMPTS, [CFG(5)], steps=3).images, atol=1e-4, rtol=0)
    assert run.cost.backwards == 0 and run.cost.forwards == 2 * 2 * 3 and not run.warnings
    one, two = trace.records
    names = [name for name in two.maps if name.startswith("attention.")]
    assert len(names) == 10 and "attention.up_blocks.1.attentions.0" in names
    for name in names:
        side = {"0": 16, "1": 8, "2": 4}.get(name.split(".")[2]) if "down" in name else 4
        side = {"0": 4, "1": 8, "2": 16}[name.split(".")[2]] if "up_blocks" in name else side
        assert two.maps[name].shape == (3, 2, side, side) and two.maps[name].dtype == np.float16
        assert one.maps[name].shape == (3, 1, side, side), "the other image has one region only"
        assert (two.maps[name] > 0).any((0, 2, 3)).all() and (two.maps[name] <= 1).all()


def test_maps_are_the_mean_of_the_heads_after_the_edits(tiny):
    def maps(*methods):
        trace = Trace([0])
        sample(tiny, PROMPTS, [CFG(5), AttentionMaps(layouts=LAYOUTS), *methods], steps=2, trace=trace)
        return trace.records[0].maps["attention.down_blocks.1.attentions.0"][0]

    ctx = context(tiny, PROMPTS, [AttentionMaps(layouts=LAYOUTS)], i=0, steps=2)
    first = next(maps for site, maps in ctx.attention.maps.items() if site.place == "down")
    plain = maps()
    np.testing.assert_allclose(plain[0], first[0, ..., 3].detach().mean(0).view(8, 8), atol=1e-3)
    injected = maps(ILGD(layouts=LAYOUTS, weight=0.0, injection=2.0, injection_window=Window()))
    assert (injected[0, 2:6, :4] > plain[0, 2:6, :4]).all(), "the car in its box"
    assert (injected[0, 2:6, 5:] < plain[0, 2:6, 5:]).all(), "and less of it in the fish's"
    np.testing.assert_allclose(injected[0, [0, 1, 6, 7]], plain[0, [0, 1, 6, 7]], atol=1e-3)


def test_without_a_trace_nothing_is_recorded(tiny):
    backbone = wrap(copy.copy(tiny.pipe))
    kinds = set()
    hook = backbone.pipe.unet.register_forward_pre_hook(
        lambda unet, _: kinds.update(type(p).__name__ for p in unet.attn_processors.values())
    )
    sample(backbone, PROMPTS, [CFG(5), AttentionMaps(layouts=LAYOUTS)], steps=2)
    hook.remove()
    assert kinds == {"AttnProcessor2_0"}
