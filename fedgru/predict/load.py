"""The model of a run: its schema, and the weights of its best round."""

from fedgru.core.errors import RunError
from fedgru.core.types import Weights
from fedgru.predict.schema import Schema
from fedgru.runs.folder import RunFolder
from fedgru.task.task import Task
from fedgru.workflows import reopen as reopen_workflow


def load_model(run: RunFolder, task: Task) -> tuple[Schema, Weights, int]:
    """Return (Schema, weights, round_num) of a run's best round.

    Args:
        run: RunFolder.
        task: the run's Task.

    Raises:
        RunError: if the run has no model that all clients share, or none at all.
    """
    if not run.kind.shares_model:
        raise RunError(
            f"{run.path} is {run.kind.words}: it has no model that all clients share. "
            "Take a run of fedgru train, or of fedgru baseline central."
        )
    weights, round_num = reopen_workflow.best_weights(run, task)
    return Schema.of(task, weights), weights, round_num
