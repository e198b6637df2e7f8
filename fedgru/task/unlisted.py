"""Classes for what is not on the list: a client's own venues that no train split has.

A model's classes are the target's values seen in train. A person goes on to find new venues, and
returns to them; its own past says when. So a model whose head scores what a client has been to has
`NUM_UNLISTED` further classes, the same number for all clients. For each client, the k-th of them
stands for the k-th different value that it checks in at and that is not on the list. Which one that
is stays with the client.
"""

import numpy as np

from fedgru.config import Settings
from fedgru.core.types import AnyInts, Int32s, Ints

NUM_UNLISTED = 128


def num_unlisted(settings: Settings) -> int:
    """Return how many classes a run has beside those on its list."""
    scores_own_past = settings.model.head == "candidates"
    return NUM_UNLISTED if scores_own_past and settings.inputs.target == "venue" else 0


def number_unlisted(
    classes: AnyInts, codes: AnyInts, starts: Ints, num_listed: int, number: int
) -> tuple[Int32s, Int32s]:
    """Give the values that are not on the list their classes.

    Args:
        classes: int [n], of each check-in, client after client in order of time; -1 unlisted.
        codes: int [n], equal for equal values; -1 missing.
        starts: int64 [num_clients + 1], where each client's check-ins begin.
        num_listed: int, how many classes are on the list.
        number: int, how many classes there are beside them. Whatever is beyond stays -1.

    Returns:
        (as_targets, as_past), int32 [n] each, the class of each check-in. A first visit to an
        unlisted value can be counted from then on, but nobody could have predicted it: as a target
        it stays -1.

    >>> codes = np.array([7, 9, 8, 9, 9, -1])  # of two clients; code 7 has class 0
    >>> number_unlisted(np.array([0, -1, -1, -1, -1, -1]), codes, np.array([0, 4, 6]), 1, 2)
    (array([ 0, -1, -1,  1, -1, -1], dtype=int32), array([ 0,  1,  2,  1,  1, -1], dtype=int32))
    """
    as_past = np.array(classes, np.int32)
    as_targets = as_past.copy()
    at = np.flatnonzero((as_past < 0) & (codes >= 0))
    if not number or not len(at):
        return as_targets, as_past
    client = np.searchsorted(starts, at, side="right") - 1
    keys = client.astype(np.int64) * (int(codes.max()) + 1) + codes[at]
    _, first, value = np.unique(keys, return_index=True, return_inverse=True)
    # first visits in order, and each one's number among those of its client
    order = np.argsort(first)
    clients = client[first[order]]
    of_client = np.arange(len(order)) - np.searchsorted(clients, clients)
    slots = np.empty(len(order), np.int64)
    slots[order] = of_client
    found = np.where(slots < number, num_listed + slots, -1)[value]
    as_past[at] = found
    again = np.ones(len(at), bool)
    again[first] = False
    as_targets[at[again]] = found[again]
    return as_targets, as_past
