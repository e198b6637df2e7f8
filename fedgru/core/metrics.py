"""Ranking metrics and the loss: per target, then averaged over check-ins and over clients.

Tie rule: a metric's value is its expectation over a random order of the classes scored the same
as the target's. With g classes scored strictly higher than the target's class, e scored the same
(itself included) and G(r) the gain at rank r, it is (G(g + 1) + ... + G(g + e)) / e, whatever
the gain. So a model that scores all classes alike gets what guessing gets, not 0 or 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np

from fedgru.core.errors import TrainingError

CELLS_AT_ONCE = 1 << 22  # scores compared in one go: bounds the memory for thousands of classes


@dataclass(frozen=True)
class Metric:
    """A metric's name, its direction, and what each rank is worth.

    Attributes:
        name: as in metric keys `split/name/average`.
        higher_is_better: direction, for early stopping and for choosing the best round.
        gain: float64 ranks (from 1) -> gains; None for the loss, which is no matter of rank.
    """

    name: str
    higher_is_better: bool
    gain: Callable[[np.ndarray], np.ndarray] | None


METRICS = {
    metric.name: metric
    for metric in (
        Metric("acc@1", True, lambda rank: rank <= 1),
        Metric("acc@5", True, lambda rank: rank <= 5),
        Metric("acc@10", True, lambda rank: rank <= 10),
        Metric("mrr", True, lambda rank: 1 / rank),
        Metric("ndcg", True, lambda rank: 1 / np.log2(1 + rank)),  # not cut off at any rank
        Metric("loss", False, None),
    )
}
RANK_METRICS = tuple(name for name, metric in METRICS.items() if metric.gain)


@dataclass(frozen=True)
class TargetScores:
    """What each target is worth under each metric, and what was said in its place.

    Attributes:
        values: metric name -> float64 [num_targets]. An unknown target (class -1) is a miss: 0
            for every rank metric. It has no loss: NaN.
        known: bool [num_targets], False where the target's class is unknown.
        rank: float64 [num_targets], rank of the target's class, from 1; where it ties, the mean of
            the ranks that it shares. NaN where the class is unknown.
        predicted: int32 [num_targets], the class scored highest; among equals the smallest.
        prob: float64 [num_targets], the probability of that class; NaN where scores are no
            probabilities.
    """

    values: dict[str, np.ndarray]
    known: np.ndarray
    rank: np.ndarray
    predicted: np.ndarray
    prob: np.ndarray

    def __len__(self):
        return len(self.known)

    def __getitem__(self, chosen):
        """Return the TargetScores of some targets: a bool mask, a slice or indices."""
        values = {name: v[chosen] for name, v in self.values.items()}
        return TargetScores(
            values, *(v[chosen] for v in (self.known, self.rank, self.predicted, self.prob))
        )


def rank_targets(scores, targets):
    """Score each target by the rank of its class, as the module's tie rule says.

    Args:
        scores: float [num_targets, num_classes], higher is better; any scale.
        targets: int [num_targets], class of each target, -1 where it is unknown.

    Returns:
        TargetScores with every metric of METRICS but the loss, and without probabilities.

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
    for name in RANK_METRICS:
        gains = np.concatenate([[0.0], np.cumsum(METRICS[name].gain(ranks), dtype=np.float64)])
        values[name] = np.where(known, (gains[higher + equal] - gains[higher]) / equal, 0.0)
    rank = np.where(known, higher + (equal + 1) / 2, np.nan)
    return TargetScores(values, known, rank, predicted, np.full(num_targets, np.nan))


