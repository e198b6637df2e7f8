"""Rounds in simulated time: who is on, how long each client takes, when the round ends.

A client takes

    local steps * `step_s` / speed + bits down and up / bandwidth

with a speed and a bandwidth of its own, both log-normal, drawn once by seed and client. Nothing
depends on how long the simulation itself takes.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from fedgru import algorithms
from fedgru.agnostic import protection
from fedgru.algorithms import faults
from fedgru.algorithms.fed_avg import ServerState
from fedgru.algorithms.protocol import Algorithm
from fedgru.algorithms.sent import sent_by
from fedgru.algorithms.simulated import Simulated
from fedgru.core import seeding
from fedgru.core.errors import ConfigError
from fedgru.core.types import Ints
from fedgru.engines.base import Engine, RoundResult
from fedgru.storage.client_store import ClientStore
from fedgru.task.task import Task
from fedgru.training import availability
from fedgru.training.availability import ALWAYS_MS, WhoIsOn, Windows
from fedgru.training.rounds import FederatedTraining
from fedgru.training.traffic import count_traffic, num_own_rows

STEP_S = 1.0
BANDWIDTH_MBPS = 5.0
DEVICE_SPREAD = 0.5

logger = logging.getLogger(__name__)


class Work(NamedTuple):
    """What one round of a client takes."""

    duration_ms: int
    down_bytes: int
    up_bytes: int


class Visit(NamedTuple):
    """One client's part in a round: when it is over, and the fault, or None if it sends."""

    client: int
    end_ms: int
    why: str | None


