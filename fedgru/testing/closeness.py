"""When two engines count as equal: how far apart their numbers are, in units of the tolerance."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

RELATIVE = 1e-4  # of the expected value
NEAR_ZERO = 2e-6
METRIC = 1e-5  # of accuracies, and of losses in nats


def gap(found: npt.ArrayLike, expected: npt.ArrayLike) -> float:
    """Return how far two arrays are apart, in units of the allowed difference.

    That is 1e-4 of the expected value, and 2e-6 for what lies near zero. NaN if any number is.

    >>> round(gap([1.0, 2.0], [1.0, 2.0002]), 2)
    0.99
    """
    found, expected = np.asarray(found), np.asarray(expected)
    if not found.size:
        return 0.0
    return float(np.max(np.abs(found - expected) / (RELATIVE * np.abs(expected) + NEAR_ZERO)))


def largest_gap(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """Return the largest `gap` of named arrays; NaN if any of them has a NaN.

    Args:
        found: name -> array.
        expected: the same names and shapes, or more names.
    """
    # Python's own max would lose a NaN
    return float(np.max([gap(array, expected[name]) for name, array in found.items()]))


def first_difference(
    found: Mapping[str, Any], expected: Mapping[str, Any], exactly: bool = False
) -> str | None:
    """Return words for what differs in named arrays, or None.

    Args:
        found, expected: name -> array or number.
        exactly: whether to the byte; else within the tolerance, and whole numbers exactly.
    """
    for name in [*expected, *found]:
        if name not in found or name not in expected:
            return f"{name} is only in one of them"
    for name, right in expected.items():
        a, b = np.asarray(found[name]), np.asarray(right)
        if a.shape != b.shape or a.dtype.kind != b.dtype.kind:
            return f"{name} is {a.dtype} {list(a.shape)}, not {b.dtype} {list(b.shape)}"
        if exactly or a.dtype.kind != "f":
            if a.tobytes() != b.tobytes():
                return f"{name} differs"
        elif not (far := gap(a, b)) < 1:
            return f"{name} differs by {far:.3g} times the tolerance"
    return None


def metric_difference(
    found: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float = METRIC
) -> str | None:
    """Return words for what differs in metrics by name, or None; NaN equals NaN.

    >>> metric_difference({"val/loss/micro": 1.5}, {"val/loss/micro": 1.25})
    'val/loss/micro is 1.5, not 1.25'
    """
    for name, right in expected.items():
        value = found.get(name)
        same = value == right or (value is not None and value != value and right != right)
        if not same and (value is None or right is None or not abs(value - right) <= tolerance):
            return f"{name} is {value}, not {right}"
    return None
