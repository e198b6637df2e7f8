"""Rounds and scores of algorithms whose clients keep, measure or start from something of their own.

What such an algorithm does is in `fedgru.algorithms.per_client`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from fedgru.algorithms import faults
from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.client_start import ClientStart, Starts
from fedgru.algorithms.fed_avg import ClientUpdate, ServerState
from fedgru.algorithms.per_client import Arrays, PerClient, PersonalModel, Visit
from fedgru.core.types import AnyInts, Doubles, Floats, Int32s, Weights
from fedgru.engines.base import Engine
from fedgru.evaluation import evaluate
from fedgru.evaluation.evaluate import Evaluation, Forward
from fedgru.storage.client_store import ClientStore
from fedgru.task.task import Task

CLIENTS_AT_ONCE = 1000  # whose train losses are computed together


class PerClientRounds:
    """What goes with an engine where an algorithm is a PerClient.

    Args:
        engine: Engine, made for the algorithm's client rule.
        algorithm: PerClient.
        store: ClientStore of what clients keep; None for a temporary one.
    """

    def __init__(
        self, engine: Engine[Task], algorithm: PerClient, store: ClientStore | None = None
    ) -> None:
        self.engine, self.algorithm = engine, algorithm
        self.store = ClientStore() if store is None else store
        self._others: dict[ClientRule, Engine[Task]] = {engine.client_rule: engine}

    def engine_of(self, rule: ClientRule) -> Engine[Task]:
        """Return an engine like the round's for another client rule; each is made once."""
        if rule not in self._others:
            self._others[rule] = type(self.engine)(self.engine.task, rule)
        return self._others[rule]

    def begin(self, state: ServerState, cohort: AnyInts) -> tuple[ServerState, "OneRound"]:
        """Let the algorithm prepare a round; return its ServerState and the OneRound."""
        one = OneRound(self, state)
        state, one.measured = self.algorithm.before_round(one, state, cohort)
        one.state = state
        return state, one

    def close(self) -> None:
        """End the other engines and close the store."""
        for engine in self._others.values():
            if engine is not self.engine:
                engine.close()
        self.store.close()


class OneRound:
    """One round: the Tools of the algorithm, and what each client starts from and keeps.

    Args:
        rounds: PerClientRounds.
        state: ServerState before the round.

    Attributes:
        state: ServerState that the clients receive.
        measured: client -> what it measured before training.
    """

    def __init__(self, rounds: PerClientRounds, state: ServerState) -> None:
        self._rounds, self._algorithm = rounds, rounds.algorithm
        self.state = state
        self.measured: Mapping[int, Any] = {}
        self.round_num = state.round_num + 1
        self._started: dict[int, tuple[Visit, ClientStart]] = {}
        self._to_keep: dict[int, Arrays] = {}

    # Tools

    @property
    def training_clients(self) -> AnyInts:
        return self._rounds.engine.task.training_clients

    @cached_property
    def shares(self) -> Doubles:
        """Share of each training client in the train targets, float64 [num_training]."""
        clients = self._rounds.engine.task.clients
        counts = (clients.train_ends - clients.starts[:-1] - 1)[self.training_clients]
        return counts / counts.sum()

    def train_losses(self, weights: Weights, clients: AnyInts) -> dict[int, float]:
        """See Tools."""
        losses: dict[int, float] = {}
        ordered = np.sort(np.asarray(clients))
        for first in range(0, len(ordered), CLIENTS_AT_ONCE):
            some = ordered[first : first + CLIENTS_AT_ONCE]
            found = evaluate.evaluate(self._rounds.engine, weights, "train", clients=some)
            sums, counts = found.client_sums("loss")
            losses |= dict(zip(some.tolist(), (sums / np.maximum(counts, 1)).tolist(), strict=True))
        return losses

    def updates(
        self, rule: ClientRule, weights: Weights, clients: AnyInts, starts: Starts | None = None
    ) -> Iterator[ClientUpdate]:
        """See Tools; a client whose update is not usable fails in the round itself too."""
        engine = self._rounds.engine_of(rule)
        for update in engine.local_updates(weights, clients, self.round_num, starts=starts):
            if isinstance(update, ClientUpdate) and faults.problem(update, weights) is None:
                yield update

    def kept(self, client: int) -> Arrays | None:
        """See Tools."""
        return self._rounds.store.get(client)

    def keep(self, client: int, arrays: Arrays) -> None:
        """See Tools."""
        self._rounds.store.put(client, arrays, self.round_num)

    # OwnParts

    @property
    def starts(self) -> Starts | None:
        """The starts of the clients, or None if all start from the received weights."""
        return self._start if self._algorithm.client_rule.by_client else None

    def _start(self, client: int, row_ids: Int32s) -> ClientStart:
        visit = self._visit(client, row_ids)
        start = self._algorithm.start_of(visit)
        self._started[client] = visit, start
        return start

    def _visit(self, client: int, row_ids: Int32s) -> Visit:
        kept = self.kept(client) if self._algorithm.keeps else None
        return Visit(client, row_ids, self.state, kept, self.measured.get(client))

    def finish(self, update: ClientUpdate) -> ClientUpdate:
        """Return what a client sends; what it keeps waits for `settle`."""
        client = update.client
        if client in self._started:
            visit, start = self._started.pop(client)
            sent, kept = self._algorithm.finish(visit, start, update)
        else:
            visit = self._visit(client, np.asarray(update.row_ids, np.int32))
            sent, kept = self._algorithm.finish(visit, None, update)
        if kept is not None:
            self._to_keep[client] = kept
        return sent

    def settle(self, client: int, is_used: bool) -> None:
        """Keep what a client keeps, if its update is used; else it keeps what it had."""
        kept = self._to_keep.pop(client, None)
        if is_used and kept is not None:
            self.keep(client, kept)


def evaluate_personal(
    engine: Forward,
    algorithm: PerClient,
    weights: Weights,
    store: ClientStore,
    split: str,
    warm: bool = True,
    clients: AnyInts | None = None,
    round_num: int | None = None,
) -> Evaluation:
    """Score each client's targets with its own model; see `evaluate.evaluate`.

    Args:
        engine, split, warm, clients: as for `evaluate.evaluate`.
        algorithm: PerClient, a personal one.
        weights: those of a ServerState.
        store: ClientStore.
        round_num: the round after which clients are scored; None for now.
    """
    scored = engine.task.clients.scored
    chosen = np.arange(len(scored)) if clients is None else np.asarray(clients)
    whole, parts = WholeTable(), []
    for client in chosen.tolist():
        model = algorithm.model_of(weights, client, store.get(client, round_num))
        with whole.of(model) as own:
            parts.append(evaluate.evaluate(engine, own, split, warm, [client]))
    return evaluate.join(parts)


class WholeTable:
    """Lends the weights of PersonalModels with a whole table: one copy of it serves all clients."""

    def __init__(self) -> None:
        self._original: Floats | None = None
        self._copy: Floats | None = None

    @contextmanager
    def of(self, model: PersonalModel) -> Iterator[Weights]:
        """Lend one model's weights, name -> float32 array; they are not to be used afterwards."""
        if model.rows is None or model.row_ids is None:
            yield model.weights
            return
        table = model.weights["rows"]
        if self._copy is None or self._original is not table:
            self._original, self._copy = table, table.copy()
        self._copy[model.row_ids] = model.rows
        yield {**model.weights, "rows": self._copy}
        self._copy[model.row_ids] = table[model.row_ids]
