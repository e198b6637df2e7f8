"""Rounds over clients on other machines.

Each client receives one message a round: it scores its validation split with the new weights, and
trains the next round from them. Both need the same weights, and a message takes seconds in Flower.
If training stops then, the result of that last training is not used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedgru.algorithms import faults
from fedgru.algorithms.client_start import Starts
from fedgru.algorithms.fed_avg import ClientUpdate, NoUpdate, ServerState
from fedgru.algorithms.protocol import Algorithm
from fedgru.core.errors import TrainingError
from fedgru.core.types import AnyInts, Doubles, Ints, Row, Weights
from fedgru.deploy import claims, records, secure
from fedgru.deploy.federation import Federation
from fedgru.deploy.scores import summarise_clients
from fedgru.engines.base import Engine, Gathered, OwnParts, RoundResult, refuse_own_parts
from fedgru.training import loop as round_loop
from fedgru.training.rounds import FederatedTraining

if TYPE_CHECKING:
    from fedgru.config.settings import Settings
    from fedgru.deploy.privacy import Privacy
    from fedgru.deploy.records import Scores
    from fedgru.models.gru import ModelSpec
    from fedgru.task.kernel_prior import Kernel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteClients:
    """The clients of a RemoteTask: their names, in the order in which they joined."""

    client_ids: Sequence[str]


@dataclass(frozen=True)
class RemoteTask:
    """A `fedgru.task.round_task.RoundTask` whose check-ins are on other machines.

    Its number of clients grows when one joins. `federation` has the clients, `privacy` how they
    protect their updates.
    """

    settings: Settings
    spec: ModelSpec
    kernel: Kernel | None
    federation: Federation
    privacy: Privacy
    protection: None = None
    attackers: frozenset[int] = frozenset()

    @property
    def counts_once(self) -> bool:
        """Whether a client counts as one example, and sends no other number."""
        return self.privacy.noise is not None or self.settings.server.client_weights == "equal"

    def release(self) -> None:
        """See `RoundTask.release`: there is no data set to release."""

    def draw(self, generator: np.random.Generator, number: int) -> Ints:
        """See `RoundTask.draw`."""
        return np.sort(generator.choice(self.training_clients, number, replace=False))

    @property
    def clients(self) -> RemoteClients:
        return RemoteClients(self.federation.names)

    @property
    def training_clients(self) -> Ints:
        return np.arange(self.federation.admitted)


class FederationTraining(FederatedTraining):
    """Federated training in which the clients validate."""

    engine: FederationEngine

    def run_round(self, state: ServerState, cohort: Ints) -> RoundResult:
        """See FederatedTraining.run_round; with noise clients send no loss and no hits."""
        result = super().run_round(state, cohort)
        if self.engine.task.privacy.noise is None:
            return result
        return replace(result, metrics=dict.fromkeys(result.metrics, float("nan")))

    def validate(self, state: ServerState) -> Row:
        """See FederationEngine.validate."""
        return self.engine.validate(state)


class FederationEngine(Engine):
    """Runs rounds by asking the clients of a Federation."""

    name = "flower"

    def __init__(self, task: RemoteTask) -> None:
        super().__init__(task)
        self._federation = task.federation
        # (round, weights, replies) of a training that was asked for with the validation before
        self._ahead: tuple[int, Weights, dict[int, Any]] | None = None

    def gather(
        self,
        algorithm: Algorithm,
        weights: Weights,
        cohort: AnyInts,
        round_num: int,
        constants: Any = None,
        own: OwnParts | None = None,
    ) -> Gathered:
        """See Engine.gather; with secure aggregation the server learns only the sums."""
        refuse_own_parts("of a deployment", own)
        if not self.task.privacy.secure:
            return super().gather(algorithm, weights, cohort, round_num, constants)
        there = [n for n in self._wait(secure.MIN_CLIENTS) if n in cohort]
        mean, examples = self._mean_of_masked(weights, there, round_num)
        gathered = Gathered(self.task.settings, algorithm.start(weights))
        if mean is not None and len(examples) >= secure.MIN_CLIENTS:
            gathered.total, gathered.loss_sum, gathered.num_correct = secure.from_mean(
                mean, sum(examples.values()), len(examples), weights
            )
            gathered.num_examples = sum(examples.values())
        for client in map(int, cohort):
            if client not in examples:
                gathered.unusable[client] = faults.DROPPED_OUT
        return gathered

    def _mean_of_masked(
        self, weights: Weights, there: Sequence[int], round_num: int
    ) -> tuple[Doubles | None, dict[int, int]]:
        """Return the mean of some clients' vectors, and {client: examples} of those in it."""
        if len(there) < secure.MIN_CLIENTS:
            return None, {}
        members = self._federation.members
        nodes = {members[client].node_id: client for client in there}
        asks = {
            node: records.Ask(round_num, client, True, len(there), "")
            for node, client in nodes.items()
        }
        most = 1
        if not self.task.counts_once:
            most = claims.cap([members[client].examples for client in there])
        result = secure.aggregate(
            self._federation.exchange,
            {node: records.pack_ask(ask, weights) for node, ask in asks.items()},
            most,
            secure.clipping_range(self.task.privacy, len(there)),
            round_num,
        )
        if result is None:
            return None, {}
        mean, examples = result
        # what a client weighs in the sum is hidden: its number here is again its own claim
        return mean, {nodes[node]: min(max(n, 1), most) for node, n in examples.items()}

    def local_updates(
        self,
        weights: Weights,
        cohort: AnyInts,
        round_num: int,
        constants: Any = None,
        starts: Starts | None = None,
    ) -> Iterator[ClientUpdate | NoUpdate]:
        """See Engine.local_updates; a client of the cohort that is offline has dropped out."""
        assert starts is None, "gather refuses what differs by client"
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == round_num and ahead[1] is weights:
            replies = ahead[2]
        else:
            self._wait()
            replies = self._ask(weights, cohort, round_num, [])
        found = [
            self._read_update(int(client), replies.get(int(client), faults.DROPPED_OUT))
            for client in cohort
        ]
        yield from self._weighed(found)

    def _weighed(
        self, found: Sequence[ClientUpdate | NoUpdate]
    ) -> Iterator[ClientUpdate | NoUpdate]:
        """Yield updates that count at most as much as the cap says, see fedgru/deploy/claims.py."""
        updates = [one for one in found if isinstance(one, ClientUpdate) and one.num_examples > 0]
        most = claims.cap([one.num_examples for one in updates])
        for one in found:
            if isinstance(one, NoUpdate) or one.num_examples <= most:
                yield one
                continue
            name = self._federation.names[one.client]
            logger.info("%s counts as %d examples of %d", name, most, one.num_examples)
            yield claims.weigh(one, most)

    def validate(self, state: ServerState) -> Row:
        """Return {"val/metric/average": value} of a ServerState, over the connected clients.

        The same message asks the next round's cohort to train.
        """
        weights, next_round = state.weights, state.round_num + 1
        self._federation.online()
        self._federation.admit()
        cohort = []
        if next_round <= self.task.settings.loop.rounds and not self.task.privacy.secure:
            cohort = [int(c) for c in round_loop.draw_cohort(self.task, next_round)]
        while True:
            replies = self._ask(weights, cohort, next_round, self._wait())
            found = self._read_scores(replies, "val")
            if found:
                break
            self._ask_again(replies, f"round {state.round_num}")
        self._ahead = (next_round, weights, replies)
        silent = [n for n in range(len(self._federation)) if n not in found]
        if silent:
            names = ", ".join(self._federation.names[n] for n in silent)
            logger.info("round %d is validated without %s", state.round_num, names)
        found, bounded = claims.bounded(found)
        for client, what in bounded.items():
            logger.info("validation, %s: %s", self._federation.names[client], what)
        return summarise_clients(found, "val")

    def test(self, weights: Weights, round_num: int) -> dict[int, Scores]:
        """Return {client: Scores} of the test split, of all connected clients."""
        while True:
            there = self._federation.wait_for(1)
            asked = {
                client: records.pack_ask(records.Ask(round_num, client, False, 0, "test"), weights)
                for client in there
            }
            replies = self._federation.ask(asked, "test")
            if found := self._read_scores(replies, "test"):
                return found
            self._ask_again(replies, "the test split")

    def _read_scores(self, replies: dict[int, Any], split: str) -> dict[int, Scores]:
        """Return {client: Scores} of those whose reply has scores of a split that can be.

        Whose scores cannot be is put aside: in `replies`, a false claim takes the place of the
        reply, with the update in it.
        """
        found = {}
        for client, reply in replies.items():
            if isinstance(reply, str) or split not in reply:
                continue
            member = self._federation.members[client]
            try:
                scores = records.unpack_scores(reply[split])
                why = claims.false_scores(scores, getattr(member, split))
            except ValueError as error:
                scores, why = None, str(error)
            if scores is not None and why is None:
                found[client] = scores
                continue
            logger.warning("the %s scores of %s are left out: %s", split, member.name, why)
            replies[client] = faults.FALSE_CLAIM
        return found

    def _ask_again(self, replies: dict[int, Any], what: str) -> None:
        """Log that no client sent scores; raise a TrainingError if all of them failed."""
        have_failed = [n for n, reply in replies.items() if reply is faults.FAILED]
        if have_failed and len(have_failed) == len(replies):
            names = ", ".join(self._federation.names[client] for client in replies)
            raise TrainingError(
                f"all connected clients failed ({names}): nobody scored {what}. The reason is in "
                "their own client.log. When that is fixed, resume with the same command."
            )
        logger.warning("nobody sent scores of %s: asking again", what)

    def _wait(self, needed: int = 1) -> list[int]:
        """Wait until enough clients for a round are connected; return the numbers of all."""
        return self._federation.wait_for(max(needed, self.task.settings.faults.min_clients))

    def _ask(
        self, weights: Weights, cohort: Iterable[int], round_num: int, scoring: Iterable[int]
    ) -> dict[int, Any]:
        """Ask some clients to train and some to score; return {client: RecordDict or reason}."""
        there = set(self._federation.online())
        training_now, asked = there & {*map(int, cohort)}, {}
        for client in sorted(training_now | there & {*scoring}):
            score = "val" if client in scoring else ""
            trains, together = client in training_now, len(training_now)
            ask = records.Ask(round_num, client, trains, together, score)
            asked[client] = records.pack_ask(ask, weights)
        return self._federation.ask(asked, f"round {round_num}")

    def _read_update(self, client: int, reply: Any) -> ClientUpdate | NoUpdate:
        if isinstance(reply, str):
            return NoUpdate(client, reply)
        member = self._federation.members[client]
        try:
            update = records.unpack_update(reply, client)
        except ValueError as error:
            logger.info("the reply of client %s is %s", member.name, error)
            return NoUpdate(client, faults.WRONG_SHAPE)
        why = claims.false_update(update, 1 if self.task.counts_once else member.examples)
        if why is not None:
            logger.warning("the update of %s is left out: it %s", member.name, why)
            return NoUpdate(client, faults.FALSE_CLAIM)
        return update
