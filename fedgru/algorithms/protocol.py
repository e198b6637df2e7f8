"""What rounds and engines read of an algorithm."""

from collections.abc import Sized
from typing import Any, Protocol

from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.fed_avg import ClientUpdate, ServerState
from fedgru.core.types import Int32s, Weights


class Total(Sized, Protocol):
    """The updates of a cohort, or of a part of it, added up; its length is the number of clients.

    `fedgru.algorithms.fed_avg.UpdateSum` is one, `fedgru.algorithms.robust.UpdateList` another.
    """

    @property
    def num_examples(self) -> int: ...

    def add(self, update: ClientUpdate) -> None:
        """Add one client's update."""

    def merge(self, other: Any) -> None:
        """Add the Total of a part of the cohort, made by the same algorithm."""


class Algorithm(Protocol):
    """What clients do in a round, and what the server makes of their updates: see `FedAvg`."""

    @property
    def name(self) -> str: ...
    @property
    def client_rule(self) -> ClientRule: ...

    def init(self, weights: Weights) -> ServerState:
        """Return the ServerState before round 1."""

    def start(self, weights: Weights, row_ids: Int32s | None = None) -> Total:
        """Return an empty Total; with `row_ids` for a part of the cohort, see `FedAvg.start`."""

    def apply(self, state: ServerState, total: Any) -> ServerState:
        """Return the ServerState after a round, from a Total of `start`."""
