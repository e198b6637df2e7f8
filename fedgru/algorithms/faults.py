"""Clients that drop out, send what cannot be used, or lie; and the rules for what is kept.

Rules, for every update before it enters the mean:

* not finite: its loss or any weight is NaN or infinite;
* wrong shape: an array is missing or shaped unlike the weights, or a row id is out of range;
* no examples: it claims to have trained on none;
* too large: its norm is more than 100 times that of the weights it was trained from.

Of clients that are real (`fedgru deploy`) one may also have dropped out, or say that it failed.
Each is kept out, counted and told. A liar whose updates pass is for the robust means
(fedgru/algorithms/robust.py).
"""

from dataclasses import replace

import numpy as np

from fedgru.core import seeding

DROPPED_OUT, FAILED = "dropped out", "failed"
NOT_FINITE, WRONG_SHAPE, NO_EXAMPLES = "not finite", "wrong shape", "no examples"
TOO_LARGE = "too large"
REJECTED = (NOT_FINITE, WRONG_SHAPE, NO_EXAMPLES, TOO_LARGE)
MAX_NORM_RATIO = 100.0
DEFAULT_SCALE = 10.0


def problem(update, weights):
    """Return why an update cannot be used, one of REJECTED, or None.

    Args:
        update: ClientUpdate.
        weights: name -> float32 array, what the client received.
    """
    table = weights["rows"]
    expected = {name: w.shape for name, w in weights.items() if name != "rows"}
    found = {name: np.shape(w) for name, w in update.dense.items()}
    ids = np.asarray(update.row_ids)
    rows_fit = update.row_update.shape == (len(ids), table.shape[1])
    ids_fit = not len(ids) or (ids.min() >= 0 and ids.max() < len(table))
    if found != expected or not rows_fit or not ids_fit or len(np.unique(ids)) < len(ids):
        return WRONG_SHAPE
    arrays = [update.row_update, *update.dense.values()]
    dense = [w for name, w in weights.items() if name != "rows"]
    small = np.isfinite(update.loss_sum) and _is_clearly_small(arrays, dense)
    if not small and not all(np.isfinite(a).all() for a in [update.loss_sum, *arrays]):
        return NOT_FINITE
    if update.num_examples <= 0:
        return NO_EXAMPLES
    if small or _norm(arrays) <= MAX_NORM_RATIO * _norm([table[ids], *dense]):
        return None
    return TOO_LARGE


def _is_clearly_small(arrays, received):
    """Return True where all of `arrays` is finite and far below the limit by `received` alone.

    Sums in float32, a fifth of the time of `_norm`; what is near the limit, not finite or too
    large for a float32's square is left to the exact rules. Half of the limit leaves room for
    the rounding of the sums.
    """
    size = sum(_rough_square(a) for a in arrays)
    limit = (0.5 * MAX_NORM_RATIO) ** 2
    so_far = 0.0
    for array in sorted(received, key=np.size):
        so_far += _rough_square(array)
        if size <= limit * so_far < np.inf:  # NaN is not below anything
            return True
    return False


def _rough_square(array):
    flat = np.ravel(array)
    return float(np.einsum("i,i->", flat, flat))


def _norm(arrays):
    return float(np.sqrt(sum(np.square(a, dtype=np.float64).sum() for a in arrays)))


def drop_out(task, cohort, round_num):
    """Return the clients of a cohort that answer in a round, and those that drop out.

    Each client is drawn by itself, by seed, round and client, with --client-dropout.
    """
    share, seed = task.settings.faults.client_dropout, task.settings.loop.seed
    if not share:
        return cohort, []
    gone = np.array(
        [seeding.rng(seed, "client dropout", round_num, int(c)).random() < share for c in cohort],
        bool,
    )
    return cohort[~gone], [int(client) for client in cohort[gone]]


def draw_attackers(settings, training_clients):
    """Return the set of clients that lie, drawn by the seed; empty without --attack."""
    if settings.faults.attack == "none":
        return frozenset()
    draw = seeding.rng(settings.loop.seed, "attackers")
    return frozenset(draw.choice(training_clients, settings.faults.attackers, False).tolist())


def tamper(task, update, round_num):
    """Return the update as its client sends it: a liar's flipped or replaced by noise.

    sign-flip: minus the update, times the scale. noise: normal, of the scale times the update's
    root mean square in each array. label-flip changes the training data instead
    (`flip_labels`), and nothing here.
    """
    attack = task.settings.faults.attack
    if update.client not in task.attackers or attack == "label-flip":
        return update
    scale = np.float32(task.settings.faults.attack_scale or DEFAULT_SCALE)
    draw = seeding.rng(task.settings.loop.seed, "attack noise", round_num, update.client)

    def change(array):
        if attack == "sign-flip":
            return -scale * array
        size = np.sqrt(np.mean(np.square(array))) if array.size else np.float32(0)
        return (scale * size * draw.standard_normal(array.shape)).astype(np.float32)

    return replace(
        update,
        dense={name: change(array) for name, array in update.dense.items()},
        row_update=change(update.row_update),
    )


def flip_labels(targets, num_classes):
    """Return targets with the classes in reverse order; -1 (none) stays.

    >>> flip_labels(np.array([0, 1, 2, -1]), 3)
    array([ 2,  1,  0, -1])
    """
    return np.where(targets >= 0, num_classes - 1 - targets, targets)
