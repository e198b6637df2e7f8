"""Rounds that overlap, in simulated time: clients train at their own pace, see FedBuff."""

from bisect import insort
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fedgru.algorithms.fed_avg import ClientUpdate, NoUpdate, ServerState
from fedgru.algorithms.fed_buff import FedBuff
from fedgru.algorithms.per_client import PerClient
from fedgru.algorithms.simulated import InFlight, Simulated
from fedgru.core.errors import ConfigError, TrainingError
from fedgru.core.types import Ints, Weights
from fedgru.engines.base import Engine, Gathered, RoundResult, check_diverged
from fedgru.task.task import Task
from fedgru.training.rounds import check_usable
from fedgru.training.simulated_time import (
    Devices,
    SimulatedTraining,
    Simulation,
    num_in_flight,
)

MAX_FAULTS = 100  # times the clients in flight and in the buffer, in one round
REPEATED = 1_000_000  # between the draws of a client's trainings from one version


class AsynchronousTraining(SimulatedTraining):
    """Federated training without waiting; a round is one update of the server's weights.

    `concurrency` clients train at once, as far as enough are on. Each starts from the newest
    weights when a place is free. The server updates its weights with every `buffer_size` updates
    that come in. Nothing is trained before its update is needed: in flight there are only numbers,
    and the weights that clients received, by version.

    Clients that are done at the same moment are taken in the order of their index; the places of
    all that were done by then are filled afterwards.

    Args:
        engine, simulation: see SimulatedTraining.
        algorithm: FedBuff.
    """

    algorithm: FedBuff

    def __init__(self, engine: Engine[Task], algorithm: FedBuff, simulation: Simulation) -> None:
        super().__init__(engine, algorithm, simulation)
        half = algorithm.server_half
        if isinstance(half, PerClient) or half.client_rule.by_client:
            raise ConfigError(
                f"`buffer_size` does not go with {half.name}, whose clients keep, measure or start "
                "from something of their own."
            )

    def init(self) -> ServerState:
        """See FederatedTraining.init."""
        return replace(super().init(), simulated=Simulated(in_flight=()))

    def run_round(self, state: ServerState, cohort: Ints) -> RoundResult:
        """Return the RoundResult of one update of the server's weights.

        Args:
            state: ServerState.
            cohort: not used: clients are drawn when a place is free.

        Raises:
            TrainingError: if training diverges, or too few clients ever send an update.
        """
        before, version, round_num = state.simulated, state.round_num, state.round_num + 1
        assert before is not None, "made by init"
        settings = self.task.settings
        wanted = settings.availability.buffer_size or 1
        versions = {**before.versions, version: state.weights}
        flights = Flights(self.devices, before, version, num_in_flight(self.engine.task))
        buffer, staleness, num_answers = self.algorithm.start(state.weights), list[int](), 0
        gathered = Gathered(settings, buffer)
        while len(buffer) < wanted:
            answers = flights.wait_for(wanted - len(buffer))
            num_answers += len(answers)
            for flight, update in zip(answers, self._train(answers, versions), strict=True):
                num_before, buffer.staleness = len(buffer), version - flight.version
                gathered.add(self.task, update, versions[flight.version], flight.draw)
                if len(buffer) > num_before:
                    staleness.append(buffer.staleness)
                else:
                    flights.add_fault(gathered.unusable[flight.client], flight.client)
            check_usable(self.task, flights.faults, num_answers, round_num)
        metrics = {
            "loss": gathered.loss_sum / gathered.num_examples,
            "acc@1": gathered.num_correct / gathered.num_examples,
        }
        check_diverged(settings, metrics["loss"], round_num)
        now = flights.stand(versions, float(np.mean(staleness)))
        after = replace(self.algorithm.apply(state, buffer), simulated=now)
        return RoundResult(after, metrics, len(buffer), gathered.num_examples, flights.faults)

    def _train(
        self, answers: Sequence[InFlight], versions: Mapping[int, Weights]
    ) -> list[ClientUpdate | NoUpdate]:
        """Return the update of each client; those of one version are trained together."""
        together: dict[tuple[int, int], list[int]] = {}
        for flight in answers:
            together.setdefault((flight.version, flight.draw), []).append(flight.client)
        made = {
            (update.client, draw): update
            for (version, draw), clients in together.items()
            for update in self.engine.local_updates(versions[version], np.array(clients), draw)
        }
        return [made[flight.client, flight.draw] for flight in answers]


