"""Algorithms whose clients measure, keep or start from something of their own.

`fedgru.training.per_client` carries out in a round what an algorithm says here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.client_start import ClientStart, OwnWeights, Starts, own_weights
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, ServerState, Total
from fedgru.core.types import AnyInts, Doubles, Int32s, Weights

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Visit:
    """What is known where a client takes part in a round.

    Attributes:
        client: number of the client.
        row_ids: int32 [num_own], ascending, the table rows that the client owns.
        state: ServerState before the round.
        kept: what the client has kept, name -> array; None before it took part.
        measured: what `before_round` gave for this client; None if nothing.
    """

    client: int
    row_ids: Int32s
    state: ServerState
    kept: Arrays | None
    measured: Any = None


class Tools(Protocol):
    """What an algorithm can ask for before a round."""

    @property
    def round_num(self) -> int: ...
    @property
    def training_clients(self) -> AnyInts: ...
    @property
    def shares(self) -> Doubles:
        """Share of each training client in the train targets, float64 [num_training]."""

    def train_losses(self, weights: Weights, clients: AnyInts) -> dict[int, float]:
        """Return {client: mean loss over its train targets, nats} of a model."""

    def updates(
        self, rule: ClientRule, weights: Weights, clients: AnyInts, starts: Starts | None = None
    ) -> Iterator[ClientUpdate]:
        """Yield the usable ClientUpdates of clients that train by another rule."""

    def kept(self, client: int) -> Arrays | None:
        """Return what a client has kept; number -1 is the server's."""

    def keep(self, client: int, arrays: Arrays) -> None:
        """Keep something for a client from this round on."""


class PerClient:
    """Base of such algorithms: a server half, and what differs by client.

    Args:
        server_half: FedAvg or a subclass: the mean and the server optimizer.
        client_rule: ClientRule; None takes that of the server half.

    Attributes:
        keeps: whether something is kept for clients from round to round.
        personal: whether clients are scored with models of their own, see `model_of`.
    """

    name: ClassVar[str] = "per_client"
    keeps: ClassVar[bool] = False
    personal: ClassVar[bool] = False

    def __init__(self, server_half: FedAvg, client_rule: ClientRule | None = None) -> None:
        self.server_half = server_half
        self.server_optimizer = server_half.server_optimizer
        self.client_rule = client_rule or server_half.client_rule

    def init(self, weights: Weights) -> ServerState:
        """See FedAvg.init."""
        return self.server_half.init(weights)

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> Total:
        """See FedAvg.start."""
        return self.server_half.start(weights, row_ids)

    def apply(self, state: ServerState, total: Any) -> ServerState:
        """See FedAvg.apply."""
        return self.server_half.apply(state, total)

    def received(self, weights: Weights) -> Weights:
        """Return the weights of one model out of those of a ServerState."""
        return weights

    def before_round(
        self, tools: Tools, state: ServerState, cohort: AnyInts
    ) -> tuple[ServerState, Mapping[int, Any]]:
        """Return (ServerState, {client: what it measured}) before the cohort trains."""
        return state, {}

    def start_of(self, visit: Visit) -> ClientStart:
        """Return what a client starts from; asked only if the client rule is `by_client`."""
        return ClientStart(own_weights(self.received(visit.state.weights), visit.row_ids))

    def finish(
        self, visit: Visit, start: ClientStart | None, update: ClientUpdate
    ) -> tuple[ClientUpdate, Arrays | None]:
        """Return (what the client sends, what it keeps) after its local steps.

        Args:
            visit: Visit.
            start: from `start_of`, if the client rule is `by_client`.
            update: ClientUpdate, relative to the start.
        """
        return update, None

    def model_of(self, weights: Weights, client: int, kept: Arrays | None) -> "PersonalModel":
        """Return the model that a client is scored with; asked only if `personal`.

        Args:
            weights: of a ServerState.
            client: number of the client.
            kept: what it has kept; None if it never took part.
        """
        return PersonalModel(self.received(weights))


@dataclass(frozen=True)
class PersonalModel:
    """The model of one client.

    Attributes:
        weights: name -> float32 array, `rows` the whole table; arrays can be shared.
        row_ids, rows: int32 [num_own] and float32 [num_own, G * hidden_dim], what takes the place
            of these rows of the table; or None.
    """

    weights: Weights
    row_ids: Int32s | None = None
    rows: npt.NDArray[np.float32] | None = None


def apply_half(
    half: FedAvg, state: ServerState, total: Any, own: Sequence[str], after: Mapping[str, Any]
) -> ServerState:
    """Return `half.apply`, where the ServerState has slots that are not the half's.

    Args:
        half: FedAvg or a subclass.
        state: ServerState.
        total: of the half's `start`.
        own: names of the slots that are not the half's.
        after: their values after the round.
    """
    slots = {name: slot for name, slot in state.optimizer.items() if name not in own}
    done = half.apply(replace(state, optimizer=slots), total)
    return replace(done, optimizer={**done.optimizer, **after})


def as_own(update: ClientUpdate) -> OwnWeights:
    """Return an update's arrays by name, `rows` among them."""
    return {**update.dense, "rows": update.row_update}


def with_arrays(update: ClientUpdate, arrays: OwnWeights) -> ClientUpdate:
    """Return an update with other arrays; the inverse of `as_own`."""
    dense = {name: array for name, array in arrays.items() if name != "rows"}
    return replace(update, dense=dense, row_update=arrays["rows"])
