"""Gaussian noise from the system's cryptographic source.

It is drawn in float64 by Box and Muller's formula and not exactly Gaussian: its bits end at 2^-53,
and it never exceeds 8.6 deviations. What is sent is rounded to a grid, see `on_grid`, so that the
last digits of a noised number do not depend on the number below the noise (Mironov 2012). A sampler
that is exact, such as the discrete Gaussian of Canonne et al. 2020 (arXiv:2004.00010), would need
no such care.
"""

import math
import secrets

import numpy as np

from fedgru.core.types import Doubles

GRID = 2**-12  # of the deviation, rounded down to a power of two


class SystemNoise:
    """Draws that nobody can reproduce, with the one method of a numpy Generator that is needed."""

    def standard_normal(self, shape: tuple[int, ...]) -> Doubles:
        """Return float64 [shape], of mean 0 and deviation 1."""
        number = math.prod(shape)
        pairs = (number + 1) // 2
        words = np.frombuffer(secrets.token_bytes(16 * pairs), np.uint64) >> np.uint64(11)
        first, second = ((words + 0.5) * 2**-53).reshape(2, pairs)
        radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
        both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return both[:number].reshape(shape)


def on_grid(values: Doubles, deviation: float) -> Doubles:
    """Return values rounded to multiples of a power of two, about 1/4096 of the noise's deviation.

    >>> on_grid(np.array([0.30001, -1.0]), 1.0) * 4096
    array([ 1229., -4096.])
    """
    step = 2.0 ** math.floor(math.log2(deviation)) * GRID
    return np.rint(values / step) * step
