"""From the clients' sums to the numbers in the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedgru.core import metrics, seeding
from fedgru.core.types import Doubles, Ints, Row
from fedgru.deploy import records
from fedgru.evaluation.evaluate import INTERVAL_METRICS

if TYPE_CHECKING:
    from fedgru.deploy.records import Scores


def summarise_clients(found: dict[int, Scores], split: str, predictor: str = records.MODEL) -> Row:
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


def make_report(
    found: dict[int, Scores], names: Sequence[str], seed: int
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Compare the clients' test scores with those of counting, on the same targets.

    Args:
        found: client -> Scores of the test split.
        names: names of the clients.
        seed: int, for the bootstrap over clients.

    Returns:
        (report, table): as `evaluate.full_report`, without the parts that need predictions, with
        `test/clients`; and {column: list}, a row per client, as `evaluate.client_table`.
    """
    everywhere = set.intersection(*(set(one.sums) for one in found.values()))
    predictors = [name for name in next(iter(found.values())).sums if name in everywhere]
    ours = _columns(found, records.MODEL)
    baselines = {name: _columns(found, name) for name in predictors if name != records.MODEL}
    report: dict[str, Any] = {"test/clients": len(found), **summarise_clients(found, "test")}
    report["intervals"] = {
        f"test/{name}/micro": list(
            metrics.bootstrap_interval(*ours[name], seeding.rng(seed, "bootstrap"))
        )
        for name in INTERVAL_METRICS
    }
    report["baselines"] = {name: summarise_clients(found, "test", name) for name in baselines}
    report["gains"] = {name: _gains(ours, theirs, seed) for name, theirs in baselines.items()}
    table: dict[str, list[Any]] = {
        "client_id": [names[client] for client in sorted(found)],
        "targets": [found[client].targets for client in sorted(found)],
        "unknown_targets": [found[client].unknown_targets for client in sorted(found)],
    }
    for name, (sums, counts) in ours.items():
        table[name] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).tolist()
    return report, table


def _columns(found: dict[int, Scores], predictor: str) -> dict[str, tuple[Doubles, Ints]]:
    """Return {metric: (sums, counts)}, float64 and int64 [num_clients], clients in order."""
    ordered = [found[client].sums[predictor] for client in sorted(found)]
    return {
        name: (
            np.array([one[name][0] for one in ordered], np.float64),
            np.array([one[name][1] for one in ordered], np.int64),
        )
        for name in ordered[0]
    }


def _gains(
    ours: dict[str, tuple[Doubles, Ints]], theirs: dict[str, tuple[Doubles, Ints]], seed: int
) -> dict[str, Any]:
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
