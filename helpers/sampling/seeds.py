"""Seeds of pictures, and further random numbers that are no other picture's noise."""

import operator
from collections.abc import Sequence

import numpy as np
import torch

LARGEST = 2**32 - 1  # torch's CPU generator reads 32 bits: beyond, two seeds would draw one picture


def checked(seeds: Sequence[int]) -> list[int]:
    """Whole numbers from 0 to 2^32 - 1; ValueError for any other."""
    found = []
    for seed in seeds:
        try:
            number = -1 if isinstance(seed, bool) else operator.index(seed)
        except TypeError:
            number = -1
        if not 0 <= number <= LARGEST:
            raise ValueError(f"the seed {seed!r} must be a whole number from 0 to {LARGEST}")
        found.append(number)
    return found


def derived(seed: int, *tags: int) -> int:
    """Another seed for the same picture, such as that of its second try: `numpy.random.SeedSequence` mixes the bits."""
    return int(np.random.SeedSequence([seed, *tags]).generate_state(1)[0])


def generator(seed: int, *tags: int) -> np.random.Generator:
    """Random numbers beside a picture's noise, of another family than torch's, so that they are no picture's x_T."""
    return np.random.default_rng(np.random.SeedSequence([seed, *tags]))


def noise(generators: Sequence[torch.Generator], shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """(B, *shape) standard normal, from one CPU generator per picture, on the device and of the dtype of `like`."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(like)
