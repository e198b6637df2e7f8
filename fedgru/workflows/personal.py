"""Runs whose clients have models of their own: what they keep, and the model of one of them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from fedgru import algorithms
from fedgru.algorithms.per_client import PerClient
from fedgru.core.errors import ConfigError, RunError
from fedgru.storage.client_store import ClientStore
from fedgru.training.per_client import WholeTable

if TYPE_CHECKING:
    from fedgru.algorithms.protocol import Algorithm
    from fedgru.core.types import Weights
    from fedgru.runs.folder import RunFolder
    from fedgru.task.round_task import RoundTask
    from fedgru.task.task import Task

STORE = "clients.sqlite"


def make_store(run: RunFolder, algorithm: Algorithm) -> ClientStore | None:
    """Return the ClientStore of a run that is trained; None if its clients keep nothing."""
    if isinstance(algorithm, PerClient) and algorithm.keeps:
        return ClientStore(run.path / STORE)
    return None


def open_store(run: RunFolder) -> ClientStore:
    """Return the ClientStore of a run.

    Raises:
        RunError: if it is missing.
    """
    path = run.path / STORE
    if not path.is_file():
        raise RunError(f"{path} is missing: it holds what the run's clients keep.")
    return ClientStore(path)


def algorithm_of(run: RunFolder, task: RoundTask) -> Algorithm:
    """Return the algorithm of a run's settings.

    Raises:
        RunError: if the run was trained from Python with another one, whose clients keep something.
    """
    own = run.facts().get("algorithm")
    if own is not None and (run.path / STORE).exists():
        raise RunError(
            f"{run.path} was trained by {own}, given from Python, whose clients keep something: "
            "its settings do not say how they are scored. Train it with `algorithm` MODULE:CLASS."
        )
    return algorithms.from_settings(task.settings)


def personal_of(run: RunFolder, task: RoundTask) -> PerClient | None:
    """Return the algorithm of a run whose clients have models of their own; None for others."""
    if not run.kind.has_engine:
        return None
    algorithm = algorithm_of(run, task)
    return algorithm if isinstance(algorithm, PerClient) and algorithm.personal else None


def shared_weights(run: RunFolder, task: RoundTask, weights: Weights) -> Weights:
    """Return the weights of the one model that a client without its own has."""
    algorithm = personal_of(run, task)
    return weights if algorithm is None else algorithm.received(weights)


def client_weights(
    run: RunFolder, task: Task, weights: Weights, round_num: int, client_id: str
) -> Weights:
    """Return the weights of one client's model in a run whose clients have models of their own.

    Args:
        run: RunFolder.
        task: the run's Task.
        weights, round_num: from `best_weights`.
        client_id: of the task's clients.
    """
    algorithm = personal_of(run, task)
    if algorithm is None:
        return weights
    client = task.clients.client_ids.index(client_id)
    with closing(open_store(run)) as store:
        model = algorithm.model_of(weights, client, store.get(client, round_num))
    with WholeTable().of(model) as own:
        return {name: array.copy() for name, array in own.items()}


def check_has_model(run: RunFolder, task: Task, client: str) -> None:
    """Raise a ConfigError unless a client of the run has a model of its own."""
    if personal_of(run, task) is None:
        raise ConfigError(
            f"`client` has no effect on {run.path}, whose clients share one model: leave it out."
        )
    if client not in task.clients.client_ids:
        raise ConfigError(f"`client` {client} is not among the clients of {run.path}.")
