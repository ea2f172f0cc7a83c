"""Do the gradients of several methods pull the same way? Their cosines are curves of a run."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from single_steps import context

from helpers.guidance.cfg import CFG
from helpers.sampling.gradient import gradient_update
from helpers.sampling.hooks import EnergyGuidance, Window
from helpers.sampling.loop import sample
from helpers.sampling.strength import Raw, Unit
from helpers.sampling.trace import Trace

PROMPTS = ["a red car", "a blue fish on the grass"]
STEPS = 5
LEFT, RIGHT = slice(0, 40), slice(24, 64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pull(EnergyGuidance):
    """Pulls some columns of the picture towards white, or (sign -1) black; keeps the gradient of every step."""

    called: str
    columns: slice
    sign: float = 1.0
    weight: float = 30.0
    grads: list[torch.Tensor] = field(default_factory=list)

    @property
    def name(self):
        return self.called

    def energy(self, ctx, state):
        loss = self.sign * (1 - ctx.image[..., self.columns]).flatten(1).mean(1)
        self.grads.append(torch.autograd.grad(loss.sum(), ctx.x_t, retain_graph=True)[0])
        return loss, {}


def pull(called, columns=slice(None), strength=Raw(), **settings):  # noqa: B008
    return Pull(called=called, columns=columns, strength=strength, **settings)


def draw(tiny, *pulls, **options):
    return sample(tiny, PROMPTS, [CFG(3), *pulls], steps=STEPS, **options)


def by_hand(one, other):
    """(n, steps): the cosine of two lists of gradients (n, 4, h, w)."""
    pairs = [(a.flatten(1).double(), b.flatten(1).double()) for a, b in zip(one, other, strict=True)]
    return torch.stack([(a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)) for a, b in pairs], 1).float()


@pytest.mark.parametrize("rule", [Unit(0.2), Raw(0.5)], ids=["other rules", "equal rules"])
def test_methods_tell_the_cosine_of_their_gradients(tiny, rule):
    left, right, trace = pull("left", LEFT, rule), pull("right", RIGHT, Raw(0.5)), Trace([1])
    run = draw(tiny, left, right, trace=trace)
    curve = run.curves["cosine.left.right"]
    assert curve.shape == (2, STEPS) and curve.abs().max() <= 1
    torch.testing.assert_close(curve, by_hand(left.grads, right.grads), atol=1e-5, rtol=0)
    assert curve.abs().max() < 0.99, "they pull at other columns"
    assert run.cost.backwards == 2 * 2 * STEPS and [k for k in run.curves if "cosine" in k] == ["cosine.left.right"]
    np.testing.assert_array_equal(trace.records[0].curves["cosine.left.right"], curve[1].numpy())


def test_the_update_is_the_sum_of_both_rules(tiny):
    left, right = pull("left", LEFT, Unit(0.2)), pull("right", RIGHT, Raw(0.5))
    ctx = context(tiny, PROMPTS, [CFG(3), left, right])
    ctx.losses = {method: method.energy(ctx, None) for method in (left, right)}
    update = gradient_update(ctx)
    parts = [m.strength.update(torch.zeros(2), m.weight * m.grads[0], ctx) for m in (left, right)]
    torch.testing.assert_close(update.eps, sum(parts))
    torch.testing.assert_close(update.cosines["left.right"], by_hand(left.grads, right.grads)[:, 0], atol=1e-5, rtol=0)


def test_equal_losses_pull_the_same_way_and_opposite_ones_apart(tiny):
    run = draw(tiny, pull("one", strength=Unit(0.1)), pull("same", strength=Unit(0.2), weight=7.0))
    torch.testing.assert_close(run.curves["cosine.one.same"], torch.ones(2, STEPS), atol=1e-5, rtol=0)
    run = draw(tiny, pull("one", strength=Unit(0.1)), pull("other", strength=Unit(0.2), sign=-1.0))
    torch.testing.assert_close(run.curves["cosine.one.other"], -torch.ones(2, STEPS), atol=1e-5, rtol=0)


def test_methods_that_share_a_gradient_are_compared_with_others_as_one(tiny):
    shared = Raw(group="columns")
    left, right, whole = pull("left", LEFT, shared), pull("right", RIGHT, shared), pull("all", strength=Unit(0.2))
    run = draw(tiny, left, whole, right)
    both = [a + b for a, b in zip(left.grads, right.grads, strict=True)]
    assert [name for name in run.curves if "cosine" in name] == ["cosine.left+right.all"]
    torch.testing.assert_close(run.curves["cosine.left+right.all"], by_hand(both, whole.grads), atol=1e-5, rtol=0)
    assert run.cost.backwards == 2 * 2 * STEPS


def test_outside_a_window_there_is_no_cosine(tiny):
    short = pull("short", strength=Unit(0.1), window=Window(0, 0.4))
    curve = draw(tiny, short, pull("long", strength=Unit(0.2))).curves["cosine.short.long"]
    assert curve.isfinite().tolist() == [[True, True, False, False, False]] * 2
