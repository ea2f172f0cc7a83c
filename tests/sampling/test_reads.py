"""Which attention is meant by cells and places."""

import pytest

from helpers.backbones.attention import Layers
from helpers.sampling.reads import Reads


@pytest.mark.parametrize(
    ("size", "cells", "expected"),
    [(64, 16, 16), (64, 8, 8), (64, 9, 8), (64, 512, 16), (48, 16, 12), (48, 4, 3), (96, 16, 12), (96, 22, 24)],
)
def test_the_nearest_resolution_is_read(mini, size, cells, expected):
    """mini-sd has 16, 8 and 4 cells along the side of a 64 px picture."""
    assert Reads((cells,)).on(mini.at(size, size)) == Layers(cells=(expected,))


def test_resolutions_and_places_come_together(mini):
    assert Reads((8, 16), ("mid", "up")).on(mini) == Layers(places=("mid", "up"), cells=(8, 16))
    assert Reads((16,), ("mid",)).on(mini) == Layers(places=("mid",), cells=(4,)), "the mid block has no other"


def test_reads_of_plain_data():
    both = Reads((8, 16), ("up",))
    assert Reads.of(both.settings()) == both and Reads.of([8, 16]) == Reads((8, 16))
    assert Reads.of({"places": ["up"]}) == Reads((16,), ("up",))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"cells": []}, "at least one"),
        ([0], "from 1 to 512"),
        ([16.5], "whole numbers"),
        ([True], "whole numbers"),
        ({"cells": [16], "places": ["top"]}, "some of down, mid, up"),
        ({"cells": [16], "places": []}, "some of down, mid, up"),
        ({"rank": [1]}, "unknown rank: use cells and places"),
    ],
)
def test_what_is_no_reading_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        Reads.of(data)
