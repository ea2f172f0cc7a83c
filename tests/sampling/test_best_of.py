"""Best of N: what is drawn again, what is kept, what it cost; and whether the guides' verdict is to be trusted."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from helpers.benchmarks.miniature import load_captioned, load_scenes
from helpers.experiments.best_of import draw_best
from helpers.experiments.dca import ConceptCase, Experiment, load_nets, verifier
from helpers.params import load
from helpers.pipeline.samples import Samples
from helpers.sampling.best_of import best_of, try_seed, worst
from helpers.sampling.trace import Record, Trace

VERDICTS = torch.tensor([[0.5, 3.0, 2.0, 9.0], [7.0, 0.9, 4.0, 5.0], [7.0, 7.0, 1.0, 6.0], [7.0, 7.0, 7.0, 8.0]])


def pictures(rows, k):
    """A picture's value says which it is and which try."""
    return torch.tensor([float(10 * row + k) for row in rows])[:, None, None, None].expand(-1, 3, 2, 2)


def table(images, rows):
    tries = [int(image[0, 0, 0]) - 10 * row for image, row in zip(images, rows, strict=True)]
    return torch.stack([VERDICTS[k, row] for k, row in zip(tries, rows, strict=True)])


def test_refused_pictures_are_drawn_again_until_one_is_accepted():
    asked = []

    def draw(rows, k):
        asked.append((k, list(rows)))
        return pictures(rows, k)

    best = best_of(draw, table, images=4, tries=4)
    assert asked == [(0, [0, 1, 2, 3]), (1, [1, 2, 3]), (2, [2, 3]), (3, [3])]
    assert best.kept.tolist() == [0, 1, 2, 1], "of tries that are all refused the best one is kept"
    assert best.tries.tolist() == [1, 2, 3, 4]
    torch.testing.assert_close(best.verdicts, torch.tensor([0.5, 0.9, 1.0, 5.0]))
    assert best.images[:, 0, 0, 0].tolist() == [0, 11, 22, 31]


def test_one_try_is_the_run_itself():
    best = best_of(pictures, table, images=4, tries=1)
    assert torch.equal(best.images, pictures(range(4), 0)) and best.tries.tolist() == [1] * 4


def test_tries_follow_the_chance_of_success():
    """With a chance p of being accepted, 1 + (1 - p) + ... + (1 - p)^(N - 1) tries; (1 - p)^N are never accepted."""
    n, chance, tries = 20_000, 0.6, 3
    rng = torch.Generator().manual_seed(0)

    def verify(images, rows):
        return 2 - (torch.rand(len(rows), generator=rng) < chance).float()

    best = best_of(lambda rows, k: torch.zeros(len(rows), 3, 1, 1), verify, n, tries)
    assert best.tries.float().mean() == pytest.approx(1 + 0.4 + 0.16, abs=0.02)
    assert (best.verdicts > 1).float().mean() == pytest.approx(0.4**3, abs=0.006)


def test_the_first_try_has_the_pictures_own_seed_and_no_try_another_pictures():
    seeds = [try_seed(seed, k) for seed in range(200) for k in range(5)]
    assert seeds[::5] == list(range(200)) and len(set(seeds)) == 1000
    assert all(0 <= seed < 2**32 for seed in seeds) and try_seed(7, 3) == try_seed(7, 3)


@pytest.mark.parametrize(("images", "tries"), [(0, 1), (3, 0), (3, 1.5), (3, True)])
def test_nothing_to_draw_is_refused(images, tries):
    with pytest.raises(ValueError, match=f"best of {tries} tries of {images} pictures"):
        best_of(pictures, table, images, tries)


@pytest.mark.parametrize("verdicts", [torch.tensor([0.5, float("nan")]), torch.zeros(3)])
def test_a_verdict_is_one_number_per_picture(verdicts):
    with pytest.raises(ValueError, match="for 2 pictures: one number for each"):
        best_of(pictures, lambda images, rows: verdicts, images=2, tries=2)


def test_the_worst_loss_decides_as_a_share_of_what_is_accepted():
    losses = {"presence": torch.tensor([0.1, 0.6]), "relation": torch.tensor([1.2, 0.4])}
    torch.testing.assert_close(worst(losses, {"presence": 0.2, "relation": 0.8}), torch.tensor([1.5, 3.0]))
    torch.testing.assert_close(worst(losses, {"presence": 0.2}), torch.tensor([0.5, 3.0]))
    assert worst(losses, {}).tolist() == [0, 0], "what asks for nothing accepts everything"
    with pytest.raises(ValueError, match="no loss 'colour' to accept: use presence or relation"):
        worst(losses, {"colour": 1.0})


# --- the benchmark ---------------------------------------------------------------------------------------------------

SCENES = load_captioned("test", "long")[:4]


def try_of(seed, scene):
    return next(k for k in range(8) if try_seed(scene.seed, k) == seed)


