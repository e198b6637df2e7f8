"""The actors of one training: started, given work items, replaced when they die."""

import logging
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent import futures
from typing import Any, TypeAlias

from fedgru.algorithms.client_rule import ClientRule
from fedgru.core.cpus import usable_cpus
from fedgru.core.errors import FedgruError, TrainingError
from fedgru.core.types import AnyInts
from fedgru.core.versions import installed_versions
from fedgru.engines.base import Gathered
from fedgru.engines.ray.connection import Connection, connect
from fedgru.engines.ray.trainer import Sent, Trainer, for_training
from fedgru.task.task import Task

MAX_LOST = 3  # times that a work item is lost with its actor, or that actors fail to start
PATIENCE_S = 180  # longest time without any actor
SAME_VERSIONS = ("fedgru", "jax", "jaxlib", "numpy")  # other versions give other numbers

Future: TypeAlias = futures.Future[Any]
Items: TypeAlias = list[AnyInts]  # work items: clients of each
Running: TypeAlias = dict[Future, tuple[int, Any]]  # -> (number of the item, actor)
Queues: TypeAlias = dict[Any, deque[int]]  # actor, or None -> numbers of items

logger = logging.getLogger(__name__)


class Actors:
    """See the module's docstring.

    Args:
        task: Task; goes into Ray's object store once, and from there to each machine once.
        client_rule: ClientRule.

    Raises:
        TrainingError: if Ray cannot be reached, or does not have what is asked for.
    """

    def __init__(self, task: Task, client_rule: ClientRule) -> None:
        self._settings, self._ids = task.settings.ray, task.clients.client_ids
        here = self._settings.ray_address is None
        actors, cpus = self._settings.ray_actors, self._settings.ray_cpus
        if here and actors is None:
            actors = max(1, usable_cpus() // cpus)
        self._connection = connect(self._settings.ray_address, (actors or 0) * cpus)
        self._ray = self._connection.ray
        self._idle_cpus: dict[Any, int] = {}  # actor -> how many more items it can take now
        self._starting: dict[Future, Any] = {}  # future of what `about` returns -> actor
        self._places: dict[Any, str] = {}  # actor -> where it runs, for messages
        self._failed_starts = 0
        self._home: dict[int, Any] = {}  # client -> the actor that keeps its prepared data
        self.close = weakref.finalize(self, _end, self._connection, self._idle_cpus, self._starting)
        try:
            num_actors = self._check_resources(actors)
        except TrainingError:
            self.close()
            raise
        self._task, self._client_rule = self._ray.put(for_training(task)), client_rule
        self._class = self._ray.remote(Trainer).options(
            num_cpus=cpus,
            num_gpus=self._settings.ray_gpus,
            max_concurrency=cpus,
            max_restarts=0,  # a new one is started here, so that repeated work is logged
            scheduling_strategy="SPREAD",
        )
        for _ in range(num_actors):
            self._start_one()
        logger.info(
            "Ray: %d actors of %d CPUs %s",
            num_actors,
            cpus,
            "on this machine" if here else f"on the cluster at {self._settings.ray_address}",
        )

    def _check_resources(self, actors: int | None) -> int:
        """Return the number of actors: those asked for, or if none are, as many as fit."""
        there = self._ray.cluster_resources()
        fit = int(there.get("CPU", 0)) // self._settings.ray_cpus
        if self._settings.ray_gpus:
            fit = min(fit, int(there.get("GPU", 0) / self._settings.ray_gpus))
        if fit < (actors or 1):
            raise TrainingError(
                f"Ray has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs: too few "
                f"for {actors or 1} actors with `ray_cpus` {self._settings.ray_cpus} and "
                f"`ray_gpus` {self._settings.ray_gpus:g} each."
            )
        return actors or fit

    def _start_one(self) -> None:
        actor = self._class.remote(self._task, self._client_rule)
        self._starting[actor.about.remote().future()] = actor

    def work(self, sent: Sent, items: Items, round_num: int) -> Iterator[Gathered]:
        """Yield what `Trainer.train` returns for each item, in the items' order.

        Args:
            sent: see `Trainer.train`.
            items: list of int arrays, indices of clients; the longest first.
            round_num: for messages.

        Raises:
            TrainingError: if an item is lost MAX_LOST times, or no actor is left and none starts.
        """
        sent = self._ray.put(sent)
        queues = self._share_out(items)
        running: Running = {}
        parts: dict[int, Gathered] = {}
        lost: Counter[int] = Counter()
        alone_since = time.monotonic()
        for turn in range(len(items)):
            while turn not in parts:
                self.hand_out(queues, running, sent, items)
                if self._idle_cpus:
                    alone_since = time.monotonic()
                elif time.monotonic() - alone_since > PATIENCE_S:
                    raise TrainingError(
                        f"round {round_num}: no Ray actor is left, and none came up in "
                        f"{PATIENCE_S} s. Look at the cluster with: ray status"
                    )
                # not ray.wait: it turns every signal into a Ctrl-C
                ended, _ = futures.wait([*running, *self._starting], 5, futures.FIRST_COMPLETED)
                for future in ended:
                    if future in self._starting:
                        self._welcome(future)
                        continue
                    if future not in running:  # lost with the one before it
                        continue
                    item, actor = running[future]
                    try:
                        parts[item] = self._result(future)
                    except self._lost_errors() as error:
                        again = [i for i, of in running.values() if of == actor]
                        for one in [one for one, (_, of) in running.items() if of == actor]:
                            del running[one]
                        self._bury(actor, [items[i] for i in again], round_num, error)
                        queues[None].extendleft(reversed(again))
                        queues[None].extend(queues.pop(actor, ()))
                        lost.update(again)
                        self._check_lost(lost, items, round_num)
                    else:
                        del running[future]
                        self._idle_cpus[actor] += 1
            yield parts.pop(turn)

    def _share_out(self, items: Items) -> Queues:
        """Return {actor: items whose clients' prepared data it keeps}; under None all others."""
        queues = {None: deque()} | {actor: deque() for actor in self._idle_cpus}
        for number, clients in enumerate(items):
            homes = Counter(self._home.get(int(client)) for client in clients)
            queues[homes.most_common(1)[0][0]].append(number)
        return queues

    def hand_out(self, queues: Queues, running: Running, sent: Any, items: Items) -> None:
        """Give each actor with a free CPU its own items first, then free ones, then another's."""
        for actor in self._idle_cpus:
            while self._idle_cpus[actor] and any(queues.values()):
                mine = queues.setdefault(actor, deque())
                queue = mine or queues[None] or max(queues.values(), key=len)
                item = queue.popleft() if queue in (mine, queues[None]) else queue.pop()
                running[actor.train.remote(sent, items[item]).future()] = item, actor
                self._idle_cpus[actor] -= 1
                self._home |= dict.fromkeys(map(int, items[item]), actor)

    def _welcome(self, future: Future) -> None:
        """Let an actor that has started take part."""
        actor = self._starting.pop(future)
        try:
            about = self._result(future)
        except self._lost_errors() as error:
            self._failed_starts += 1
            if self._failed_starts < MAX_LOST:
                logger.warning("a Ray actor did not come up, another is started: %s", error)
                self._start_one()
                return
            raise TrainingError(
                f"{MAX_LOST} Ray actors did not come up; fedgru has to be installed on every "
                f"machine of the cluster. Ray says: {error}"
            ) from error
        here = installed_versions()
        for package in SAME_VERSIONS:
            if about["versions"].get(package) != here.get(package):
                raise TrainingError(
                    f"{about['place']} has {package} {about['versions'].get(package)}, this "
                    f"process {here.get(package)}: install the same on every machine."
                )
        if self._settings.ray_gpus and about["platform"] == "cpu":
            raise TrainingError(
                f"`ray_gpus` is {self._settings.ray_gpus:g}, but JAX at {about['place']} knows no "
                "GPU: install jax[cuda] there, or leave it out."
            )
        self._idle_cpus[actor] = self._settings.ray_cpus
        self._places[actor] = about["place"]
        logger.info("Ray actor at %s", about["place"])

    def _result(self, future: Future) -> Any:
        try:
            return future.result()
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            raise cause if isinstance(cause, FedgruError) else error from error

    def _lost_errors(self) -> tuple[type[Exception], ...]:
        errors = self._ray.exceptions
        return errors.RayActorError, errors.ObjectLostError, errors.OutOfMemoryError

    def _bury(self, actor: Any, items: Items, round_num: int, error: Exception) -> None:
        """Log which clients a dead actor leaves, and start another in its place."""
        self._ray.kill(
            actor
        )  # it may still run, out of reach: two actors must not work on one item
        del self._idle_cpus[actor]
        self._home = {client: of for client, of in self._home.items() if of != actor}
        ids = [self._ids[int(client)] for clients in items for client in clients]
        logger.warning(
            "round %d: the Ray actor at %s was lost (%s); trained again by another: clients %s",
            round_num,
            self._places.pop(actor),
            type(error).__name__,
            ", ".join(ids),
        )
        self._start_one()

    def _check_lost(self, lost: Counter[int], items: Items, round_num: int) -> None:
        item, times = lost.most_common(1)[0]
        if times >= MAX_LOST:
            ids = ", ".join(self._ids[int(client)] for client in items[item])
            raise TrainingError(
                f"round {round_num}: {times} Ray actors died while they trained clients {ids}. If "
                "memory ran out, try a smaller `ray_actors` or `ray_item`."
            )


def _end(connection: Connection, actors: Iterable[Any], starting: Mapping[Future, Any]) -> None:
    try:
        if connection.ray.is_initialized():
            for actor in [*actors, *starting.values()]:
                connection.ray.kill(actor)
    finally:
        connection.release()
