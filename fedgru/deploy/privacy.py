"""How a client protects its update before it sends it: clip it, add noise, or both.

With noise, the sum of a round's updates is differentially private for each participant as a whole.
With secure aggregation this holds towards the server too, which sees only sums. Each of n clients
adds noise of 1 / sqrt(n) of the size that the sum needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from fedgru.algorithms.fed_avg import counted_once
from fedgru.core.errors import ConfigError, TrainingError
from fedgru.core.types import Doubles, Floats
from fedgru.deploy.system_noise import on_grid

if TYPE_CHECKING:
    from fedgru.algorithms.fed_avg import ClientUpdate
    from fedgru.config.settings import Settings


@dataclass(frozen=True)
class Privacy:
    """How updates are protected.

    Attributes:
        secure: whether the server sees only sums of updates (Flower's SecAgg+).
        clip: the largest L2 norm of an update; None does not clip.
        noise: standard deviation of the noise in a round's sum, in units of `clip`; None adds none.
    """

    secure: bool = False
    clip: float | None = None
    noise: float | None = None

    def __str__(self) -> str:
        """The line in the logs of server and clients.

        >>> print(Privacy(clip=0.5, noise=1.1))
        updates are clipped to norm 0.5, noise in their sum is 1.1 times that
        >>> print(Privacy(secure=True), Privacy(), sep="; ")
        updates are summed securely; updates are sent unprotected
        """
        parts = []
        if self.clip is not None:
            parts.append(f"clipped to norm {self.clip:g}")
        if self.secure:
            parts.append("summed securely")
        noise = "" if self.noise is None else f", noise in their sum is {self.noise:g} times that"
        return f"updates are {' and '.join(parts) or 'sent unprotected'}{noise}"


class Normal(Protocol):
    """Where noise comes from: SystemNoise, or a numpy Generator."""

    def standard_normal(self, shape: tuple[int, ...], /) -> Doubles:
        """Return float64 [shape], of mean 0 and deviation 1."""


def check_privacy(privacy: Privacy, settings: Settings) -> None:
    """Raise a ConfigError for values that exclude each other.

    Args:
        privacy: Privacy.
        settings: Settings of the run.
    """
    server = settings.server
    if privacy.noise is not None and privacy.clip is None:
        raise ConfigError("`noise` needs `clip`: its unit is the largest norm of an update.")
    if privacy.noise is not None and server.mean != "clients":
        raise ConfigError(
            "`noise` needs `mean` clients: a mean over the owners of a row reveals who owns it."
        )
    if privacy.secure and server.robust != "none":
        raise ConfigError(
            f"`robust` {server.robust} needs single updates, which `secure` hides: leave one of "
            "them out."
        )


def protect(
    update: ClientUpdate,
    num_rows: int,
    privacy: Privacy,
    cohort_size: int,
    noise_source: Normal,
) -> ClientUpdate:
    """Return a ClientUpdate, protected for sending.

    With noise it counts as one example, so that all clients have the same weight, and it has all
    rows of the table, so that it does not reveal which are the client's own. Its training loss and
    hits are not sent: they are 0, and the server records none.

    Args:
        update: ClientUpdate.
        num_rows: rows of the whole table.
        privacy: Privacy.
        cohort_size: how many clients add their share of the noise.
        noise_source: SystemNoise, so that nobody can reproduce the noise.

    Raises:
        TrainingError: if the update is to be clipped and its norm is not finite.
    """
    if privacy.clip is None:
        return update
    arrays = [update.row_update, *update.dense.values()]
    norm = math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays))
    if not math.isfinite(norm):
        raise TrainingError(f"the update is kept here: its norm is {norm:g}, so it has no clip.")
    factor = np.float32(min(1.0, privacy.clip / norm) if norm else 1.0)
    clipped = replace(
        update,
        dense={name: factor * array for name, array in update.dense.items()},
        row_update=factor * update.row_update,
    )
    if privacy.noise is None:
        return clipped
    size = privacy.noise * privacy.clip / math.sqrt(cohort_size)

    def noisy(array: npt.NDArray[Any]) -> Floats:
        drawn = array + size * noise_source.standard_normal(array.shape)
        return on_grid(drawn, size).astype(np.float32)

    rows = np.zeros((num_rows, update.row_update.shape[1]), np.float32)
    rows[clipped.row_ids] = clipped.row_update
    return replace(
        counted_once(clipped),
        loss_sum=0.0,
        num_correct=0.0,
        dense={name: noisy(array) for name, array in clipped.dense.items()},
        row_ids=np.arange(num_rows, dtype=np.int32),
        row_update=noisy(rows),
    )
