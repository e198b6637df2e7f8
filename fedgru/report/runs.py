"""Run folders -> the runs of a report; refuses runs that cannot be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgru.config import Settings
from fedgru.core.errors import DataError, RunError
from fedgru.core.types import Bools, Doubles, Ints
from fedgru.data import datasets
from fedgru.runs.folder import RunFolder
from fedgru.task.task import Task
from fedgru.training.traffic import Traffic
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows.ledger import exchanged

MAX_RUNS = 6  # colours that are distinct with any colour vision
PREDICTIONS = "predictions.parquet"


@dataclass(frozen=True)
class Outcomes:
    """A run's test targets, each once.

    Attributes:
        client_index: int64 [num_targets], index into the clients of the run's Task.
        row: int64 [num_targets], row of the data set's check-ins.
        target, predicted: object [num_targets], texts.
        rank: float64 [num_targets], of the target's class; NaN where the model has no such class.
        prob: float64 [num_targets], of the predicted class; NaN without probabilities.
        first_visit: bool [num_targets].
    """

    client_index: Ints
    row: Ints
    target: npt.NDArray[np.object_]
    predicted: npt.NDArray[np.object_]
    rank: Doubles
    prob: Doubles
    first_visit: Bools

    def __len__(self) -> int:
        return len(self.row)

    @property
    def correct(self) -> Bools:
        """bool [num_targets], whether the predicted class is the target's."""
        return self.target == self.predicted


@dataclass(frozen=True)
class ReportedRun:
    """One run, read.

    Attributes:
        number: 0 for the first; its colour.
        label: its setting `name`; the name of its folder if two runs have the same `name`.
        folder: RunFolder.
        settings: Settings.
        facts: dict, run.json.
        test: dict, test.json.
        audit: dict, audit.json; empty if there is none.
        rounds: column -> float64 [rounds + 1], metrics.csv; empty if nothing was trained.
        times: column -> float64 [rounds + 1], times.csv; empty if nothing was trained.
        passport: dict, of the data set.
        task: Task.
        client_names: the scored clients' names in the report: pseudonyms, or their ids.
        outcomes: Outcomes.
        traffic: Traffic; None if nothing was exchanged.
        cohort_bytes: (down, up), ints, of all clients in all rounds; (0, 0) without traffic.
    """

    number: int
    label: str
    folder: RunFolder
    settings: Settings
    facts: dict[str, Any]
    test: dict[str, Any]
    audit: dict[str, Any]
    rounds: dict[str, Doubles]
    times: dict[str, Doubles]
    passport: dict[str, Any]
    task: Task
    client_names: Sequence[str]
    outcomes: Outcomes
    traffic: Traffic | None
    cohort_bytes: tuple[int, int]

    def client_sums(self) -> tuple[Doubles, Ints]:
        """Return each client's right predictions and targets, float64 and int64 [num_clients]."""
        index, size = self.outcomes.client_index, len(self.task.clients.scored)
        sums = np.bincount(index, self.outcomes.correct, size).astype(np.float64)
        return sums, np.bincount(index, minlength=size)


def read_runs(
    folders: Sequence[RunFolder], data_dir: str | Path, names: bool = False
) -> list[ReportedRun]:
    """Read runs that are shown in one report.

    Args:
        folders: RunFolders.
        data_dir: folder of data sets.
        names: whether clients have their ids as names; else pseudonyms, those of the first run.

    Returns:
        list of ReportedRun, in the order given.

    Raises:
        RunError: if one is given twice, if there are too many, if one has not been evaluated, or
            if they were not scored on the same targets.
        DataError: if a run's data set is missing or has changed.
    """
    _check_folders(folders)
    labels = label_runs(folders)
    pairs = zip(folders, labels, strict=True)
    renamed = None if names else folders[0]
    runs = [_read(number, *pair, data_dir, renamed) for number, pair in enumerate(pairs)]
    for other in runs[1:]:
        _check_comparable(runs[0], other)
    return runs


def _check_folders(folders: Sequence[RunFolder]) -> None:
    paths = [folder.path.resolve() for folder in folders]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise RunError(f"{folders[i].path} is given twice.")
    if len(folders) > MAX_RUNS:
        raise RunError(
            f"{len(folders)} runs are given, but a report shows at most {MAX_RUNS} of them."
        )
    for folder in folders:
        if not folder.kind.has_check_ins:
            raise RunError(
                f"{folder.path} is {folder.kind.words}: its clients sent only sums, so there are "
                f"no predictions to report. Show the scores with: fedgru runs show {folder.path}"
            )
    waiting = [
        folder.path
        for folder in folders
        if not folder.test() or not (folder.path / PREDICTIONS).exists()
    ]
    if waiting:
        commands = "".join(f"\n  fedgru eval {path}" for path in waiting)
        raise RunError(
            f"{', '.join(map(str, waiting))}: there are no predictions to report, because the run "
            f"was not evaluated, or by an older fedgru. Evaluate first:{commands}"
        )