class Flights:
    """The clients that train while the server waits for one update of its weights.

    Args:
        devices: Devices.
        begin: Simulated, where the last update left it.
        version: the round after which the newest weights were made.
        most: how many clients train at once.

    Attributes:
        faults: fault -> indices of clients that sent nothing usable since the last update.
    """

    def __init__(self, devices: Devices, begin: Simulated, version: int, most: int) -> None:
        self._devices, self._version, self._most = devices, version, most
        self._now = begin
        # first the one that is done first
        self._in_flight = sorted(begin.in_flight or (), key=_order)
        self._starts: Counter[int] = Counter()  # of each client, from this version
        self._draws = 0
        self.faults: dict[str, list[int]] = {}

    def add_fault(self, why: str, client: int) -> None:
        """Add a client to `faults`."""
        self.faults.setdefault(why, []).append(client)

    def wait_for(self, number: int) -> list[InFlight]:
        """Let time pass until this many clients have sent an update; return them in that order.

        Raises:
            TrainingError: if far more clients fail than send.
        """
        sent: list[InFlight] = []
        while True:
            while self._in_flight and self._in_flight[0].end_ms <= self._now.time_ms:
                flight = self._in_flight.pop(0)
                if flight.why is not None:
                    self.add_fault(flight.why, flight.client)
                    continue
                self._move(up_bytes=self._devices.work(flight.client).up_bytes)
                sent.append(flight)
                if len(sent) == number:
                    return sent
            self._check_alive(number)
            self._fill()
            self._pass_time()

    def _check_alive(self, number: int) -> None:
        failed = sum(map(len, self.faults.values()))
        if failed > MAX_FAULTS * (self._most + number):
            listed = ", ".join(f"{len(clients):,} {why}" for why, clients in self.faults.items())
            raise TrainingError(
                f"round {self._version + 1} does not end: {listed}, and fewer than `buffer_size` "
                "updates came in. Clients must be on for longer, or be given more time."
            )

    def _fill(self) -> None:
        """Let clients that are on start from the newest weights, as far as places are free."""
        free = self._most - len(self._in_flight)
        if not free:
            return
        time_ms, busy = self._now.time_ms, [flight.client for flight in self._in_flight]
        drawn = self._devices.draw(free, time_ms, self._version + 1, self._draws, busy=busy)
        if not len(drawn):
            return
        self._draws += 1
        # a second training from the same version draws other random numbers than the first
        repeats = np.array([self._starts[int(client)] for client in drawn])
        for repeat in np.unique(repeats):
            draw = self._version + 1 + REPEATED * int(repeat)
            for visit in self._devices.visits(drawn[repeats == repeat], time_ms, draw):
                self._starts[visit.client] += 1
                self._move(down_bytes=self._devices.work(visit.client).down_bytes)
                flight = InFlight(visit.client, self._version, draw, visit.end_ms, visit.why)
                insort(self._in_flight, flight, key=_order)

    def _pass_time(self) -> None:
        """Go on to the next moment at which a client is done, or comes on where one is missing."""
        moments = [flight.end_ms for flight in self._in_flight[:1]]
        if len(self._in_flight) < self._most:
            moments += self._devices.next_start(self._now.time_ms)
        self._now = replace(self._now, time_ms=min(moments))

    def _move(self, down_bytes: int = 0, up_bytes: int = 0) -> None:
        self._now = replace(
            self._now,
            down_bytes=self._now.down_bytes + down_bytes,
            up_bytes=self._now.up_bytes + up_bytes,
        )

    def stand(self, versions: Mapping[int, Weights], staleness: float) -> Simulated:
        """Return the Simulated after the update.

        Args:
            versions: round -> the weights after it; those that nobody in flight has are left out.
            staleness: mean of the update's.
        """
        used = {flight.version for flight in self._in_flight}
        return replace(
            self._now,
            in_flight=tuple(self._in_flight),
            staleness=staleness,
            versions={version: versions[version] for version in sorted(used)},
        )


def _order(flight: InFlight) -> tuple[int, int]:
    return flight.end_ms, flight.client
