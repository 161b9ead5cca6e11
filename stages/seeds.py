"""Randomness as a function of what it decides: no generator whose state would have to be kept."""

import hashlib
from random import Random

import numpy as np


def seed_of(*what: object) -> int:
    """A 64-bit seed for what is named, e.g. ("response", study seed, generation step, problem id, sample)."""
    return int.from_bytes(hashlib.blake2b(repr(what).encode(), digest_size=8).digest(), "big")


def uniforms(seed: int, count: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """`count` numbers in [0, 1) of a seed's own stream."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count)


def shuffled(count: int, *what: object) -> list[int]:
    """0 .. count-1 in the order that is named."""
    order = list(range(count))
    Random(seed_of(*what)).shuffle(order)
    return order
