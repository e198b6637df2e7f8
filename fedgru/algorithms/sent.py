"""What a client receives and sends in a round, in units of the model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedgru.core.types import Ints


@dataclass(frozen=True)
class Sent:
    """What one client and the server exchange in a round.

    Attributes:
        down, up: how many times the size of the model, of which a client has only its own rows.
        sums: numbers sent beside the sums of `ClientUpdate`.
        stays: names of weights that are never sent.
        pack: function of int64 [n], how many numbers an update has: the bytes that they take, all
            the same shape; None for four bytes each.
    """

    down: int = 1
    up: int = 1
    sums: int = 0
    stays: tuple[str, ...] = ()
    pack: Callable[[Ints], Ints] | None = None


def sent_by(algorithm: Any) -> Sent:
    """Return the Sent of an algorithm: its attribute `sent`, or that of plain averaging."""
    return getattr(algorithm, "sent", Sent())
