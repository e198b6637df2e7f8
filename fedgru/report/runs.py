"""Run folders -> what a report says of them; refuses runs that cannot stand beside each other."""

from dataclasses import dataclass

import numpy as np

from fedgru.agnostic import protection
from fedgru.config import Settings
from fedgru.core.errors import DataError, RunError
from fedgru.data import datasets
from fedgru.engines import registry
from fedgru.report import numbers
from fedgru.runs.folder import RunFolder
from fedgru.task.task import Task
from fedgru.training import loop as round_loop
from fedgru.workflows import reopen as reopen_workflow

MAX_RUNS = 6  # colours that everybody can tell apart
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

    client_index: np.ndarray
    row: np.ndarray
    target: np.ndarray
    predicted: np.ndarray
    rank: np.ndarray
    prob: np.ndarray
    first_visit: np.ndarray

    def __len__(self):
        return len(self.row)

    @property
    def correct(self):
        """bool [num_targets], whether the predicted class is the target's."""
        return self.target == self.predicted


@dataclass(frozen=True)
class ReportedRun:
    """One run, read.

    Attributes:
        number: 0 for the first; its colour.
        label: what tells it from the others: its --name, or its folder's if that is not enough.
        folder: RunFolder.
        settings: Settings.
        facts: dict, run.json.
        test: dict, test.json.
        audit: dict, audit.json; empty if there is none.
        rounds: column -> float64 [rounds + 1], metrics.csv; empty if nothing was trained.
        times: column -> float64 [rounds + 1], times.csv; empty if nothing was trained.
        passport: dict, of the data set.
        task: Task.
        outcomes: Outcomes.
        traffic: Traffic; None if nothing was exchanged.
        cohort_bytes: (down, up), ints, of all clients in all rounds; (0, 0) without traffic.
    """

    number: int
    label: str
    folder: RunFolder
    settings: Settings
    facts: dict
    test: dict
    audit: dict
    rounds: dict[str, np.ndarray]
    times: dict[str, np.ndarray]
    passport: dict
    task: Task
    outcomes: Outcomes
    traffic: numbers.Traffic | None
    cohort_bytes: tuple[int, int]

    def client_sums(self):
        """Return each client's right predictions and targets, float64 and int64 [num_clients]."""
        index, size = self.outcomes.client_index, len(self.task.clients)
        return np.bincount(index, self.outcomes.correct, size), np.bincount(index, minlength=size)


def read_runs(folders, data_dir):
    """Read runs that stand beside each other.

    Args:
        folders: RunFolders.
        data_dir: folder of data sets.

    Returns:
        list of ReportedRun, in the order given.

    Raises:
        RunError: if one is given twice, they are too many, one has not been evaluated, or they
            were not scored on the same targets.
        DataError: if a run's data set is gone or another one by now.
    """
    _check_folders(folders)
    labels = label_runs(folders)
    pairs = zip(folders, labels, strict=True)
    runs = [_read(number, *pair, data_dir) for number, pair in enumerate(pairs)]
    for other in runs[1:]:
        _check_comparable(runs[0], other)
    return runs


def _check_folders(folders):
    paths = [folder.path.resolve() for folder in folders]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise RunError(f"{folders[i].path} is given twice.")
    if len(folders) > MAX_RUNS:
        raise RunError(
            f"{len(folders)} runs are given, but a report shows at most {MAX_RUNS} beside each "
            "other."
        )
    for folder in folders:
        if not folder.kind.has_check_ins:
            raise RunError(
                f"{folder.path} is {folder.kind.words}: its clients sent sums alone, so there are "
                f"no predictions to report. The scores are shown by: fedgru runs show {folder.path}"
            )
    waiting = [
        folder.path
        for folder in folders
        if not folder.test() or not (folder.path / PREDICTIONS).exists()
    ]
    if waiting:
        commands = "".join(f"\n  fedgru eval {path}" for path in waiting)
        raise RunError(
            f"{', '.join(map(str, waiting))}: not evaluated, or by an older fedgru, so there are "
            f"no predictions to report. Evaluate first:{commands}"
        )


def label_runs(folders):
    """Return a short text for each run: its --name where no two are the same."""
    names = [folder.settings().loop.name for folder in folders]
    if len(set(names)) == len(names):
        return names
    return [folder.path.resolve().name for folder in folders]


def _read(number, folder, label, data_dir):
    facts, settings = folder.facts(), folder.settings()
    try:
        task = reopen_workflow.reopen_task(folder, data_dir)
    except DataError as error:
        raise DataError(f"{folder.path}: its data set cannot be opened. {error}") from None
    rounds = folder.rounds()
    traffic, cohort_bytes = None, (0, 0)
    if rounds and folder.kind.has_engine:
        traffic = _count_traffic(task)
        cohort_bytes = _sum_over_cohorts(task, traffic, len(rounds["round"]) - 1)
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
        outcomes=_read_outcomes(folder, task),
        traffic=traffic,
        cohort_bytes=cohort_bytes,
    )


def _read_outcomes(folder, task):
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
    place = {client_id: i for i, client_id in enumerate(task.clients.client_ids)}
    client_index = np.array([place.get(client_id, -1) for client_id in table["client_id"]])
    row = table["row"].to_numpy(np.int64)
    expected = task.clients.rows[task.clients.target_positions("test")]
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


def own_rows(task):
    """Return int64 [num_clients], how many rows of the table each client's training names."""
    found = np.zeros(len(task.clients), np.int64)
    for client in task.training_clients:
        pairs = np.unique(task.batches(client).pairs)
        at = task.clients.starts[client] + pairs[pairs >= 0]
        rows = np.unique(task.inputs.rows[at])
        found[client] = (rows >= 0).sum()
    return found


def _count_traffic(task):
    weights = protection.init_weights(task)  # of the shapes that travel
    return numbers.count_traffic(
        weights,
        own_rows(task),
        has_head=task.protection is not None,
        has_kernel=task.kernel is not None,
        whole_table=registry.engine_of(task.settings).sends_whole_table,
    )


def _sum_over_cohorts(task, traffic, num_rounds):
    """Return bytes (down, up) of every client that was drawn, in every round."""
    cohorts = [round_loop.draw_cohort(task, number) for number in range(1, num_rounds + 1)]
    drawn = np.concatenate([np.zeros(0, np.int64), *cohorts])
    return int(traffic.down_bytes[drawn].sum()), int(traffic.up_bytes[drawn].sum())


def _check_comparable(first, other):
    """Refuse two runs whose results are not about the same targets; says what differs."""
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
    elif not np.array_equal(np.sort(first.outcomes.row), np.sort(other.outcomes.row)):
        what = (
            f"the test targets differ ({len(first.outcomes):,} of {len(first.task.clients):,} "
            f"clients, {len(other.outcomes):,} of {len(other.task.clients):,})"
        )
    if what:
        raise RunError(
            f"{first.folder.path} and {other.folder.path} cannot stand in one report: {what}. "
            "Make a report of each."
        )
