"""A run as a value in Python: its tables as DataFrames, its scores, its model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgru.config import Settings
from fedgru.core.errors import RunError
from fedgru.core.types import Weights
from fedgru.runs import listing
from fedgru.runs.folder import RunFolder
from fedgru.task.task import Task
from fedgru.training.loop import TrainResult
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows import score as score_workflow

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """A run folder, read when something is asked for.

    Made by `train`, `baseline` and `open_run`.

    Attributes:
        folder: RunFolder.
        data_dir: folder of data sets.
        result: TrainResult, where the run was trained just now; else None.
    """

    def __init__(
        self,
        folder: RunFolder,
        data_dir: str | Path | None = None,
        task: Task | None = None,
        result: TrainResult | None = None,
    ) -> None:
        self.folder = folder
        self.data_dir = folder.facts().get("data_dir", "data") if data_dir is None else data_dir
        self.result = result
        if task is not None:
            self.task = task

    def __repr__(self) -> str:
        shown = self.folder.overview()
        parts = [f"{shown['kind']} run {self.path}", str(shown["status"])]
        if shown["best_round"] is not None:
            parts.append(f"best round {shown['best_round']} of {shown['rounds']}")
        if shown["test/acc@1/micro"] is not None:
            parts.append(f"test acc@1 {shown['test/acc@1/micro']:.4f}")
        return f"<{', '.join(parts)}>"

    @property
    def path(self) -> Path:
        """The run folder's path."""
        return self.folder.path

    @property
    def kind(self) -> str:
        """federated, central, local, a counting baseline, or deployed."""
        return self.folder.kind.name

    @property
    def status(self) -> str | None:
        """running, interrupted, failed or done."""
        return self.folder.status()

    @cached_property
    def settings(self) -> Settings:
        """Settings of the run."""
        return self.folder.settings()

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says: data, coverage, versions, how it ended."""
        return self.folder.facts()

    @cached_property
    def task(self) -> Task:
        """The run's Task, built again from its data set if need be.

        Raises:
            DataError, RunError: if the data set is not there, or is another one now.
        """
        return reopen_workflow.reopen_task(self.folder, self.data_dir)

    @property
    def rounds(self) -> pd.DataFrame:
        """A row per round, from 0, before training: "split/metric/average", and seconds.

        Raises:
            RunError: if the run has no rounds.
        """
        import pandas as pd

        table, times = self.folder.rounds(), self.folder.times()
        if not table:
            raise RunError(f"{self.path} has no rounds: it is {self.folder.kind.words}.")
        found = pd.DataFrame(table | {k: v for k, v in times.items() if k != "round"})
        return found.astype({"round": int}).set_index("round")

    @property
    def clients(self) -> pd.DataFrame:
        """A row per client with test targets: its metrics.

        Raises:
            RunError: if the run is not evaluated.
        """
        import pandas as pd

        return pd.DataFrame(self.folder.client_table()).set_index("client_id")

    @property
    def predictions(self) -> pd.DataFrame:
        """A row per test target: what came, what was predicted, rank and probabilities.

        Raises:
            RunError: if the run is not evaluated.
        """
        import pandas as pd

        return pd.DataFrame(self.folder.predictions())

    @property
    def is_evaluated(self) -> bool:
        """Whether it has a test report."""
        return bool(self.folder.test())

    @property
    def test(self) -> dict[str, Any]:
        """The test report, as test.json holds it.

        Raises:
            RunError: if the run is not evaluated.
        """
        report = self.folder.test()
        if not report:
            raise RunError(f"{self.path} is not evaluated: call evaluate(), or fedgru eval.")
        return report

    def weights(self, which: str = "best") -> Weights:
        """Return {name: float32 array} of the best or the last round.

        Raises:
            RunError: if there are none.
        """
        if which not in ("best", "last"):
            raise RunError(f"weights are of the best or the last round, not of {which!r}.")
        weights, _ = self.folder.load_weights(which)
        return weights

    def evaluate(
        self,
        *,
        engine: str | None = None,
        fine_tune: int | None = None,
        show_progress: bool = False,
    ) -> dict[str, Any]:
        """Score the best round on the test split, write it down, and return the report.

        Args:
            engine: what runs the model; all give the same numbers. None takes the run's own.
            fine_tune: local epochs that each client's copy is trained for and scored after; None
                for none.
            show_progress: whether to draw a bar on stderr.
        """
        return score_workflow.evaluate_run(self.folder, self.task, engine, fine_tune, show_progress)

    def audit(
        self,
        concepts: Sequence[str] = ("client", "zone"),
        *,
        probes: Sequence[str] | None = None,
        seeds: int = 1,
        show_progress: bool = False,
    ) -> dict[str, Any]:
        """Return what fresh probes recover of some concepts from the representation.

        Args:
            concepts: "zone", "weekend", "client", "category-group", or a column.
            probes: out of "logistic", "mlp" and "knn"; None for all.
            seeds: how many.
            show_progress: whether to draw a bar on stderr.
        """
        from fedgru.agnostic.probes import PROBES

        names = list(PROBES if probes is None else probes)
        return score_workflow.audit_run(
            self.folder, self.task, list(concepts), names, seeds, show_progress
        )

    def attack(
        self,
        attacks: Sequence[str] = ("reconstruction",),
        *,
        rounds: int | None = None,
        canaries: int = 1000,
        show_progress: bool = False,
    ) -> dict[str, Any]:
        """Return what an attacker finds out about clients from updates, and who took part.

        Args:
            attacks: "reconstruction" (of values from updates) and "membership" (of canary clients,
                which trains again).
            rounds: of the training with canaries; None for as many as the run had.
            canaries: how many.
            show_progress: whether to draw a bar on stderr.
        """
        from fedgru.workflows.attack import attack_run

        return attack_run(self.folder, self.task, attacks, rounds, canaries, show_progress)

    def predict(
        self, client: str, *, until: int | None = None, top: int = 5, at: str | None = None
    ) -> dict[str, Any]:
        """Return the most probable next values of a client, and what they rest on.

        Args:
            client: a user of the run's data set.
            until: how many of the client's check-ins to use, from the first; None uses all.
            top: how many values.
            at: when the next check-in is asked for, of a run with `asked_at`; see
                `fedgru.predict.past.forecast`.

        Returns:
            dict with `top`, a list of {"value", "probability"}; see `fedgru.predict.past.forecast`.
        """
        from fedgru.predict.load import load_model
        from fedgru.predict.past import client_past, forecast

        schema, weights, _ = load_model(self.folder, self.task, client)
        past = client_past(self.task, client, until)
        return forecast(self.task, schema, weights, past, top, at)

    def export(
        self,
        to: str,
        output: str | Path,
        *,
        overwrite: bool = False,
        client: str | None = None,
        names: bool = False,
    ) -> dict[str, Any]:
        """Write the model for use elsewhere, and return what its model.json says.

        Args:
            to: "keras", "savedmodel" or "weights".
            output: new folder.
            overwrite: replace an earlier export there.
            client: whose model, where clients have models of their own.
            names: write users' ids, not pseudonyms.
        """
        from fedgru.predict.export import export_run

        return export_run(self.folder, self.task, to, output, overwrite, client, names)


def open_run(
    name: str | Path | None = None,
    *,
    log_dir: str | Path = "log",
    data_dir: str | Path | None = None,
) -> Run:
    """Open a run.

    Args:
        name: the name of a folder in `log_dir`, the run's `name`, or a path; None for the run
            started last.
        log_dir: folder of all runs.
        data_dir: folder of data sets; None for the one that the run was trained with.

    Raises:
        RunError: if there is no such run.
    """
    return Run(listing.open_run(log_dir, name), data_dir)


def list_runs(log_dir: str | Path = "log") -> list[Run]:
    """Return the runs in a folder, the one started last first."""
    return [Run(folder) for folder in listing.all_runs(log_dir)]


def compare(
    runs: Sequence[Run], metrics: Sequence[str] = ("acc@1", "acc@5", "loss")
) -> pd.DataFrame:
    """Compare evaluated runs with the first, paired by client, as `fedgru compare` does.

    Runs that differ in their seed alone are one row.

    Returns:
        DataFrame, a row per setting, with columns (metric, "mean" | "difference" | "low" | "high" |
        "significant"); the interval is of the difference to the first row.

    Raises:
        ConfigError: for an unknown metric.
        RunError: if a run is not evaluated, or is not of the same data, target and splits.
    """
    import pandas as pd

    from fedgru.evaluation import comparison

    found = comparison.compare([run.folder for run in runs], tuple(metrics))
    rows = {}
    for row in found["rows"]:
        cells: dict[tuple[str, str], Any] = {}
        for metric in metrics:
            value = row[metric] or {"mean": None}
            gap = value.get("difference") or {}
            low, high = gap.get("interval", (None, None))
            cells |= {
                (metric, "mean"): value["mean"],
                (metric, "difference"): gap.get("difference"),
                (metric, "low"): low,
                (metric, "high"): high,
                (metric, "significant"): gap.get("significant"),
            }
        rows[row["label"]] = cells
    return pd.DataFrame.from_dict(rows, orient="index")
