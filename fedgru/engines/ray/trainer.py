"""What runs inside a Ray actor: the jax engine, on the clients of one work item after another."""

import os
import socket
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedgru.algorithms import attacks
from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.protocol import Algorithm
from fedgru.core.jax_setup import kept_between_runs, limit_threads
from fedgru.core.types import AnyInts, Weights
from fedgru.core.versions import installed_versions
from fedgru.engines.base import Constants, Gathered
from fedgru.engines.jax.engine import JaxEngine
from fedgru.task.task import Known, Task

Sent: TypeAlias = tuple[Algorithm, Weights, int, Constants | None]


class Trainer:
    """Trains clients of one task. Ray calls `train` on as many threads as the actor has CPUs.

    Args:
        task: Task, see `for_training`.
        client_rule: ClientRule.
    """

    def __init__(self, task: Task, client_rule: ClientRule) -> None:
        limit_threads(task.settings.ray.ray_cpus)
        self._kept = ExitStack()
        self._kept.enter_context(kept_between_runs())
        # all actors run the same code, wherever they are
        self._engine = JaxEngine(task, client_rule, heeds_speeds=False)

    def about(self) -> dict[str, Any]:
        """Return dict: host and process, versions of packages, and the kind of device it has."""
        return {
            "place": f"{socket.gethostname()}, process {os.getpid()}",
            "versions": installed_versions(),
            "platform": self._engine.device.platform,
        }

    def train(self, sent: Sent, clients: AnyInts) -> Gathered:
        """Return the Gathered of some clients: one weighted sum, over the rows that they own.

        Args:
            sent: (algorithm, weights, round_num, constants), the same for all items of a round, see
                `Engine.gather`.
            clients: int [num_clients], indices.
        """
        algorithm, weights, round_num, constants = sent
        updates = list(self._engine.local_updates(weights, clients, round_num, constants))
        row_ids = np.unique(np.concatenate([update.row_ids for update in updates]))
        settings = self._engine.task.settings
        liars = attacks.liars_of(settings, weights, row_ids)
        gathered = Gathered(settings, algorithm.start(weights, row_ids), liars)
        for update in updates:
            gathered.add(self._engine.task, update, weights, round_num)
        return gathered


def for_training(task: Task) -> Task:
    """Return the Task without what only evaluation reads; it is sent to every machine once."""
    # a Trainer trains a client at a time on a CPU, a work item at a time on a GPU
    device = "auto" if task.settings.ray.ray_gpus else "cpu"
    loop = task.settings.loop.model_copy(update={"threads": 1, "device": device})
    # fields of records would be copied for each actor; whole arrays are in memory that they share
    whole: dict[int, npt.NDArray[Any]] = {}

    def made_whole(value: object, *names: str) -> dict[str, npt.NDArray[Any]]:
        arrays = {name: getattr(value, name) for name in names}
        for array in arrays.values():
            whole.setdefault(id(array), np.ascontiguousarray(array))
        return {name: whole[id(array)] for name, array in arrays.items()}

    classes = made_whole(task, "classes")["classes"]
    inputs = made_whole(task.inputs, "rows", "numbers")
    return replace(
        task,
        classes=classes,
        inputs=replace(task.inputs, rows=inputs["rows"], numbers=inputs["numbers"]),
        history=replace(task.history, **made_whole(task.history, *vars(task.history))),
        settings=task.settings.model_copy(update={"loop": loop}),
        check_ins=None,  # type: ignore[arg-type]  # only evaluation reads it, as the next one
        target_codes=None,  # type: ignore[arg-type]
        best_prob=None,
        coverage=[],
        stored_parts=None,
        # computed once, here
        known=Known(task.clients, classes, {"shared": task.shared, "backdoor": task.backdoor}),
    )
