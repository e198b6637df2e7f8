"""Ranking metrics and the loss: per target, then averaged over check-ins and over clients.

Tie rule: a metric's value is its expectation over a random order of the classes scored the same
as the target's. With g classes scored strictly higher than the target's class, e scored the same
(itself included) and G(r) the gain at rank r, it is (G(g + 1) + ... + G(g + e)) / e, whatever
the gain. So a model that gives all classes the same score gets the value of guessing, not 0 or 1.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgru.core.errors import TrainingError
from fedgru.core.types import Bools, Doubles, Ints

CELLS_AT_ONCE = 1 << 22  # scores compared at once: bounds the memory for thousands of classes


@dataclass(frozen=True)
class Metric:
    """A metric's name, its direction, and the gain of each rank.

    Attributes:
        name: as in metric keys `split/name/average`.
        higher_is_better: direction, for early stopping and for choosing the best round.
        gain: float64 ranks (from 1) -> gains; None for the loss, which does not depend on ranks.
    """

    name: str
    higher_is_better: bool
    gain: Callable[[Doubles], npt.NDArray[Any]] | None


METRICS = {
    metric.name: metric
    for metric in (
        Metric("acc@1", True, lambda rank: rank <= 1),
        Metric("acc@5", True, lambda rank: rank <= 5),
        Metric("acc@10", True, lambda rank: rank <= 10),
        Metric("mrr", True, lambda rank: 1 / rank),
        Metric("ndcg", True, lambda rank: 1 / np.log2(1 + rank)),  # no cut-off
        Metric("loss", False, None),
    )
}
_RANK_GAINS = {name: metric.gain for name, metric in METRICS.items() if metric.gain}
RANK_METRICS = tuple(_RANK_GAINS)


@dataclass(frozen=True)
class TargetScores:
    """The value of each target under each metric, and the predicted class.

    Attributes:
        values: metric name -> float64 [num_targets]. An unknown target (class -1) is a miss: 0
            for every rank metric. It has no loss: NaN.
        known: bool [num_targets], False where the target's class is unknown.
        rank: float64 [num_targets], rank of the target's class, from 1; for a tie, the mean of
            the shared ranks. NaN where the class is unknown.
        predicted: int32 [num_targets], the class with the highest score; among equals the
            smallest class.
        prob: float64 [num_targets], the probability of that class; NaN if the scores are not
            probabilities.
    """

    values: dict[str, Doubles]
    known: Bools
    rank: Doubles
    predicted: npt.NDArray[np.int32]
    prob: Doubles

    def __len__(self) -> int:
        return len(self.known)

    def __getitem__(self, chosen: Any) -> "TargetScores":
        """Return the TargetScores of some targets: a bool mask, a slice or indices."""
        values = {name: v[chosen] for name, v in self.values.items()}
        return TargetScores(
            values, *(v[chosen] for v in (self.known, self.rank, self.predicted, self.prob))
        )


def rank_targets(scores: npt.ArrayLike, targets: npt.ArrayLike) -> TargetScores:
    """Score each target by the rank of its class, with the module's tie rule.

    Args:
        scores: float [num_targets, num_classes], higher is better; any scale.
        targets: int [num_targets], class of each target, -1 where it is unknown.

    Returns:
        TargetScores with every metric of METRICS except the loss, and without probabilities.

    Raises:
        TrainingError: if a score is not a number; names the first one.
    """
    scores, targets = np.asarray(scores), np.asarray(targets)
    num_targets, num_classes = scores.shape
    higher, equal = np.zeros((2, num_targets), np.int64)
    predicted = np.zeros(num_targets, np.int32)
    step = max(1, CELLS_AT_ONCE // num_classes)
    for start in range(0, num_targets, step):
        part = slice(start, start + step)
        _check_numbers(scores[part], start)
        own = np.take_along_axis(scores[part], np.maximum(targets[part], 0)[:, None], axis=1)
        higher[part] = np.count_nonzero(scores[part] > own, axis=1)
        equal[part] = np.count_nonzero(scores[part] == own, axis=1)
        predicted[part] = scores[part].argmax(axis=1)
    known = targets >= 0
    ranks = np.arange(1.0, num_classes + 1)
    values = {}
    for name, gain in _RANK_GAINS.items():
        gains = np.concatenate([[0.0], np.cumsum(gain(ranks), dtype=np.float64)])
        values[name] = np.where(known, (gains[higher + equal] - gains[higher]) / equal, 0.0)
    rank = np.where(known, higher + (equal + 1) / 2, np.nan)
    return TargetScores(values, known, rank, predicted, np.full(num_targets, np.nan))


def score_targets(log_probs: npt.ArrayLike, targets: npt.ArrayLike) -> TargetScores:
    """Score each target by the rank and by the predicted probability of its class.

    Args:
        log_probs: float [num_targets, num_classes], natural logarithms of probabilities.
        targets: int [num_targets], class of each target, -1 where it is unknown.

    Returns:
        TargetScores with every metric of METRICS; the loss is -log p(target), in nats.

    Raises:
        TrainingError: if a log-probability is not a number; names the first one.
    """
    log_probs, targets = np.asarray(log_probs), np.asarray(targets)
    ranked = rank_targets(log_probs, targets)
    own = np.take_along_axis(log_probs, np.maximum(targets, 0)[:, None], axis=1)[:, 0]
    loss = np.where(ranked.known, -own.astype(np.float64), np.nan)
    highest = np.take_along_axis(log_probs, ranked.predicted[:, None], axis=1)[:, 0]
    return replace(
        ranked,
        values=ranked.values | {"loss": loss},
        prob=np.exp(highest.astype(np.float64)),
    )


def _check_numbers(scores: npt.NDArray[Any], start: int) -> None:
    if np.isnan(scores.min(initial=0)):  # one pass, no copy
        row, column = np.argwhere(np.isnan(scores))[0]
        raise TrainingError(
            f"the score of class {column} for target {start + row} is not a number (NaN)."
        )


def concatenate(parts: Iterable[TargetScores]) -> TargetScores:
    """Join the TargetScores of several batches of targets, in their order."""
    parts = list(parts)
    values = {name: np.concatenate([p.values[name] for p in parts]) for name in parts[0].values}
    others = [field.name for field in fields(TargetScores) if field.name != "values"]
    return TargetScores(
        values, **{name: np.concatenate([getattr(p, name) for p in parts]) for name in others}
    )


def client_sums(
    scores: TargetScores, name: str, client_index: npt.ArrayLike, num_clients: int
) -> tuple[Doubles, Ints]:
    """Return each client's share of a micro average: the sum and the number of its values.

    Args:
        scores: TargetScores.
        name: a metric in `scores`.
        client_index: int [num_targets], the client of each target.
        num_clients: int.

    Returns:
        float64 [num_clients] sums and int64 [num_clients] counts. Unknown targets count as misses
        for a rank metric. They do not count for the loss.
    """
    values, client_index = scores.values[name], np.asarray(client_index)
    if name == "loss":
        values, client_index = values[scores.known], client_index[scores.known]
    sums: Doubles = np.bincount(client_index, values, num_clients)  # type: ignore[assignment]  # numpy's stub: always integers
    return sums, np.bincount(client_index, minlength=num_clients)


def per_client(
    scores: TargetScores, client_index: npt.ArrayLike, num_clients: int
) -> dict[str, npt.NDArray[Any]]:
    """Return the table of clients: {column: [num_clients]}.

    Columns: `targets` and `unknown_targets`, int64; then each metric's mean over the client's
    targets, float64. A mean over no targets is NaN; the loss counts only known targets.
    """
    client_index = np.asarray(client_index)
    table = {
        "targets": np.bincount(client_index, minlength=num_clients),
        "unknown_targets": np.bincount(client_index[~scores.known], minlength=num_clients),
    }
    for name in scores.values:
        sums, counts = client_sums(scores, name, client_index, num_clients)
        table[name] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return table


def worst_tenth(values: npt.ArrayLike) -> Ints:
    """Return the indices of the lowest tenth, rounded up, lowest first; ties in their order.

    >>> worst_tenth([0.5, 0.25, 1.0, 0.75]).tolist()
    [1]
    """
    values = np.asarray(values)
    return np.argsort(values, kind="stable")[: -(-len(values) // 10)]


def summarise(
    scores: TargetScores, client_index: npt.ArrayLike, num_clients: int
) -> dict[str, float]:
    """Average over check-ins and over clients.

    Args:
        scores: TargetScores of at least one target.
        client_index: int [num_targets], the client of each target.
        num_clients: int.

    Returns:
        dict: `targets` and `unknown_targets`, int; per metric `name/micro`, the mean over
        targets (each check-in once), and `name/macro`, the mean over the clients' means (each
        client once; clients without targets are left out). The loss leaves unknown targets out of
        both, and is NaN if no target is known.

    Raises:
        TrainingError: if there are no targets.
    """
    if not len(scores):
        raise TrainingError("there are no targets to score.")
    sums = {name: client_sums(scores, name, client_index, num_clients) for name in scores.values}
    return summarise_sums(sums, len(scores), int(np.sum(~scores.known)))


def summarise_sums(
    client_sums: Mapping[str, tuple[Doubles, Ints]], targets: int, unknown_targets: int
) -> dict[str, float]:
    """Return the summary of `summarise`, from sums that each client computed itself.

    Args:
        client_sums: {metric: (float64 [num_clients] sums, int [num_clients] counts)}, as from
            `client_sums`.
        targets, unknown_targets: int, of all clients.
    """
    summary: dict[str, float] = {"targets": targets, "unknown_targets": unknown_targets}
    for name, (sums, counts) in client_sums.items():
        has_any = counts > 0
        if not has_any.any():
            summary[f"{name}/micro"] = summary[f"{name}/macro"] = float("nan")
            continue
        summary[f"{name}/micro"] = float(sums.sum() / counts.sum())
        summary[f"{name}/macro"] = float(np.mean(sums[has_any] / counts[has_any]))
    return summary


def bootstrap_interval(
    numerators: npt.ArrayLike,
    denominators: npt.ArrayLike,
    rng: np.random.Generator,
    num_samples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of sum(numerators) / sum(denominators), resampling whole clients.

    Check-ins of one person are similar, so clients are drawn (with replacement), not check-ins.

    Args:
        numerators: float [num_clients], each client's sum, from `client_sums`.
        denominators: int [num_clients], each client's count. Clients with 0 are left out.
        rng: numpy Generator.
        num_samples: resamples.
        level: share of the resamples inside the interval.

    Returns:
        (low, high), floats.

    Raises:
        TrainingError: if all denominators are 0.

    Source: Efron 1979, the percentile method.
    """
    numerators, denominators = np.asarray(numerators, np.float64), np.asarray(denominators)
    counted = denominators > 0
    if not counted.any():
        raise TrainingError("there are no targets to score.")
    numerators, denominators = numerators[counted], denominators[counted]
    parts, at_once = [], max(1, CELLS_AT_ONCE // len(numerators))
    for begin in range(0, num_samples, at_once):
        size = min(at_once, num_samples - begin), len(numerators)
        drawn = rng.integers(len(numerators), size=size)
        parts.append(numerators[drawn].sum(axis=1) / denominators[drawn].sum(axis=1))
    ratios = np.concatenate(parts)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap_interval(
    numerators_a: npt.ArrayLike,
    numerators_b: npt.ArrayLike,
    denominators: npt.ArrayLike,
    rng: np.random.Generator,
    **options: Any,
) -> tuple[float, float]:
    """Percentile interval of micro metric a minus micro metric b over the same targets.

    Each resample takes the same clients for both, so a client that is hard for both cancels out.
    Arguments, options and errors as in `bootstrap_interval`; both metrics share the denominators.
    """
    differences = np.asarray(numerators_a, np.float64) - np.asarray(numerators_b, np.float64)
    return bootstrap_interval(differences, denominators, rng, **options)
