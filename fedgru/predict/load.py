"""The model of a run: its schema, and the weights of its best round."""

from fedgru.core.errors import RunError
from fedgru.core.types import Weights
from fedgru.predict.schema import Schema
from fedgru.runs.folder import RunFolder
from fedgru.task.task import Task
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows.personal import client_weights, shared_weights


def load_model(
    run: RunFolder, task: Task, client: str | None = None
) -> tuple[Schema, Weights, int]:
    """Return (Schema, weights, round_num) of a run's best round.

    Args:
        run: RunFolder.
        task: the run's Task.
        client: whose model, where clients have models of their own; None, or somebody who is not
            among the run's clients, for the one that a new client starts with.

    Raises:
        RunError: if the run has no model that all clients share, or none at all.
    """
    if not run.kind.shares_model:
        raise RunError(
            f"{run.path} is {run.kind.words}: it has no model that all clients share. "
            "Take a run of fedgru train, or of fedgru baseline central."
        )
    if task.settings.data.protocol is not None:
        raise RunError(
            f"{run.path} was trained with `protocol` {task.settings.data.protocol}, which leaves "
            "out some of a person's check-ins: there is no prediction for a person as they come."
        )
    weights, round_num = reopen_workflow.best_weights(run, task)
    if client is not None and client in task.clients.client_ids:
        weights = client_weights(run, task, weights, round_num, client)
    else:
        weights = shared_weights(run, task, weights)
    return Schema.of(task, weights), weights, round_num
