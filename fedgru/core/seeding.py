"""Random generators for every draw, so that no draw depends on the order of the others."""

import zlib

import numpy as np
import numpy.typing as npt


def rng(seed: int, purpose: str, round_num: int = 0, client: int = 0) -> np.random.Generator:
    """Return the generator for one purpose of one round and one client.

    Args:
        seed: int, the run's seed.
        purpose: what the numbers are for, such as "cohort"; different purposes give
            independent streams.
        round_num: int, 0 outside the round loop.
        client: int, index of the client, 0 where the draw belongs to no client.

    Returns:
        numpy Generator, the same for the same four arguments on every machine.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), round_num, client])


def key_words(
    seed: int, purpose: str, round_num: int = 0, client: int = 0
) -> npt.NDArray[np.uint32]:
    """Return uint32 [2], the words of a JAX random key for the same four arguments."""
    return rng(seed, purpose, round_num, client).integers(0, 2**32, size=2, dtype=np.uint32)