def label_runs(folders: Sequence[RunFolder]) -> list[str]:
    """Return a label for each run: its `name`, or its folder's name if two have the same."""
    names = [folder.settings().loop.name for folder in folders]
    if len(set(names)) == len(names):
        return names
    return [folder.path.resolve().name for folder in folders]


def _read(
    number: int, folder: RunFolder, label: str, data_dir: str | Path, renamed: RunFolder | None
) -> ReportedRun:
    facts, settings = folder.facts(), folder.settings()
    try:
        task = reopen_workflow.reopen_task(folder, data_dir)
    except DataError as error:
        raise DataError(f"{folder.path}: its data set cannot be opened. {error}") from None
    ids = task.clients.client_ids
    rounds = folder.rounds()
    found = exchanged(folder, task)
    traffic, cohort_bytes = None, (0, 0)
    if found is not None:
        traffic, *sums = found
        cohort_bytes = sums[0], sums[1]
    return ReportedRun(
        number=number,
        label=label,
        folder=folder,
        settings=settings,
        facts=facts,
        test=folder.test(),
        audit=folder.audit(),
        rounds=rounds,
        times=folder.times(),
        passport=datasets.read_passport(settings.data.data, data_dir),
        task=task,
        client_names=ids if renamed is None else renamed.pseudonyms(ids),
        outcomes=_read_outcomes(folder, task),
        traffic=traffic,
        cohort_bytes=cohort_bytes,
    )


def _read_outcomes(folder: RunFolder, task: Task) -> Outcomes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = folder.path / PREDICTIONS
    names = ("client_id", "row", "target", "predicted", "rank", "prob", "first_visit")
    try:
        table = pq.read_table(file, columns=list(names)).to_pandas()
    except (OSError, pa.ArrowException) as error:
        raise RunError(
            f"{file} is damaged ({error}). Write it again with: fedgru eval {folder.path}"
        ) from None
    clients = task.clients.scored
    place = {client_id: i for i, client_id in enumerate(clients.client_ids)}
    client_index = np.array([place.get(client_id, -1) for client_id in table["client_id"]])
    row = table["row"].to_numpy(np.int64)
    expected = clients.rows[clients.target_positions("test")]
    if (client_index < 0).any() or not np.array_equal(np.sort(row), np.sort(expected)):
        raise RunError(
            f"{file} does not hold the test targets of the run. Write it again with: fedgru eval "
            f"{folder.path}"
        )
    return Outcomes(
        client_index=client_index,
        row=row,
        target=table["target"].to_numpy(object),
        predicted=table["predicted"].to_numpy(object),
        rank=table["rank"].to_numpy(np.float64),
        prob=table["prob"].to_numpy(np.float64),
        first_visit=table["first_visit"].to_numpy(bool),
    )


def _check_comparable(first: ReportedRun, other: ReportedRun) -> None:
    """Raise a RunError if two runs were not scored on the same targets; it names the difference."""
    mine, theirs = first.facts["fingerprint"], other.facts["fingerprint"]
    what = None
    if mine != theirs:
        what = (
            f"the data sets differ ({first.settings.data.data} {mine[:12]}, "
            f"{other.settings.data.data} {theirs[:12]})"
        )
    elif first.settings.inputs.target != other.settings.inputs.target:
        what = (
            f"one predicts the {first.settings.inputs.target}, the other the "
            f"{other.settings.inputs.target}"
        )
    elif first.settings.task_name != other.settings.task_name:
        what = (
            f"one predicts the {first.settings.task_name}, the other the {other.settings.task_name}"
        )
    elif not np.array_equal(np.sort(first.outcomes.row), np.sort(other.outcomes.row)):
        what = (
            f"the test targets differ ({len(first.outcomes):,} of "
            f"{len(first.task.clients.scored):,} clients, {len(other.outcomes):,} of "
            f"{len(other.task.clients.scored):,})"
        )
    if what:
        raise RunError(
            f"{first.folder.path} and {other.folder.path} cannot be in one report: {what}. Make a "
            "report of each."
        )
