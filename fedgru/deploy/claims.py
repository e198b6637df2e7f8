"""What a client says of itself is a claim: how many check-ins it has, how well the model does.

Nobody but the client can check a claim. So claims must fit each other, and what they move is
bounded:

* At the join, all counts must fit the number of check-ins, which is at most MAX_CHECKINS.
* In a round, no count may exceed what the client said at the join, and no sum its range. A client
  whose claim does is put aside by name: its fault is `false claim`.
* A client counts at most CAP times as much as the median client of its round (`cap`); with
  `client_weights` equal all count alike, and no number of examples is sent in a round.
* In validation, a client's mean loss counts at most twice and at least half of the median client's,
  where three or more send one (`bounded`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedgru.core.metrics import RANK_METRICS
from fedgru.deploy.records import MODEL, Scores

if TYPE_CHECKING:
    from fedgru.algorithms.fed_avg import ClientUpdate

MAX_CHECKINS = 10_000_000  # of one person, in 30 years one every two minutes
CAP = 2  # how often the median client counts who counts most
LOSS_FACTOR = 2.0  # between the median client's mean loss and the one that counts most
MAX_LOSS = 1e6  # mean of a client; a model of any use is below 10
_ROUNDING = 1e-6  # relative, of sums over a client's targets


def false_counts(counts: Mapping[str, int], local_epochs: int) -> str | None:
    """Return what is false in the counts of a client that joins, or None.

    Args:
        counts: `checkins`, `examples`, `val` and `test` of its hello.
        local_epochs: of the run; each counts the examples once.
    """
    if counts["checkins"] > MAX_CHECKINS:
        return f"it claims {counts['checkins']:,} check-ins, at most {MAX_CHECKINS:,} are believed"
    if min(counts["val"], counts["test"]) < 0:
        return "it claims fewer than 0 targets"
    targets = counts["examples"] / local_epochs + counts["val"] + counts["test"]
    if targets > counts["checkins"]:
        return f"it claims {targets:,.0f} targets of {counts['checkins']:,} check-ins"
    return None


def false_update(update: ClientUpdate, most_examples: int) -> str | None:
    """Return what is false in the sums of an update, or None.

    Args:
        update: ClientUpdate.
        most_examples: what the client said when it joined; 1 where all count alike.
    """
    if update.num_examples > most_examples:
        return (
            f"claims {update.num_examples:,} examples, and when it joined claimed {most_examples:,}"
        )
    if update.num_examples <= 0 or not np.isfinite(update.loss_sum):
        return None  # an update that cannot be used, see `fedgru.algorithms.faults`
    most = update.num_examples * (1 + _ROUNDING)
    if not 0 <= update.num_correct <= most:
        return f"claims {update.num_correct:g} hits of {update.num_examples:,} examples"
    if not 0 <= update.loss_sum <= MAX_LOSS * update.num_examples:
        return f"claims a loss of {update.loss_sum:g} over {update.num_examples:,} examples"
    return None


def false_scores(scores: Scores, most_targets: int) -> str | None:
    """Return what is false in the scores of a split, or None.

    Args:
        scores: Scores.
        most_targets: of the split, what the client said when it joined.
    """
    if scores.targets > most_targets:
        return f"claims {scores.targets:,} targets, and when it joined claimed {most_targets:,}"
    for predictor, sums in scores.sums.items():
        for name, (total, count) in sums.items():
            highest = 1 + _ROUNDING if name in RANK_METRICS else MAX_LOSS
            if not 0 <= total <= highest * count:
                return f"claims {predictor}/{name} {total:g} of {count:,} targets"
    return None


def cap(counts: Sequence[int]) -> int:
    """Return how much a client counts at most: CAP times the median of all; of one, what it says.

    A single liar among three cannot move the median above what an honest client says.

    >>> cap([100, 150, 1_000_000_000]), cap([100, 150, 260]), cap([7])
    (300, 300, 7)
    """
    if len(counts) < 2:
        return max(counts, default=0)
    return max(int(CAP * np.median(np.asarray(counts, np.float64))), 1)


def weigh(update: ClientUpdate, count: int) -> ClientUpdate:
    """Return a ClientUpdate that counts as so many examples, with the same mean loss and hits."""
    share = count / update.num_examples
    return replace(
        update,
        num_examples=count,
        loss_sum=update.loss_sum * share,
        num_correct=update.num_correct * share,
    )


def bounded(found: dict[int, Scores]) -> tuple[dict[int, Scores], dict[int, str]]:
    """Return scores of which no client's counts for much more than another's, and what was bounded.

    With fewer than three clients there is no median to hold to, and nothing is bounded.

    Args:
        found: client -> Scores of validation.

    Returns:
        (scores, whose): client -> Scores; client -> what was bounded, a text.
    """
    if len(found) < 3:
        return found, {}
    most = cap([one.targets for one in found.values()])
    means = {c: s.sums[MODEL]["loss"] for c, s in found.items() if s.sums[MODEL]["loss"][1]}
    middle = float(np.median([total / count for total, count in means.values()])) if means else 0.0
    scores, whose = {}, {}
    for client, one in found.items():
        words, changed = [], one
        if one.targets > most:
            words.append(f"{one.targets:,} targets count as {most:,}")
            changed = _scaled(one, most / one.targets)
        total, count = changed.sums[MODEL]["loss"]
        lowest, highest = middle / LOSS_FACTOR * count, middle * LOSS_FACTOR * count
        if not lowest <= total <= highest:
            bound = min(max(total, lowest), highest)
            words.append(f"a loss of {total / count:.4g} counts as {bound / count:.4g}")
            model = changed.sums[MODEL] | {"loss": (bound, count)}
            changed = replace(changed, sums=changed.sums | {MODEL: model})
        scores[client] = changed
        if words:
            whose[client] = ", ".join(words)
    return scores, whose


def _scaled(one: Scores, share: float) -> Scores:
    """Scores of the same means over a share of the targets."""

    def scale(total: float, count: int) -> tuple[float, int]:
        fewer = max(round(count * share), min(count, 1))
        return (total * fewer / count if count else total), fewer

    sums = {p: {n: scale(*cell) for n, cell in cells.items()} for p, cells in one.sums.items()}
    return Scores(round(one.targets * share), round(one.unknown_targets * share), sums)
