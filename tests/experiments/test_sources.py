"""Sources inverted once: the same trajectories, found by their drags, kept on disk."""

import pytest
import torch

from helpers.benchmarks.miniature_drags import load_drags
from helpers.experiments.sources import Sources, invert_sources
from helpers.params import load
from helpers.sampling.inversion import invert

DRAGS = load_drags("test")[:3]


@pytest.fixture(scope="module")
def sources(mini):
    return invert_sources(load(profile="smoke"), mini, DRAGS)


def test_a_drag_finds_its_own_source(sources, mini):
    alone = invert(mini, DRAGS[1].drag.image()[None], [DRAGS[1].prompt], 6)
    (found,) = sources.of(DRAGS[1:2]).latents.unbind(1)
    torch.testing.assert_close(found, alone.latents[:, 0], atol=1e-4, rtol=0)
    turned = sources.of(DRAGS[::-1])
    assert torch.equal(turned.latents, sources.trajectory.latents.flip(1))
    assert torch.equal(turned.psnr, sources.trajectory.psnr.flip(0)) and turned.steps == 6


def test_a_drag_whose_source_was_not_inverted_is_named(sources):
    stranger = load_drags("test")[5]
    with pytest.raises(ValueError, match=f"the source of drag '{stranger.id}' was not inverted"):
        sources.of([DRAGS[0], stranger])


def test_sources_are_kept(sources, tmp_path):
    path = tmp_path / "results" / "sources.npz"
    sources.save(path)
    again = Sources.load(path)
    assert again.ids == sources.ids and [p.name for p in path.parent.iterdir()] == [path.name]
    for name, value in vars(sources.trajectory).items():
        assert torch.equal(getattr(again.trajectory, name), value), name


def test_sources_that_are_not_there_say_how_to_make_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `dvc repro`"):
        Sources.load(tmp_path / "sources.npz")
