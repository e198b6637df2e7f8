"""The jax engine's local training in many processes, on one machine or on a cluster, by Ray.

The cohort is cut into work items of a few clients. Actors are processes that live as long as the
training. They train the clients of an item and send back one weighted sum; this process adds the
sums in the order of the items. Neither the items nor their order depend on the number of actors, on
their speed, or on one that dies: the result is the same, byte for byte. Evaluation runs in this
process, as in the jax engine.
"""

import heapq
import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fedgru.algorithms import attacks
from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.protocol import Algorithm
from fedgru.config.settings import Settings
from fedgru.core.errors import MissingEngineError
from fedgru.core.types import AnyInts, Weights
from fedgru.engines.base import Constants, Gathered, OwnParts, refuse_own_parts
from fedgru.engines.jax.engine import JaxEngine
from fedgru.task.task import Task

if TYPE_CHECKING:
    from fedgru.engines.ray.actors import Actors


class RayEngine(JaxEngine):
    """See the module's docstring. At the first round it starts its actors, which end with it.

    Raises:
        MissingEngineError: if Ray is not installed.
    """

    name = "ray"

    @classmethod
    def check_here(cls, settings: Settings) -> None:
        """See Engine.check_here."""
        if importlib.util.find_spec("ray") is None:
            raise MissingEngineError(
                "`engine` ray needs Ray, which is not installed here. Install it with pip install "
                "'fedgru[dist]'; or run `make dist`, and .venv-dist/bin/fedgru in place of fedgru."
            )

    def __init__(self, task: Task, client_rule: ClientRule | None = None) -> None:
        self.check_here(task.settings)
        super().__init__(task, client_rule)
        self._actors: Actors | None = None

    def __str__(self) -> str:
        return self.name  # the actors log where they run

    def gather(
        self,
        algorithm: Algorithm,
        weights: Weights,
        cohort: AnyInts,
        round_num: int,
        constants: Constants | None = None,
        own: OwnParts | None = None,
    ) -> Gathered:
        """See Engine.gather."""
        refuse_own_parts(self.name, own)
        from fedgru.engines.ray.actors import Actors

        if self._actors is None:
            self._actors = Actors(self._task_of_actors(), self.client_rule)
        clients = self.task.clients
        items = cut_cohort(
            np.asarray(cohort),
            (clients.train_ends - clients.starts[:-1])[cohort],
            self.task.settings.ray.ray_item,
        )
        liars = attacks.liars_of(self.task.settings, weights)
        gathered = Gathered(self.task.settings, algorithm.start(weights), liars)
        try:
            sent = algorithm, weights, round_num, constants
            for part in self._actors.work(sent, items, round_num):
                gathered.merge(part)
        except BaseException:
            self.close()  # the results of running items are not needed
            raise
        gathered.add_lies(weights)
        return gathered

    def _task_of_actors(self) -> Task:
        """Return the task for the actors: if XLA is faster here, all machines use it."""
        if not self.prefers_xla:
            return self.task
        loop = self.task.settings.loop.model_copy(update={"local_loop": "xla"})
        return replace(self.task, settings=self.task.settings.model_copy(update={"loop": loop}))

    def close(self) -> None:
        """See Engine.close."""
        if self._actors is not None:
            self._actors.close()
            self._actors = None


def cut_cohort(cohort: AnyInts, num_checkins: AnyInts, clients_per_item: int) -> list[AnyInts]:
    """Cut a cohort into work items of about the same number of check-ins.

    Args:
        cohort: int [cohort], indices of clients.
        num_checkins: int [cohort], how many each of them trains on.
        clients_per_item: int, how many clients an item has on average.

    Returns:
        list of int arrays, the most check-ins first; within an item in the cohort's order.

    Source: Graham 1969, Bounds on multiprocessing timing anomalies: the client with the most
        check-ins first, each to the item that has the fewest so far.

    >>> [item.tolist() for item in cut_cohort(np.arange(5), np.array([9, 1, 4, 3, 2]), 2)]
    [[0], [1, 2], [3, 4]]
    """
    num_items = -(-len(cohort) // clients_per_item)
    loads = [(0, item) for item in range(num_items)]
    items: list[list[int]] = [[] for _ in loads]
    for place in np.argsort(-np.asarray(num_checkins), kind="stable"):
        load, item = heapq.heappop(loads)
        items[item].append(place)
        heapq.heappush(loads, (load + int(num_checkins[place]), item))
    in_order = sorted(loads, key=lambda of: (-of[0], of[1]))
    return [cohort[np.sort(items[item])] for _, item in in_order]
