"""Of N conditions the one with the best recall is kept."""

import pytest
import torch

from helpers.factor_graph.compliance import most_compliant
from helpers.sampling.best_of import try_seed

SEEDS = [5, 6]
RECALL = {5: [0.5, 1.0, 1.0], 6: [0.75, 0.25, 0.5]}


def test_the_first_of_the_best_is_kept_and_all_are_drawn_at_once():
    asked = []

    def draw(rows, seeds):
        asked.append((rows, seeds))
        return torch.arange(len(rows)).float()[:, None, None, None].expand(-1, 3, 2, 2)

    def recall(condition, row):
        k = int(condition[0, 0, 0]) - 3 * row
        return RECALL[SEEDS[row]][k]

    found = most_compliant(draw, recall, SEEDS, 3)
    assert asked == [([0, 0, 0, 1, 1, 1], [try_seed(seed, k) for seed in SEEDS for k in range(3)])]
    assert asked[0][1][0] == 5 and len(set(asked[0][1])) == 6  # the first candidate has the picture's own seed
    assert found.kept.tolist() == [1, 0] and found.recall.tolist() == list(RECALL.values())
    assert found.maps[:, 0, 0, 0].tolist() == [1, 3] and found.maps.shape == (2, 3, 2, 2)


@pytest.mark.parametrize(
    ("seeds", "candidates", "words"),
    [
        ([1], 0, "0 candidates for 1 prompts: draw a whole number, at least one each"),
        ([1], 2.0, "2.0 candidates"),
        ([1], True, "True candidates"),
        ([], 2, "2 candidates for 0 prompts"),
    ],
)
def test_wrong_numbers_are_refused(seeds, candidates, words):
    with pytest.raises(ValueError, match=words):
        most_compliant(lambda rows, seeds: torch.zeros(len(rows), 3, 2, 2), lambda c, row: 0.0, seeds, candidates)


def test_a_draw_that_loses_one_is_told():
    with pytest.raises(ValueError, match="draw made 1 conditions for 2 seeds: one for each is needed"):
        most_compliant(lambda rows, seeds: torch.zeros(1, 3, 2, 2), lambda c, row: 0.0, [1], 2)
