"""What a client does to its update before it leaves: bound it, add noise, or both.

With noise the sum of a round's updates is differentially private for each participant as a whole,
also towards the server where it sees sums alone (`--secure`): every client of n adds noise of
1 / sqrt(n) of the size that the sum needs.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from fedgru.core.errors import ConfigError

DELTA = 1e-5


@dataclass(frozen=True)
class Privacy:
    """How updates are protected.

    Attributes:
        secure: whether the server sees sums of updates alone (Flower's SecAgg+).
        clip: the L2 norm that no update exceeds; None leaves them as they are.
        noise: standard deviation of the noise in a round's sum, in units of `clip`; None adds none.
    """

    secure: bool = False
    clip: float | None = None
    noise: float | None = None

    def __str__(self):
        """What the logs of both ends say.

        >>> print(Privacy(clip=0.5, noise=1.1))
        updates are cut to length 0.5, noise in their sum is 1.1 times that
        >>> print(Privacy(secure=True), Privacy(), sep="; ")
        updates are added up unseen; updates are sent as they are
        """
        parts = []
        if self.clip is not None:
            parts.append(f"cut to length {self.clip:g}")
        if self.secure:
            parts.append("added up unseen")
        noise = "" if self.noise is None else f", noise in their sum is {self.noise:g} times that"
        return f"updates are {' and '.join(parts) or 'sent as they are'}{noise}"


def check_privacy(privacy, settings):
    """Raise a ConfigError for what does not go together.

    Args:
        privacy: Privacy.
        settings: Settings of the run.
    """
    server = settings.server
    if privacy.noise is not None and privacy.clip is None:
        raise ConfigError("--noise needs --clip: it is measured by how much one client can do.")
    if privacy.noise is not None and server.mean != "clients":
        raise ConfigError(
            "--noise needs --mean clients: a mean over the owners of a row tells who owns it."
        )
    if privacy.secure and server.robust != "none":
        raise ConfigError(
            f"--robust {server.robust} looks at updates one by one, --secure hides them: leave one "
            "out."
        )


def epsilon(rounds, noise, delta=DELTA):
    """Return the epsilon of (epsilon, delta) that one participant of all rounds is promised.

    Two rounds with noise 1 are rho = 1: 1 + 2 sqrt(ln 100000).

    >>> round(epsilon(2, 1.0), 3)
    7.786

    Source: Bun and Steinke 2016 (arXiv:1605.02065), Propositions 1.3 and 1.6, Lemma 1.7; of
        two neighbouring sets of participants one has somebody more.
    """
    rho = rounds / (2 * noise**2)
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def protect(update, num_rows, privacy, cohort_size, rng):
    """Return a ClientUpdate as it may leave the device.

    With noise it counts as one example, so that everybody weighs the same, and has all rows of the
    table, so that it does not tell which are the client's own.

    Args:
        update: ClientUpdate.
        num_rows: rows of the whole table.
        privacy: Privacy.
        cohort_size: how many clients add their share of the noise.
        rng: numpy Generator; from the system's entropy, for nobody may draw the noise again.
    """
    if privacy.clip is None:
        return update
    arrays = [update.row_update, *update.dense.values()]
    norm = math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in arrays))
    factor = np.float32(min(1.0, privacy.clip / norm) if norm else 1.0)
    clipped = replace(
        update,
        dense={name: factor * array for name, array in update.dense.items()},
        row_update=factor * update.row_update,
    )
    if privacy.noise is None:
        return clipped
    size = privacy.noise * privacy.clip / math.sqrt(cohort_size)

    def noisy(array):
        return (array + size * rng.standard_normal(array.shape)).astype(np.float32)

    rows = np.zeros((num_rows, update.row_update.shape[1]), np.float32)
    rows[clipped.row_ids] = clipped.row_update
    return replace(
        clipped,
        num_examples=1,
        dense={name: noisy(array) for name, array in clipped.dense.items()},
        row_ids=np.arange(num_rows, dtype=np.int32),
        row_update=noisy(rows),
        loss_sum=update.loss_sum / update.num_examples,
        num_correct=update.num_correct / update.num_examples,
    )
