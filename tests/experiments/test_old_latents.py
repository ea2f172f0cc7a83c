"""The experiments' cases draw what they drew before methods, sampling and parameters got the shape that they have.

old_latents.npz: latents of two test cases, 6 steps, each drawn alone, by the code as it was then. Without a gradient:
the guides' gradients amplify the rounding of another processor's kernels until it is another picture.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.benchmarks.miniature import load_captioned
from helpers.benchmarks.miniature_drags import load_drags
from helpers.experiments import dma, layout
from helpers.params import load
from helpers.sampling.loop import sample

OLD = np.load(Path(__file__).with_name("old_latents.npz"))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums of several threads round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def guided(block, name):
    """Scenes of a test split, and what the case `name` guides them with."""
    if block == "dma":
        params, scenes = load(dma.Experiment, "smoke"), load_drags("test")[2:4]
        return scenes, dma.guidance_of(params, params.case(name), scenes, dma.load_nets(params))
    params, scenes = load(layout.Experiment, "smoke"), load_captioned("test")[2:4]
    return scenes, layout.guidance_of(params, params.case(name), scenes, None) if name else []


@pytest.mark.parametrize("name", OLD.files)
def test_a_case_draws_what_it_drew(mini, name):
    block, _, case = name.partition("/")
    scenes, methods = guided(block, case)
    prompts, seeds = [scene.prompt for scene in scenes], [scene.seed for scene in scenes]
    drawn = sample(mini, prompts, methods, steps=6, seeds=seeds, batch=1).latents
    np.testing.assert_allclose(drawn, OLD[name], rtol=0, atol=1e-3)  # of other kernels: 1.3e-4
