"""Rounds over clients that are somewhere else.

One message a round goes to each client: it scores its validation split with the new weights, and
trains the next round from them, since both need the same weights and each message takes seconds
in Flower. When training stops there, that last training was in vain.
"""

import logging
from dataclasses import dataclass

import numpy as np

from fedgru.algorithms import faults
from fedgru.algorithms.fed_avg import NoUpdate
from fedgru.core.errors import TrainingError
from fedgru.deploy import records, secure
from fedgru.deploy.federation import Federation
from fedgru.deploy.scores import read_scores, summarise_clients
from fedgru.engines.base import Engine, Gathered
from fedgru.training import loop as round_loop
from fedgru.training.rounds import FederatedTraining

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteClients:
    """The clients of a RemoteTask: a name each, in the order in which they joined."""

    client_ids: list[str]


@dataclass(frozen=True)
class RemoteTask:
    """A `fedgru.task.round_task.RoundTask` whose check-ins are somewhere else.

    Its clients grow when somebody joins. `federation` says who they are, `privacy` what they send.
    """

    settings: object
    spec: object
    kernel: object
    federation: Federation
    privacy: object
    protection: None = None
    attackers: frozenset = frozenset()

    def release(self):
        """See `RoundTask.release`: nothing of a data set is held here."""

    def draw(self, generator, number):
        """See `RoundTask.draw`."""
        return np.sort(generator.choice(self.training_clients, number, replace=False))

    @property
    def clients(self):
        return RemoteClients(self.federation.names)

    @property
    def training_clients(self):
        return np.arange(self.federation.admitted)


class FederationTraining(FederatedTraining):
    """Federated training that clients themselves validate."""

    def validate(self, state):
        """See FederationEngine.validate."""
        return self.engine.validate(state)


class FederationEngine(Engine):
    """Runs rounds by asking the clients of a Federation."""

    name = "flower"

    def __init__(self, task):
        super().__init__(task)
        self._federation = task.federation
        self._ahead = None  # (round, weights, replies) of training that was asked for already

    def gather(self, algorithm, weights, cohort, round_num, constants=None):
        """See Engine.gather; with secure aggregation the server learns the sums alone."""
        if not self.task.privacy.secure:
            return super().gather(algorithm, weights, cohort, round_num, constants)
        there = [n for n in self._wait(secure.MIN_CLIENTS) if n in cohort]
        mean, examples = self._mean_of_masked(weights, there, round_num)
        gathered = Gathered(algorithm.start(weights))
        if len(examples) >= secure.MIN_CLIENTS:
            gathered.total, gathered.loss_sum, gathered.num_correct = secure.from_mean(
                mean, sum(examples.values()), len(examples), weights
            )
        for client in map(int, cohort):
            if client not in examples:
                gathered.unusable[client] = faults.DROPPED_OUT
        return gathered

    def _mean_of_masked(self, weights, there, round_num):
        """Return the mean of some clients' vectors, and {client: examples} of who is in it."""
        if len(there) < secure.MIN_CLIENTS:
            return None, {}
        members = self._federation.members
        nodes = {members[client].node_id: client for client in there}
        asks = {
            node: records.Ask(round_num, client, True, len(there), "")
            for node, client in nodes.items()
        }
        counts_once = self.task.privacy.noise is not None
        result = secure.aggregate(
            self._federation.exchange,
            {node: records.pack_ask(ask, weights) for node, ask in asks.items()},
            1 if counts_once else max(members[client].examples for client in there),
            secure.clipping_range(self.task.privacy, len(there)),
            round_num,
        )
        if result is None:
            return None, {}
        mean, examples = result
        return mean, {nodes[node]: number for node, number in examples.items()}

    def local_updates(self, weights, cohort, round_num, constants=None):
        """See Engine.local_updates; a client of the cohort that is not there has dropped out."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == round_num and ahead[1] is weights:
            replies = ahead[2]
        else:
            self._wait()
            replies = self._ask(weights, cohort, round_num, [])
        for client in cohort:
            yield self._read_update(int(client), replies.get(int(client), faults.DROPPED_OUT))

    def validate(self, state):
        """Return {"val/metric/average": value} of a ServerState, over the clients that are there.

        Asks the next round's cohort to train on, in the same message.
        """
        weights, next_round = state.weights, state.round_num + 1
        self._federation.online()
        self._federation.admit()
        cohort = []
        if next_round <= self.task.settings.loop.rounds and not self.task.privacy.secure:
            cohort = [int(c) for c in round_loop.draw_cohort(self.task, next_round)]
        while True:
            replies = self._ask(weights, cohort, next_round, self._wait())
            found = read_scores(replies, "val", self._federation.names)
            if found:
                break
            self._ask_again(replies, f"round {state.round_num}")
        self._ahead = (next_round, weights, replies)
        silent = [n for n in range(len(self._federation)) if n not in found]
        if silent:
            names = ", ".join(self._federation.names[n] for n in silent)
            logger.info("round %d is validated without %s", state.round_num, names)
        return summarise_clients(found, "val")

    def test(self, weights, round_num):
        """Return {client: Scores} of the test split, of all that are there."""
        while True:
            there = self._federation.wait_for(1)
            asked = {
                client: records.pack_ask(records.Ask(round_num, client, False, 0, "test"), weights)
                for client in there
            }
            replies = self._federation.ask(asked, "test")
            if found := read_scores(replies, "test", self._federation.names):
                return found
            self._ask_again(replies, "the test split")

    def _ask_again(self, replies, what):
        """Say that nobody has scored; there is no sense in it where all have tried, and failed."""
        have_failed = [n for n, reply in replies.items() if reply is faults.FAILED]
        if have_failed and len(have_failed) == len(replies):
            names = ", ".join(self._federation.names[client] for client in replies)
            raise TrainingError(
                f"all clients that are there failed ({names}): nobody scored {what}. Their own "
                "client.log says why. Go on with the same command when that is mended."
            )
        logger.warning("nobody sent scores of %s: asking again", what)

    def _wait(self, needed=1):
        """Wait until there are clients enough for a round; return the numbers of all there are."""
        return self._federation.wait_for(max(needed, self.task.settings.faults.min_clients))

    def _ask(self, weights, cohort, round_num, scoring):
        """Ask the cohort to train and others to score; return {client: RecordDict or why not}."""
        there = set(self._federation.online())
        training_now, asked = there & {*map(int, cohort)}, {}
        for client in sorted(training_now | there & {*scoring}):
            score = "val" if client in scoring else ""
            trains, together = client in training_now, len(training_now)
            ask = records.Ask(round_num, client, trains, together, score)
            asked[client] = records.pack_ask(ask, weights)
        return self._federation.ask(asked, f"round {round_num}")

    def _read_update(self, client, reply):
        if isinstance(reply, str):
            return NoUpdate(client, reply)
        try:
            return records.unpack_update(reply, client)
        except ValueError as error:
            name = self._federation.names[client]
            logger.info("client %s sent what is %s", name, error)
            return NoUpdate(client, faults.WRONG_SHAPE)