def drawing(scenes, shown):
    """A run by hand: a picture's value is its scene's number in thousandths, plus its try."""
    number = {scene.id: n for n, scene in enumerate(SCENES)}
    tries = [try_of(scene.seed, SCENES[number[scene.id]]) for scene in scenes]
    values = [10 * number[scene.id] + k for scene, k in zip(scenes, tries, strict=True)]
    images = torch.tensor(values).float()[:, None, None, None].expand(-1, 3, 2, 2)
    rows = [
        {"id": scene.id, "seed": scene.seed, "seconds": 1.0, "nfe": 40.0, "peak_mb": 100.0 + k, "eff_cfg": float(k)}
        for scene, k in zip(scenes, tries, strict=True)
    ]
    trace = Trace(range(shown)) if shown else None
    if trace:
        trace.records = [Record(place, scene.prompt, scene.seed) for place, scene in enumerate(scenes[:shown])]
    return Samples(images, rows, [f"try {tries[0]}"], trace)


def test_a_picture_of_the_benchmark_costs_all_its_tries_and_is_the_kept_one():
    drawn = draw_best(drawing, table, SCENES, tries=4, showcase=3)
    assert drawn.images[:, 0, 0, 0].tolist() == [0, 11, 22, 31]
    assert [row["id"] for row in drawn.rows] == [scene.id for scene in SCENES]
    kept = [try_of(row["seed"], scene) for row, scene in zip(drawn.rows, SCENES, strict=True)]
    assert kept == [0, 1, 2, 1] == [row["eff_cfg"] for row in drawn.rows]
    assert [row["nfe"] for row in drawn.rows] == [40, 80, 120, 160]
    assert [row["peak_mb"] for row in drawn.rows] == [100, 101, 102, 103]
    for row, tries in zip(drawn.rows, (1, 2, 3, 4), strict=True):
        assert tries < row["seconds"] < tries + 0.5, "and the time that verifying took"
    assert [record.index for record in drawn.trace.records] == [0, 1, 2]
    assert [record.seed for record in drawn.trace.records] == [row["seed"] for row in drawn.rows[:3]]
    assert drawn.warnings == ["try 0", "try 1", "try 2", "try 3"]


def test_one_try_of_the_benchmark_is_the_benchmark():
    drawn, plain = draw_best(drawing, table, SCENES, tries=1), drawing(SCENES, 0)
    assert torch.equal(drawn.images, plain.images) and drawn.trace is None
    assert all(abs(row.pop("seconds") - 1) < 0.5 for row in drawn.rows)
    assert drawn.rows == [{key: value for key, value in row.items() if key != "seconds"} for row in plain.rows]


def test_the_guides_accept_what_a_caption_says_and_refuse_what_lacks_an_object():
    """On rendered scenes, for which the truth is known: 40 under their own caption and under that of the next scene
    with as many objects."""
    params = load(Experiment, "smoke")
    arrays, captions = load_scenes()
    chosen = [i for i in range(0, 80) if (arrays["kind"][i] >= 0).sum() > 1][:40]
    images = torch.from_numpy(arrays["images"][chosen]).permute(0, 3, 1, 2).float() / 255
    texts = [captions[i]["long"]["text"] for i in chosen]
    scenes = [SCENES[0].model_copy(update={"prompt": text}) for text in texts]
    case = ConceptCase(images="subset", method="dca", weight=60.0, tries=2, accept={"presence": 0.3})
    verify = verifier(params, case, scenes, load_nets(params))
    own = verify(images, list(range(40)))
    others = verify(images.roll(-3, 0), list(range(40)))
    assert (own <= 1).float().mean() >= 0.9 and (others > 1).float().mean() >= 0.9
    assert np.median(own) < 0.1 < 3 < np.median(others)
    torch.testing.assert_close(verify(images[[5, 2]], [5, 2]), own[[5, 2]], atol=1e-4, rtol=1e-3)


def test_what_is_accepted_is_the_unit_of_the_guides_verdict():
    """Half the limit is twice the verdict; of several losses the worst decides."""
    params = load(Experiment, "smoke")
    arrays, captions = load_scenes()
    chosen = [i for i in range(0, 80) if (arrays["kind"][i] >= 0).sum() > 1][:4]
    images = torch.from_numpy(arrays["images"][chosen]).permute(0, 3, 1, 2).float() / 255
    scenes = [SCENES[0].model_copy(update={"prompt": captions[i]["long"]["text"]}) for i in chosen[1:] + chosen[:1]]
    nets = load_nets(params)

    def verdicts(**accept):
        case = ConceptCase(images="subset", method="dca", weight=60.0, tries=2, accept=accept)
        return verifier(params, case, scenes, nets)(images, [0, 1, 2, 3])

    for loss in ("attribute", "relation", "presence"):
        loose, tight = verdicts(**{loss: 0.3}), verdicts(**{loss: 0.15})
        assert (loose > 0).any(), loss
        torch.testing.assert_close(tight, 2 * loose)
    presence, relation = verdicts(presence=0.3), verdicts(relation=0.8)
    torch.testing.assert_close(verdicts(presence=0.3, relation=0.8), torch.maximum(presence, relation))
    assert not torch.equal(presence, relation)


@pytest.mark.parametrize("stated", [{"tries": 3}, {"accept": {"presence": 0.3}}])
def test_tries_and_what_is_accepted_go_together(stated):
    with pytest.raises(ValidationError, match="state which losses a picture is accepted for and more than one try"):
        ConceptCase(images="subset", **stated)


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValidationError, match="attribute"):
        ConceptCase(images="subset", tries=2, accept={"colour": 0.3})