def score_targets(log_probs, targets):
    """Score each target by the rank of its class and by the probability it was given.

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


def _check_numbers(scores, start):
    if np.isnan(scores.min(initial=0)):  # one pass, no copy
        row, column = np.argwhere(np.isnan(scores))[0]
        raise TrainingError(
            f"the score of class {column} for target {start + row} is not a number (NaN)."
        )


def concatenate(parts):
    """Join the TargetScores of several batches of targets, in their order."""
    parts = list(parts)
    values = {name: np.concatenate([p.values[name] for p in parts]) for name in parts[0].values}
    others = [field.name for field in fields(TargetScores) if field.name != "values"]
    return TargetScores(
        values, **{name: np.concatenate([getattr(p, name) for p in parts]) for name in others}
    )


def client_sums(scores, name, client_index, num_clients):
    """Return each client's share of a micro average: its sum of values and how many they are.

    Args:
        scores: TargetScores.
        name: a metric in `scores`.
        client_index: int [num_targets], the client of each target.
        num_clients: int.

    Returns:
        float64 [num_clients] sums and int64 [num_clients] counts. Unknown targets count for a
        rank metric (as misses), not for the loss.
    """
    values, client_index = scores.values[name], np.asarray(client_index)
    if name == "loss":
        values, client_index = values[scores.known], client_index[scores.known]
    sums = np.bincount(client_index, weights=values, minlength=num_clients)
    return sums, np.bincount(client_index, minlength=num_clients)


def per_client(scores, client_index, num_clients):
    """Return the table of clients: {column: [num_clients]}.

    Columns: `targets` and `unknown_targets`, int64; then each metric's mean over the client's
    targets, float64, NaN where it has none (for the loss: no known one).
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


def summarise(scores, client_index, num_clients):
    """Average over check-ins and over clients.

    Args:
        scores: TargetScores of at least one target.
        client_index: int [num_targets], the client of each target.
        num_clients: int.

    Returns:
        dict: `targets` and `unknown_targets`, int; per metric `name/micro`, the mean over
        targets (each check-in once), and `name/macro`, the mean over the clients' means (each
        client once; one without targets is left out). The loss leaves unknown targets out of
        both, and is NaN if no target is known.

    Raises:
        TrainingError: if there are no targets.
    """
    if not len(scores):
        raise TrainingError("there are no targets to score.")
    sums = {name: client_sums(scores, name, client_index, num_clients) for name in scores.values}
    return summarise_sums(sums, len(scores), int(np.sum(~scores.known)))


def summarise_sums(client_sums, targets, unknown_targets):
    """Return what `summarise` does, from sums that each client has made for itself.

    Args:
        client_sums: {metric: (float64 [num_clients] sums, int [num_clients] counts)}, as from
            `client_sums`.
        targets, unknown_targets: int, of all clients.
    """
    summary = {"targets": targets, "unknown_targets": unknown_targets}
    for name, (sums, counts) in client_sums.items():
        has_any = counts > 0
        if not has_any.any():
            summary[f"{name}/micro"] = summary[f"{name}/macro"] = float("nan")
            continue
        summary[f"{name}/micro"] = float(sums.sum() / counts.sum())
        summary[f"{name}/macro"] = float(np.mean(sums[has_any] / counts[has_any]))
    return summary


def bootstrap_interval(numerators, denominators, rng, num_samples=2000, level=0.95):
    """Percentile interval of sum(numerators) / sum(denominators), resampling whole clients.

    Check-ins of one person are alike, so clients are drawn (with replacement), not check-ins.

    Args:
        numerators: float [num_clients], each client's sum, as `client_sums` returns it.
        denominators: int [num_clients], its count. Clients with 0 are left out.
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
    ratios, at_once = [], max(1, CELLS_AT_ONCE // len(numerators))
    for begin in range(0, num_samples, at_once):
        size = min(at_once, num_samples - begin), len(numerators)
        drawn = rng.integers(len(numerators), size=size)
        ratios.append(numerators[drawn].sum(axis=1) / denominators[drawn].sum(axis=1))
    ratios = np.concatenate(ratios)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap_interval(numerators_a, numerators_b, denominators, rng, **options):
    """Percentile interval of micro metric a minus micro metric b over the same targets.

    Each resample takes the same clients for both, so what makes a client hard for both cancels.
    Arguments, options and errors as in `bootstrap_interval`; one denominator serves both.
    """
    differences = np.asarray(numerators_a, np.float64) - np.asarray(numerators_b, np.float64)
    return bootstrap_interval(differences, denominators, rng, **options)
