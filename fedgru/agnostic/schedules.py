"""Schedules: how alpha rises during training.

The paper says that alpha must be increased slowly, but gives no schedule. Each schedule here maps
the progress of training, 0 to 1, to a share of the final alpha.
"""

import math
from collections.abc import Callable

from fedgru.core.errors import ConfigError

WARM_UP = 0.3  # "warm-up" keeps alpha at 0 for this share of training, then raises it linearly
GANIN_RATE = 10.0


def _ganin(progress: float) -> float:
    """2 / (1 + exp(-10 p)) - 1. Source: Ganin et al. 2016 (arXiv:1505.07818), section 5.2.2."""
    return 2.0 / (1.0 + math.exp(-GANIN_RATE * progress)) - 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: progress,
    "ganin": _ganin,
    "warm-up": lambda progress: max(0.0, (progress - WARM_UP) / (1.0 - WARM_UP)),
}


def share_at(schedule: str, progress: float) -> float:
    """Return the share of the final alpha, or of the final lambda, at a point of training.

    Args:
        schedule: a key of SCHEDULES.
        progress: 0 at the first step or round, 1 at the last.

    Raises:
        ConfigError: if progress lies outside 0 to 1.

    >>> [round(share_at("ganin", p), 3) for p in (0.0, 0.1, 0.5, 1.0)]
    [0.0, 0.462, 0.987, 1.0]
    """
    if not 0 <= progress <= 1:
        raise ConfigError(f"progress is {progress}, expected 0 to 1.")
    return SCHEDULES[schedule](progress)
