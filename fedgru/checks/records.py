"""Checks that a run's files fit its data set, its weights and each other."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgru.checks.checked_run import CheckedRun, NotApplicable, Problem
from fedgru.core.errors import ConfigError
from fedgru.core.types import Columns, Doubles, Ints
from fedgru.evaluation import evaluate
from fedgru.task.clients import SPLITS
from fedgru.training import loop as round_loop
from fedgru.training.early_stopping import EarlyStopping

ROUNDING = 1e-9  # the same numbers in double precision, summed in another order
SAME = 1e-4  # tolerance for another engine or machine with the same weights


def check_data(checked: CheckedRun) -> str:
    """The data set is that of the run, and gives the users and check-ins in run.json."""
    data_set, task = checked.data_set, checked.task
    coverage = [vars(line) for line in task.coverage]
    written = checked.facts.get("coverage")
    if written != coverage:
        raise Problem("the users and check-ins in run.json are not those the data set gives now")
    kept = coverage[-1]["checkins"]
    return (
        f"{data_set.name}, fingerprint {checked.facts['fingerprint'][:12]}, {kept:,} test targets"
    )


def check_stop_metric(checked: CheckedRun) -> str:
    """The best round is chosen on validation."""
    if not checked.kind.trains:
        raise NotApplicable("the run is a counting baseline: no round is chosen")
    key = checked.settings.loop.stop_metric
    try:
        round_loop.parse_stop_metric(key)
    except ConfigError:
        raise Problem(f"the best round is chosen by {key}, not on validation") from None
    return f"the best round is chosen by {key}"


def check_best_round(checked: CheckedRun) -> str:
    """The best round is the best one by the stop metric in metrics.csv."""
    if not checked.kind.trains:
        raise NotApplicable("the run is a counting baseline: no round is chosen")
    if not checked.kind.shares_model:
        raise NotApplicable("each client has a best round of its own")
    loop, rounds, key = checked.settings.loop, checked.rounds, checked.settings.loop.stop_metric
    if key not in rounds:
        raise Problem(f"metrics.csv has no {key}")
    numbers = rounds["round"]
    stopping, stopped = _replay(checked, numbers.astype(int), rounds[key])
    if stopped is not None and stopped < len(numbers) - 1:
        raise Problem(
            f"training continued to round {len(numbers) - 1}, but {key} had not improved in "
            f"{loop.patience} rounds by round {stopped}"
        )
    best = stopping.best_round
    found = {"run.json": checked.facts.get("best_round", best), "best.npz": best}
    if (checked.run.path / "best.npz").exists():
        found["best.npz"] = checked.best_round
    if (report := checked.run.test()).get("round") is not None:
        found["test.json"] = report["round"]
    for file, round_num in found.items():
        if round_num != best:
            raise Problem(f"{file} says round {round_num}, but by {key} round {best} is the best")
    value = checked.facts.get("best_value", stopping.best_value)
    if not _equal(value, stopping.best_value, ROUNDING):
        raise Problem(f"run.json says {key} {value}, but round {best} has {stopping.best_value}")
    if checked.facts.get("status") == "done" and checked.facts.get("rounds") != len(numbers) - 1:
        raise Problem(
            f"run.json says {checked.facts.get('rounds')} rounds, metrics.csv has "
            f"{len(numbers) - 1}"
        )
    return f"round {best} of {len(numbers) - 1} has the best {key}, {stopping.best_value:.4f}"


def _replay(
    checked: CheckedRun, numbers: Ints, values: Doubles
) -> tuple[EarlyStopping, int | None]:
    """Return the EarlyStopping after the rounds, and the round it stopped at or None."""
    loop = checked.settings.loop
    metric = round_loop.parse_stop_metric(loop.stop_metric)
    stopping = EarlyStopping(metric.higher_is_better, loop.patience, loop.min_improvement)
    protection = checked.task.protection
    for round_num, value in zip(numbers.tolist(), values.tolist(), strict=True):
        if protection is None or protection.is_risen(round_num):
            _, stop = stopping.report(round_num, value)
            if stop and round_num > 0:
                return stopping, round_num
    return stopping, None


def check_scored_once(checked: CheckedRun) -> str:
    """predictions.parquet has each test target once, and nothing else."""
    rows, clients = checked.predictions["row"], checked.task.clients.scored
    positions = clients.target_positions("test")
    wanted = clients.rows[positions]
    found, times = np.unique(rows, return_counts=True)
    if (times > 1).any():
        raise Problem(
            f"{(times > 1).sum():,} check-ins are scored more than once, the first in row "
            f"{found[times > 1][0]} of the data set"
        )
    foreign = np.setdiff1d(found, wanted)
    if len(foreign):
        split_of = {s: np.isin(foreign, clients.rows[clients.in_split(s)]).sum() for s in SPLITS}
        where = ", ".join(f"{n:,} of {split}" for split, n in split_of.items() if n)
        raise Problem(
            f"{len(foreign):,} check-ins are scored that are no test targets"
            f"{f' ({where})' if where else ''}, the first in row {foreign[0]} of the data set"
        )
    missing = np.setdiff1d(wanted, found)
    if len(missing):
        raise Problem(
            f"{len(missing):,} of {len(wanted):,} test targets are never scored, the first in row "
            f"{missing[0]} of the data set"
        )
    order = np.argsort(wanted)
    at = positions[order][np.searchsorted(wanted[order], rows)]
    column = getattr(checked.task.check_ins, checked.settings.inputs.target)
    expected = {
        "client_id": np.array(clients.client_ids, object)[clients.client_of[at]],
        "target": np.array([*column.values, None], object)[checked.task.target_codes[at]],
    }
    for name, values in expected.items():
        other = np.flatnonzero(checked.predictions[name].astype(object) != values)
        if len(other):
            raise Problem(
                f"{len(other):,} predictions have another {name} than the data set, the first in "
                f"row {rows[other[0]]}"
            )
    return f"each of {len(wanted):,} test targets once, and nothing else"


def check_test_result(checked: CheckedRun) -> str:
    """The numbers in test.json and clients.csv follow from predictions.parquet."""
    report, predictions = checked.report, checked.predictions
    clients = checked.run.client_table()
    ids, client_index = np.unique(predictions["client_id"].astype(str), return_inverse=True)
    order = np.argsort(clients["client_id"])
    if not np.array_equal(clients["client_id"][order], ids):
        raise Problem(
            f"clients.csv has {len(order)} clients, predictions.parquet {len(ids)}, and they are "
            "not the same"
        )
    known = np.isfinite(predictions["rank"])
    counted = {"targets": np.ones(len(known), bool), "unknown_targets": ~known}
    for name, mask in counted.items():
        _compare("test.json", f"test/{name}", report.get(f"test/{name}"), int(mask.sum()))
        per_client = np.bincount(client_index[mask], minlength=len(ids))
        _compare_clients(clients, order, name, per_client)
    _compare("test.json", "test/clients", report.get("test/clients"), len(ids))
    low, high = _top_1(predictions)
    has_loss = np.isfinite(predictions["log_prob"]).any()
    measured = {"acc@1": (low, high, np.ones(len(known), bool))}
    if has_loss:
        measured["loss"] = (-predictions["log_prob"], -predictions["log_prob"], known)
    for name, (least, most, mask) in measured.items():
        owners = client_index[mask]
        counts = np.bincount(owners, minlength=len(ids))
        sums = [np.bincount(owners, values[mask], len(ids)) for values in (least, most)]
        has_any = counts > 0
        means = [np.where(has_any, total / np.maximum(counts, 1), np.nan) for total in sums]
        micro = [total.sum() / counts.sum() for total in sums]
        macro = [float(np.mean(mean[has_any])) for mean in means]
        for average, bounds in (("micro", micro), ("macro", macro)):
            key = f"test/{name}/{average}"
            _compare("test.json", key, report.get(key), *bounds)
        _compare_clients(clients, order, name, *means)
    names = " and ".join(measured)
    return f"{names} of {len(known):,} predictions are those of test.json and clients.csv"


def _top_1(predictions: Columns) -> tuple[Doubles, Doubles]:
    """Return lower and upper bounds of each target's acc@1; they differ if a tie is uncertain.

    A target that shares the first e ranks has rank (e + 1) / 2 and counts 1 / e. It shares them
    if it was predicted, or is as probable as the predicted class. Without probabilities, rank 2
    can also mean the second place.
    """
    rank, predicted = predictions["rank"], predictions["predicted"]
    with np.errstate(invalid="ignore"):
        worth = np.where(np.isfinite(rank), 1 / (2 * rank - 1), 0.0)
        as_probable = np.exp(predictions["log_prob"]) == predictions["prob"]
    is_first = np.isfinite(rank) & (as_probable | (predicted == predictions["target"]))
    may_be_first = np.isfinite(rank) & ~np.isfinite(predictions["prob"]) & (rank >= 1.5)
    return np.where(is_first, worth, 0.0), np.where(is_first | may_be_first, worth, 0.0)


def _compare(
    file: str, key: str, written: float | None, low: float, high: float | None = None
) -> None:
    high = low if high is None else high
    if written is None or not low - ROUNDING <= written <= high + ROUNDING:
        between = f"{low:.6g}" if high - low <= ROUNDING else f"{low:.6g} to {high:.6g}"
        raise Problem(f"{file} says {key} {written}, but predictions.parquet gives {between}")


def _compare_clients(
    clients: Columns,
    order: Ints,
    name: str,
    low: npt.NDArray[Any],
    high: npt.NDArray[Any] | None = None,
) -> None:
    high = low if high is None else high
    if name not in clients:
        raise Problem(f"clients.csv has no {name}")
    written = clients[name][order]
    with np.errstate(invalid="ignore"):
        same = (written >= low - ROUNDING) & (written <= high + ROUNDING)
    other = np.flatnonzero(~(same | (np.isnan(written) & np.isnan(low))))
    if len(other):
        client = clients["client_id"][order][other[0]]
        raise Problem(
            f"clients.csv says {name} {written[other[0]]:.6g} for client {client}, but "
            f"predictions.parquet gives {low[other[0]]:.6g}"
        )


def check_reproduced(checked: CheckedRun) -> str:
    """Scoring the run's weights again gives the predictions and results that were written."""
    report, predictions = checked.report, checked.predictions
    again = checked.test_scores
    table = evaluate.prediction_table(checked.task, again)
    if not np.array_equal(np.sort(table["row"]), np.sort(predictions["row"])):
        raise NotApplicable("other check-ins are scored, see the check `scored once`")
    order, written = np.argsort(table["row"]), np.argsort(predictions["row"])
    for name in ("log_prob", "prob"):
        ours, theirs = table[name][order], predictions[name][written]
        gap = np.abs(ours - theirs)
        other = np.flatnonzero(~(gap <= SAME) & ~(np.isnan(ours) & np.isnan(theirs)))
        if len(other):
            raise Problem(
                f"{name} of {len(other):,} predictions is not what the run's weights give, the "
                f"first in row {table['row'][order][other[0]]}: {theirs[other[0]]:.4f}, now "
                f"{ours[other[0]]:.4f}"
            )
    what = "weights" if checked.kind.trains else "counts"
    summary = again.summary()
    slack = 10 / len(table["row"])  # rounding can change the rank of ten targets
    for key, value in summary.items():
        if not _equal(report.get(key), value, SAME + (0 if "loss" in key else slack)):
            raise Problem(
                f"test.json says {key} {report.get(key)}, the run's {what} {_short(value)}"
            )
    return f"scored again from the run's {what}: the same to {SAME:g}"


def _short(value: float | None) -> str:
    return "none" if value is None or math.isnan(value) else f"{value:.6g}"


def _equal(written: float | None, value: float | None, tolerance: float) -> bool:
    """Whether two numbers are equal; null in a file means NaN."""
    if written is None or value is None:
        return (written is None) == (value is None or math.isnan(value))
    return abs(written - value) <= tolerance or (math.isnan(written) and math.isnan(value))
