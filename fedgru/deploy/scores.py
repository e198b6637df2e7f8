"""Clients' sums -> the numbers that stand in the run folder."""

import logging

import numpy as np

from fedgru.core import metrics, seeding
from fedgru.deploy import records
from fedgru.evaluation.evaluate import INTERVAL_METRICS

logger = logging.getLogger(__name__)


def read_scores(replies, split, names):
    """Return {client: Scores} of those whose reply has readable scores of a split."""
    found = {}
    for client, reply in replies.items():
        if isinstance(reply, str) or split not in reply:
            continue
        try:
            found[client] = records.unpack_scores(reply[split])
        except ValueError as error:
            name = names[client]
            logger.warning("the %s scores of client %s are left out: %s", split, name, error)
    return found


def summarise_clients(found, split, predictor=records.MODEL):
    """Return {"split/metric/average": value} of one predictor.

    Args:
        found: client -> Scores.
        split: "val" or "test".
        predictor: a key of `Scores.sums` that all have.
    """
    summary = metrics.summarise_sums(
        _columns(found, predictor),
        sum(one.targets for one in found.values()),
        sum(one.unknown_targets for one in found.values()),
    )
    return {f"{split}/{name}": value for name, value in summary.items()}


def make_report(found, names, seed):
    """Put the clients' test scores beside those of counting, on the same targets.

    Args:
        found: client -> Scores of the test split.
        names: what the clients are called.
        seed: int, for the bootstrap over clients.

    Returns:
        (report, table): as `evaluate.full_report`, as far as sums tell, with `test/clients`; and
        {column: list}, a row per client, as `evaluate.client_table`.
    """
    everywhere = set.intersection(*(set(one.sums) for one in found.values()))
    predictors = [name for name in next(iter(found.values())).sums if name in everywhere]
    ours = _columns(found, records.MODEL)
    baselines = {name: _columns(found, name) for name in predictors if name != records.MODEL}
    report = {"test/clients": len(found), **summarise_clients(found, "test")}
    report["intervals"] = {
        f"test/{name}/micro": list(
            metrics.bootstrap_interval(*ours[name], seeding.rng(seed, "bootstrap"))
        )
        for name in INTERVAL_METRICS
    }
    report["baselines"] = {name: summarise_clients(found, "test", name) for name in baselines}
    report["gains"] = {name: _gains(ours, theirs, seed) for name, theirs in baselines.items()}
    table = {
        "client_id": [names[client] for client in sorted(found)],
        "targets": [found[client].targets for client in sorted(found)],
        "unknown_targets": [found[client].unknown_targets for client in sorted(found)],
    }
    for name, (sums, counts) in ours.items():
        table[name] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).tolist()
    return report, table


def _columns(found, predictor):
    """Return {metric: (sums, counts)}, float64 [num_clients] each, clients in order."""
    ordered = [found[client].sums[predictor] for client in sorted(found)]
    return {name: tuple(np.array([one[name] for one in ordered], float).T) for name in ordered[0]}


def _gains(ours, theirs, seed):
    gains = {}
    for name in INTERVAL_METRICS:
        if name in theirs:
            (sums, counts), (their_sums, _) = ours[name], theirs[name]
            low, high = metrics.paired_bootstrap_interval(
                sums, their_sums, counts, seeding.rng(seed, "bootstrap")
            )
            difference = float((sums.sum() - their_sums.sum()) / counts.sum())
            gains[f"test/{name}/micro"] = {"difference": difference, "interval": [low, high]}
    return gains
