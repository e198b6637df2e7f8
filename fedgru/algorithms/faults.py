"""Clients that drop out or send unusable updates; rules for which updates are used.

An update is rejected before it enters the mean if it is:

* not finite: its loss or any weight is NaN or infinite;
* wrong shape: an array is missing or has another shape than the weights, or a row id is out of
  range;
* no examples: its number of examples is not above 0;
* too large: its norm is more than 100 times the norm of the weights that the client received.

Real clients (`fedgru deploy`) can also drop out, report that they failed, or claim what cannot be.
Rejected and missing updates are counted and logged. Malicious updates
(fedgru/algorithms/attacks.py) that pass these rules are the task of the robust means.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fedgru.algorithms.fed_avg import ClientUpdate
from fedgru.config.settings import Settings
from fedgru.core import seeding
from fedgru.core.types import Floats, Ints, Weights

DROPPED_OUT, FAILED = "dropped out", "failed"
TOO_LATE, WENT_OFF = "too late", "went off"  # in simulated time
NOT_FINITE, WRONG_SHAPE, NO_EXAMPLES = "not finite", "wrong shape", "no examples"
TOO_LARGE = "too large"
FALSE_CLAIM = "false claim"  # of a real client, see fedgru/deploy/claims.py
REJECTED = (NOT_FINITE, WRONG_SHAPE, NO_EXAMPLES, TOO_LARGE)
MAX_NORM_RATIO = 100.0


class _HasSettings(Protocol):
    @property
    def settings(self) -> Settings: ...


def problem(update: ClientUpdate, weights: Weights) -> str | None:
    """Return why an update cannot be used, one of REJECTED, or None if it can.

    Args:
        update: ClientUpdate.
        weights: name -> float32 array, the weights that the client received.
    """
    table = weights["rows"]
    expected = {name: w.shape for name, w in weights.items() if name != "rows"}
    found = {name: np.shape(w) for name, w in update.dense.items()}
    ids = np.asarray(update.row_ids)
    rows_fit = update.row_update.shape == (len(ids), table.shape[1])
    ids_fit = not len(ids) or (ids.min() >= 0 and ids.max() < len(table))
    if found != expected or not rows_fit or not ids_fit or len(np.unique(ids)) < len(ids):
        return WRONG_SHAPE
    arrays: list[Floats] = [update.row_update, *update.dense.values()]
    if update.extra is not None:
        expected_extra = expected | {"rows": update.row_update.shape}
        if {name: np.shape(array) for name, array in update.extra.items()} != expected_extra:
            return WRONG_SHAPE
        if not all(np.isfinite(array).all() for array in update.extra.values()):
            return NOT_FINITE
    dense = [w for name, w in weights.items() if name != "rows"]
    small = np.isfinite(update.loss_sum) and _is_clearly_small(arrays, dense)
    finite = small or (np.isfinite(update.loss_sum) and all(np.isfinite(a).all() for a in arrays))
    if not finite:
        return NOT_FINITE
    if update.num_examples <= 0:
        return NO_EXAMPLES
    if small or _norm(arrays) <= MAX_NORM_RATIO * _norm([table[ids], *dense]):
        return None
    return TOO_LARGE


def _is_clearly_small(
    arrays: Sequence[npt.NDArray[Any]], received: Sequence[npt.NDArray[Any]]
) -> bool:
    """Return True if `arrays` are finite and far below the limit that `received` sets.

    It sums in float32, in a fifth of the time of `_norm`. The exact rules decide about arrays near
    the limit, not finite, or too large for a float32 square. It uses half of the limit, because of
    rounding.
    """
    size = sum(_rough_square(a) for a in arrays)
    limit = (0.5 * MAX_NORM_RATIO) ** 2
    so_far = 0.0
    for array in sorted(received, key=np.size):
        so_far += _rough_square(array)
        if size <= limit * so_far < np.inf:  # False for NaN
            return True
    return False


def _rough_square(array: npt.NDArray[Any]) -> float:
    flat = np.ravel(array)
    return float(np.einsum("i,i->", flat, flat))


def _norm(arrays: Sequence[npt.NDArray[Any]]) -> float:
    return float(np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in arrays)))


def drop_out(task: _HasSettings, cohort: Ints, round_num: int) -> tuple[Ints, list[int]]:
    """Return the clients of a cohort that answer in a round, and those that drop out.

    Each client drops out with probability `client_dropout`, drawn from seed, round and client.
    """
    share, seed = task.settings.faults.client_dropout, task.settings.loop.seed
    if not share:
        return cohort, []
    gone = np.array(
        [seeding.rng(seed, "client dropout", round_num, int(c)).random() < share for c in cohort],
        bool,
    )
    return cohort[~gone], [int(client) for client in cohort[gone]]
