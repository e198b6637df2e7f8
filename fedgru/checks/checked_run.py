"""A run as the checks of `fedgru.checks` see it: each thing opened or computed once, when asked."""

from dataclasses import replace
from functools import cached_property

from fedgru.core.errors import FedgruError
from fedgru.data import datasets
from fedgru.engines.jax.engine import JaxEngine
from fedgru.evaluation import evaluate
from fedgru.task.task import build_task
from fedgru.training import local_models
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows.baseline import evaluate_counting

PREDICTED = ("client_id", "row", "target", "predicted", "rank", "log_prob", "prob")


class Problem(Exception):
    """A check failed; the text says in what."""


class NotApplicable(Exception):
    """A check has nothing to look at; the text says why."""


class CheckedRun:
    """A run, its data set, its task, what it wrote, and what its weights say now.

    Attributes:
        run: RunFolder.
        facts: dict, of run.json.
        kind: RunKind.
        settings: Settings.
    """

    def __init__(self, run, data_dir):
        self.run = run
        self.facts = run.facts()
        self.kind = run.kind
        self.settings = run.settings()
        self._data_dir = data_dir

    @cached_property
    def data_set(self):
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
    def task(self):
        """The Task; NotApplicable where the data set is not the run's."""
        try:
            data_set = self.data_set
        except (Problem, FedgruError):
            raise NotApplicable("needs the run's data set, see the check `data`") from None
        return build_task(data_set, self.settings, self._kernel)

    @cached_property
    def _kernel(self):
        numbers = self.facts.get("kernel")
        if self.settings.inputs.prior != "kernel" or not self.kind.learns_kernel:
            return None
        if numbers is None:
            raise NotApplicable("the run was stopped before its prior was learnt")
        return reopen_workflow.learnt_kernel(self.run)

    def rebuilt(self, check_ins):
        """Return the Task of other check-ins, with the same settings and the same kernel."""
        data_set = datasets.DataSet(self.data_set.name, check_ins, self.data_set.passport)
        try:
            return build_task(data_set, self.settings, self._kernel)
        except (
            FedgruError
        ) as error:  # train is the same, so it can be built unless it depends on it
            raise Problem(f"the task cannot be built with another future: {error}") from error

    def score(self, task, split):
        """Return the Evaluation of a split by the run's own predictor, the way `eval` scores."""
        if not self.kind.trains:
            return evaluate_counting(task, self.kind)  # of the test split, the only one
        if not self.kind.shares_model:
            return local_models.evaluate_local(task, self._models, split)
        return evaluate.evaluate(self._engine.beside(task), self.weights, split)

    def trained_on(self, task, client):
        """Return the LocalData of a client of a task, as the run trains on it."""
        if not self.kind.shares_model:
            own = local_models.alone(task, client)
            return replace(own, kernel=self._models[client].kernel).local_data(0)
        return task.local_data(client)

    @cached_property
    def test_scores(self):
        """The Evaluation of the test split, made now."""
        return self.score(self.task, "test")

    @property
    def scored_splits(self):
        """The splits that `score` can score beside train."""
        return ("val", "test") if self.kind.trains else ("test",)

    @cached_property
    def weights(self):
        """The best round's weights; NotApplicable if the run has none."""
        return self._best[0]

    @property
    def best_round(self):
        """The round that best.npz says its weights are of."""
        return self._best[1]

    @cached_property
    def _best(self):
        if not self.kind.trains:
            raise NotApplicable("the run counts: it has no weights")
        if not (self.run.path / "best.npz").exists():
            raise NotApplicable("the run has no best.npz: no round was finished")
        if not self.kind.shares_model:
            return self.run.load_weights("best")
        return reopen_workflow.best_weights(self.run, self.task)

    @cached_property
    def _models(self):
        return local_models.from_arrays(self.weights, len(self.task.clients))

    @cached_property
    def _engine(self):
        return JaxEngine(self.task)

    @cached_property
    def report(self):
        """test.json as a dict; NotApplicable if the run is not evaluated."""
        report = self.run.test()
        if not report:
            raise NotApplicable(f"not evaluated yet, do it with: fedgru eval {self.run.path}")
        return report

    @cached_property
    def predictions(self):
        """predictions.parquet, see `evaluate.prediction_table`."""
        self.report  # noqa: B018 (says so if there is none)
        return self.run.predictions(PREDICTED)

    @cached_property
    def rounds(self):
        """metrics.csv, see `RunFolder.rounds`; NotApplicable if the run has none."""
        rounds = self.run.rounds()
        if not rounds:
            raise NotApplicable("the run has no rounds")
        return rounds