@dataclass(frozen=True)
class Simulation:
    """What a run with simulated time reads before round 1.

    Attributes:
        windows: when each client is on; None: always.
    """

    windows: Windows | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says of it."""
        if self.windows is None or self.windows.sha256 is None:
            return {}
        return {"availability_sha256": self.windows.sha256}


def open_simulation(task: Task) -> Simulation | None:
    """Return the Simulation that a task's settings describe; None without simulated time.

    Raises:
        ConfigError: if a round asks for more clients than are ever on at once.
        DataError: if the trace cannot be used.
    """
    given = task.settings.availability
    if not given.is_simulated:
        return None
    windows = None
    if given.availability == "clock":
        windows = availability.of_clocks(task, given.window_h or availability.WINDOW_H)
    elif given.availability != "none":
        windows = availability.read_trace(given.availability, task)
    needed, num_training = num_drawn(task), len(task.training_clients)
    most = num_training if windows is None else windows.most_on
    if needed > most:
        raise ConfigError(
            f"a round needs {needed} clients, but at most {most} of the {num_training} clients "
            f"with training data are on at once. Use a smaller {_needs(task)}."
        )
    if num_in_flight(task) > num_training:
        raise ConfigError(
            f"`concurrency` is {num_in_flight(task)}, but the split has {num_training} clients "
            "with training data."
        )
    return Simulation(windows)


def num_in_flight(task: Task) -> int:
    """Return how many clients train at once, with `buffer_size`."""
    return task.settings.availability.concurrency or len(task.training_clients)


def num_drawn(task: Task) -> int:
    """Return how many clients must be on before a round begins."""
    size = task.settings.loop.clients_per_round
    if size is None:
        return task.settings.faults.min_clients
    # 10 times 1.1 is 11, not a little more
    return math.ceil(round(size * (task.settings.availability.oversample or 1), 6))


def _needs(task: Task) -> str:
    if task.settings.loop.clients_per_round is None:
        return "`min_clients`"
    or_less = " or `oversample`" if task.settings.availability.oversample else ""
    return f"`clients_per_round`{or_less}"


class Devices:
    """How long the clients of a task take, and who of them is on.

    Args:
        task: Task.
        local_epochs: of the client rule.
        windows: Windows; None: everybody, always.
    """

    def __init__(self, task: Task, local_epochs: int, windows: Windows | None) -> None:
        self._task, self._local_epochs, self._windows = task, local_epochs, windows
        num_clients = int(np.max(task.training_clients, initial=-1)) + 1
        self._who = None if windows is None else WhoIsOn(windows, num_clients)
        # of the weights only their shapes are used
        self._weights = {
            name: np.broadcast_to(np.float32(0), weight.shape)
            for name, weight in protection.init_weights(task).items()
        }
        self._sent = sent_by(algorithms.from_settings(task.settings))
        self._known: dict[int, Work] = {}

    def work(self, client: int) -> Work:
        """Return the Work of a client; the same in every round."""
        if client not in self._known:
            self._known[client] = self._work(client)
        return self._known[client]

    def _work(self, client: int) -> Work:
        task, given = self._task, self._task.settings.availability
        batches = task.batches(client, self._local_epochs)
        traffic = count_traffic(
            self._weights,
            [num_own_rows(task, client)],
            has_head=task.protection is not None,
            sent=self._sent,
        )
        down, up = int(traffic.down_bytes[0]), int(traffic.up_bytes[0])
        spread = DEVICE_SPREAD if given.device_spread is None else given.device_spread
        slower, wider = (
            math.exp(spread * seeding.rng(task.settings.loop.seed, purpose, 0, client).normal())
            for purpose in ("device speed", "device bandwidth")
        )
        computing_s = len(batches.pairs) * batches.passes * (given.step_s or STEP_S) * slower
        sending_s = 8e-6 * (down + up) / ((given.bandwidth_mbps or BANDWIDTH_MBPS) * wider)
        return Work(max(1, round(1000 * (computing_s + sending_s))), down, up)

    def begin(self, number: int, time_ms: int) -> int:
        """Return the first time, not before `time_ms`, at which this many clients are on."""
        return time_ms if self._windows is None else self._windows.first_with(number, time_ms)

    def next_start(self, time_ms: int) -> list[int]:
        """Return [first time after `time_ms` at which a client comes on]; empty if all are on."""
        return [] if self._windows is None else [self._windows.next_start(time_ms)]

    def draw(self, number: int | None, time_ms: int, *key: int, busy: Sequence[int] = ()) -> Ints:
        """Return int64 [num_drawn], ascending: training clients that are on, drawn at random.

        With all clients on the draw is that of `loop.draw_cohort`.

        Args:
            number: how many, or all if there are fewer; None takes all.
            time_ms: the time.
            key: of `seeding.rng` after seed and purpose; the first is the number of the round.
            busy: indices of clients that are not drawn.
        """
        there = np.asarray(self._task.training_clients)
        if self._who is not None:
            there = there[self._who.at(time_ms)[there]]
        if len(busy):
            is_busy = np.zeros(int(np.max(there, initial=-1)) + 1, bool)
            is_busy[np.asarray(busy)[np.asarray(busy) < len(is_busy)]] = True
            there = there[~is_busy[there]]
        if number is None or not len(there):
            return there
        draw = seeding.rng(self._task.settings.loop.seed, "cohort", *key)
        places = draw.choice(len(there), min(number, len(there)), replace=False)
        return there[np.sort(places)]

    def visits(self, cohort: Ints, time_ms: int, round_num: int) -> list[Visit]:
        """Return the Visit of each client that receives weights at a time.

        A client that drops out (`client_dropout`) is missed when it would have been done. If a
        client would fail for several reasons, it does for the first of them.
        """
        deadline_min = self._task.settings.availability.deadline_min
        limit = ALWAYS_MS if deadline_min is None else time_ms + max(1, round(6e4 * deadline_min))
        _, gone = faults.drop_out(self._task, cohort, round_num)
        off_ms = np.full(len(cohort), ALWAYS_MS)
        if self._windows is not None:
            off_ms = self._windows.on_until(cohort, time_ms)
        found = []
        for client, off in zip(cohort.tolist(), off_ms.tolist(), strict=True):
            end_ms = time_ms + self.work(client).duration_ms
            why = faults.DROPPED_OUT if client in gone else None
            if off < end_ms:
                end_ms, why = off, faults.WENT_OFF
            if limit < end_ms:
                end_ms, why = limit, faults.TOO_LATE
            found.append(Visit(client, end_ms, why))
        return found

    def __str__(self) -> str:
        given = self._task.settings.availability
        who = "everybody is always on"
        if self._windows is not None:
            who = f"availability {given.availability}, at most {self._windows.most_on} on at once"
        return f"simulated time: {who}"


class SimulatedTraining(FederatedTraining):
    """Federated rounds in simulated time.

    A round begins when enough clients are on, and ends as `close_round` has it.

    Args:
        engine, algorithm, store: see FederatedTraining.
        simulation: Simulation.
    """

    def __init__(
        self,
        engine: Engine[Task],
        algorithm: Algorithm,
        simulation: Simulation,
        store: ClientStore | None = None,
    ) -> None:
        super().__init__(engine, algorithm, store)
        self.simulation = simulation
        self.devices = Devices(engine.task, engine.client_rule.local_epochs, simulation.windows)

    def init(self) -> ServerState:
        """See FederatedTraining.init."""
        logger.info("%s", self.devices)
        for note in self.simulation.windows.notes if self.simulation.windows else ():
            logger.info("%s", note)
        return replace(super().init(), simulated=Simulated())

    def run_round(self, state: ServerState, cohort: Ints) -> RoundResult:
        """Return the RoundResult of a round.

        Args:
            state: ServerState.
            cohort: not used: the cohort is drawn from the clients that are on.
        """
        before, round_num = state.simulated, state.round_num + 1
        assert before is not None, "made by init"
        needed, size = num_drawn(self.engine.task), self.task.settings.loop.clients_per_round
        start_ms = self.devices.begin(needed, before.time_ms)
        cohort = self.devices.draw(None if size is None else needed, start_ms, round_num)
        visits = self.devices.visits(cohort, start_ms, round_num)
        visits, end_ms = close_round(visits, size or len(visits))
        missed = by_fault(visits)
        # run_round finds out by itself who drops out
        late = [c for why, clients in missed.items() if why != faults.DROPPED_OUT for c in clients]
        result = super().run_round(state, cohort[~np.isin(cohort, late)])
        work = [self.devices.work(visit.client) for visit in visits]
        now = Simulated(
            time_ms=end_ms,
            down_bytes=before.down_bytes + sum(one.down_bytes for one in work),
            up_bytes=before.up_bytes
            + sum(one.up_bytes for one, visit in zip(work, visits, strict=True) if not visit.why),
        )
        found = {w: clients for w, clients in missed.items() if w != faults.DROPPED_OUT}
        return replace(
            result, state=replace(result.state, simulated=now), faults=result.faults | found
        )


def close_round(visits: Sequence[Visit], size: int) -> tuple[list[Visit], int]:
    """Return the Visits of a round that ends with the update number `size`, and when that is.

    Who sends later is too late. With fewer updates the round ends when nobody is left to wait for.

    >>> visits = [Visit(0, 9, None), Visit(1, 7, None), Visit(2, 8, "dropped out")]
    >>> close_round(visits, 1)[0][0], close_round(visits, 1)[1], close_round(visits, 3)[1]
    (Visit(client=0, end_ms=7, why='too late'), 7, 9)

    Source: Bonawitz et al. 2019 (arXiv:1902.01046), section 2.2: 130 % of the wanted clients are
        drawn, and the round goes on with the first that report.
    """
    sent = sorted((visit.end_ms, visit.client) for visit in visits if visit.why is None)
    if len(sent) < size:
        return list(visits), max(visit.end_ms for visit in visits)
    end_ms = sent[size - 1][0]
    late = {client for _, client in sent[size:]}
    closed = [Visit(v.client, end_ms, faults.TOO_LATE) if v.client in late else v for v in visits]
    return closed, end_ms


def by_fault(visits: Sequence[Visit]) -> dict[str, list[int]]:
    """Return {fault: indices of clients} of those that send nothing."""
    found: dict[str, list[int]] = {}
    for visit in visits:
        if visit.why is not None:
            found.setdefault(visit.why, []).append(visit.client)
    return found
