"""What a client starts a round from, where that is not the same for all clients."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from fedgru.core.types import AnyInts, Floats, Int32s, Weights

OwnWeights: TypeAlias = Weights  # name -> float32 array; `rows` has only the client's own rows


@dataclass(frozen=True)
class ClientStart:
    """Start weights of one client, and what is added to each of its local steps.

    A local step uses the gradient of the loss, plus what the ClientRule adds, plus `offset`. The
    ClientUpdate is the client's weights after its steps, minus the start weights.

    Attributes:
        weights: name -> float32 array, of the model's shapes, but `rows` is float32 [num_own,
            G * hidden_dim], the rows of the client's `row_ids`.
        offset: the same shapes, or None for none.
        anchor: the same shapes; the weights that the ClientRule's proximal term and correction
            take for the received ones. None takes the start weights.
    """

    weights: OwnWeights
    offset: OwnWeights | None = None
    anchor: OwnWeights | None = None


# (client, row_ids: int32 [num_own], ascending) -> ClientStart
Starts: TypeAlias = Callable[[int, Int32s], ClientStart]


def own_weights(weights: Weights, row_ids: AnyInts) -> OwnWeights:
    """Return the weights as one client holds them: of `rows` only those of `row_ids`, copied."""
    return {**weights, "rows": weights["rows"][row_ids]}


def whole_weights(own: OwnWeights, row_ids: AnyInts, table: Floats) -> Weights:
    """Return one client's weights with a whole table: a copy of `table` with the client's rows."""
    rows = table.copy()
    rows[row_ids] = own["rows"]
    return {**own, "rows": rows}
