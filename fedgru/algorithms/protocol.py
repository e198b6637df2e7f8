"""What rounds and engines need of an algorithm."""

from typing import Any, Protocol

from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.fed_avg import ServerState, Total
from fedgru.core.types import AnyInts, Weights

__all__ = ["Algorithm", "Total"]


class Algorithm(Protocol):
    """What clients do in a round, and what the server does with their updates; see `FedAvg`."""

    @property
    def name(self) -> str: ...
    @property
    def client_rule(self) -> ClientRule: ...

    def init(self, weights: Weights) -> ServerState:
        """Return the ServerState before round 1."""

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> Total:
        """Return an empty Total; with `row_ids` for a part of the cohort, see `FedAvg.start`."""

    def apply(self, state: ServerState, total: Any) -> ServerState:
        """Return the ServerState after a round, from a Total of `start`."""
