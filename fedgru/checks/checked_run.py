"""A run for the checks of `fedgru.checks`: each part is opened or computed once, when needed."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgru.core.errors import FedgruError
from fedgru.core.types import Columns, Doubles, Weights
from fedgru.data import datasets
from fedgru.engines.fastest import fastest
from fedgru.evaluation import evaluate
from fedgru.task.task import LocalData, Task, build_task
from fedgru.training import local_models
from fedgru.training.per_client import evaluate_personal
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows.baseline import evaluate_counting
from fedgru.workflows.personal import open_store, personal_of

if TYPE_CHECKING:
    from fedgru.data.checkins import CheckIns
    from fedgru.data.datasets import DataSet
    from fedgru.engines.jax.engine import JaxEngine
    from fedgru.engines.reference import ReferenceEngine
    from fedgru.evaluation.evaluate import Evaluation
    from fedgru.runs.folder import RunFolder
    from fedgru.task.kernel_prior import Kernel
    from fedgru.training.local_models import LocalModel

PREDICTED = ("client_id", "row", "target", "predicted", "rank", "log_prob", "prob")


class Problem(Exception):
    """A check failed; the text is the reason."""


class NotApplicable(Exception):
    """A check does not apply to the run; the text is the reason."""


class CheckedRun:
    """A run with its data set, its task, its files, and new scores from its weights.

    Attributes:
        run: RunFolder.
        facts: dict, of run.json.
        kind: RunKind.
        settings: Settings.
    """

    def __init__(self, run: RunFolder, data_dir: str | Path) -> None:
        self.run = run
        self.facts = run.facts()
        self.kind = run.kind
        self.settings = run.settings()
        self._data_dir = data_dir

    @cached_property
    def data_set(self) -> DataSet:
        """The DataSet; a Problem if it is not the run's."""
        data_set = datasets.open_data_set(self.settings.data.data, self._data_dir)
        now, then = data_set.passport["fingerprint"], str(self.facts.get("fingerprint"))
        if now != then:
            raise Problem(
                f"data set {data_set.name} has fingerprint {now[:12]}, the run was made from "
                f"{then[:12]}"
            )
        return data_set

    @cached_property
    def task(self) -> Task:
        """The Task; NotApplicable where the data set is not the run's."""
        try:
            data_set = self.data_set
        except (Problem, FedgruError):
            raise NotApplicable("needs the run's data set, see the check `data`") from None
        return build_task(data_set, self.settings, self._kernel)

    @cached_property
    def _kernel(self) -> Kernel | None:
        numbers = self.facts.get("kernel")
        if self.settings.inputs.prior != "kernel" or not self.kind.learns_kernel:
            return None
        if numbers is None:
            raise NotApplicable("the run was stopped before its prior was learnt")
        return reopen_workflow.learnt_kernel(self.run)

    def rebuilt(self, check_ins: CheckIns) -> Task:
        """Return the Task of other check-ins, with the same settings and the same kernel."""
        if self.settings.data.protocol is not None:
            raise NotApplicable(
                f"protocol {self.settings.data.protocol} keeps users and venues by counts over the "
                "whole file, later check-ins included"
            )
        data_set = datasets.DataSet(self.data_set.name, check_ins, self.data_set.passport)
        try:
            return build_task(data_set, self.settings, self._kernel)
        except FedgruError as error:  # train is the same: the task must depend on the future
            raise Problem(f"the task cannot be built with another future: {error}") from error

    def score(self, task: Task, split: str) -> Evaluation:
        """Return the Evaluation of a split by the run's own predictor, as `fedgru eval` does."""
        if not self.kind.trains:
            return evaluate_counting(task, self.kind)  # of the test split, the only one
        if not self.kind.shares_model:
            return local_models.evaluate_local(task, self._models, split)
        engine, algorithm = self._engine.beside(task), personal_of(self.run, self.task)
        if algorithm is None:
            return evaluate.evaluate(engine, self.weights, split)
        with closing(open_store(self.run)) as store:
            return evaluate_personal(
                engine, algorithm, self.weights, store, split, round_num=self.best_round
            )

    def trained_on(self, task: Task, client: int) -> LocalData:
        """Return the LocalData of a client of a task, as the run trains on it."""
        if not self.kind.shares_model:
            own = local_models.alone(task, client)
            return replace(own, kernel=self._models[client].kernel).local_data(0)
        return task.local_data(client)

    @cached_property
    def test_scores(self) -> Evaluation:
        """The Evaluation of the test split, made now."""
        return self.score(self.task, "test")

    @property
    def scored_splits(self) -> tuple[str, ...]:
        """The splits that `score` can score."""
        return ("val", "test") if self.kind.trains else ("test",)

    @cached_property
    def weights(self) -> Weights:
        """The best round's weights; NotApplicable if the run has none."""
        return self._best[0]

    @property
    def best_round(self) -> int:
        """The round of the weights in best.npz."""
        return self._best[1]

    @cached_property
    def _best(self) -> tuple[Weights, int]:
        if not self.kind.trains:
            raise NotApplicable("the run is a counting baseline: it has no weights")
        if not (self.run.path / "best.npz").exists():
            raise NotApplicable("the run has no best.npz: no round was finished")
        if not self.kind.shares_model:
            return self.run.load_weights("best")
        return reopen_workflow.best_weights(self.run, self.task)

    @cached_property
    def _models(self) -> list[LocalModel]:
        return local_models.from_arrays(self.weights, len(self.task.clients.scored))

    @cached_property
    def _engine(self) -> JaxEngine | ReferenceEngine:
        return fastest(self.task)(self.task)

    @cached_property
    def report(self) -> dict[str, Any]:
        """test.json as a dict; NotApplicable if the run is not evaluated."""
        report = self.run.test()
        if not report:
            raise NotApplicable(f"not evaluated yet, do it with: fedgru eval {self.run.path}")
        return report

    @cached_property
    def predictions(self) -> Columns:
        """predictions.parquet, see `evaluate.prediction_table`."""
        self.report  # noqa: B018 (raises NotApplicable if there is none)
        return self.run.predictions(PREDICTED)

    @cached_property
    def rounds(self) -> dict[str, Doubles]:
        """metrics.csv, see `RunFolder.rounds`; NotApplicable if the run has none."""
        rounds = self.run.rounds()
        if not rounds:
            raise NotApplicable("the run has no rounds")
        return rounds
