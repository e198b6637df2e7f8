"""Features of one's own: a function of one client's check-ins, given by MODULE:FUNCTION or by name.

The function runs where the client's check-ins are, one client after another. It is called with a
`ClientCheckIns` and returns numbers [num_checkins] or [num_checkins, width]; the width is the same
for every client. The number of a check-in depends on that check-in and those before it alone.
"""

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgru.config.feature_names import GROUP, OWN_KIND, kind_of
from fedgru.core import plugins
from fedgru.core.errors import ConfigError
from fedgru.core.types import Doubles, Ints
from fedgru.data.checkins import CheckIns, Coded
from fedgru.task.clients import Clients

CHECKED_CLIENTS = 3  # whose numbers are computed again without their later check-ins
TOLERANCE = 1e-5  # of numbers that are computed in two ways, as a share of the largest

Texts = npt.NDArray[np.object_]


@dataclass(frozen=True)
class ClientCheckIns:
    """One client's check-ins in order of time: what a feature of one's own is computed from.

    Attributes:
        user: the client.
        venue: object [num_checkins], texts.
        category, raw_category: object [num_checkins], texts, None where missing.
        time_s: int64 [num_checkins], Unix seconds, UTC.
        local_time_s: int64 [num_checkins], seconds since 1970-01-01 00:00 on the local clock.
        lat_deg, lon_deg: float64 [num_checkins], degrees, NaN where missing.
    """

    user: str
    venue: Texts
    category: Texts
    raw_category: Texts
    time_s: Ints
    local_time_s: Ints
    lat_deg: Doubles
    lon_deg: Doubles

    def __len__(self) -> int:
        return len(self.time_s)

    def first(self, number: int) -> "ClientCheckIns":
        """Return the first check-ins alone."""
        columns = {name: values for name, values in vars(self).items() if name != "user"}
        return replace(self, **{name: values[:number] for name, values in columns.items()})

    @classmethod
    def of(cls, check_ins: CheckIns, rows: Ints, user: str) -> "ClientCheckIns":
        """Return rows of CheckIns, int64 [num_checkins] in order of time, all of one user."""

        def texts(column: Coded) -> Texts:
            codes = column.codes[rows].tolist()
            return as_texts([column.values[code] if code >= 0 else None for code in codes])

        time_s = check_ins.time_s[rows]
        return cls(
            user=user,
            venue=texts(check_ins.venue),
            category=texts(check_ins.category),
            raw_category=texts(check_ins.raw_category),
            time_s=time_s,
            local_time_s=time_s + 60 * check_ins.offset_min[rows].astype(np.int64),
            lat_deg=check_ins.lat_deg[rows],
            lon_deg=check_ins.lon_deg[rows],
        )


def as_texts(values: Sequence[str | None]) -> Texts:
    """Return texts as an object array."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


@dataclass(frozen=True)
class OwnFeature:
    """A feature of one's own.

    Attributes:
        name: as the setting `features` has it.
        function: what it names.
    """

    name: str
    function: Callable[[ClientCheckIns], Any]

    @classmethod
    def find(cls, name: str) -> "OwnFeature":
        """Return the feature of a name; errors as `plugins.load_named`."""
        found = plugins.load_named(name, GROUP, "features")
        if not callable(found):
            raise ConfigError(
                f"`features` {name} is {plugins.kind_of(found)}, expected a function that takes a "
                "client's check-ins."
            )
        return cls(name, found)

    def compute(self, check_ins: ClientCheckIns) -> Doubles:
        """Return float64 [num_checkins, width], finite.

        Raises:
            ConfigError: if the function raises, or gives something else; names the client.
        """
        num, where = len(check_ins), f"client {check_ins.user}"
        try:
            values = np.asarray(self.function(check_ins))
        except Exception as error:
            raise ConfigError(
                f"`features` {self.name} cannot be computed for {where}: "
                f"{plugins.where_raised(error)}."
            ) from error
        if values.dtype.kind not in "fiub":
            raise ConfigError(
                f"`features` {self.name} gives {values.dtype} for {where}, expected numbers."
            )
        if values.ndim not in (1, 2) or len(values) != num or not values.size:
            raise ConfigError(
                f"`features` {self.name} gives an array of shape {list(values.shape)} for the "
                f"{num} check-ins of {where}, expected [{num}] or [{num}, width]."
            )
        values = values.reshape(num, -1).astype(np.float64)
        wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(wrong):
            raise ConfigError(
                f"`features` {self.name} gives a number that is not finite at check-in "
                f"{wrong[0] + 1} of {where}. Let it give one for every check-in, such as 0 where a "
                "value is missing."
            )
        return values

    def compute_all(self, check_ins: CheckIns, clients: Clients) -> Doubles:
        """Return float64 [num_positions, width], the numbers of all clients.

        Raises:
            ConfigError: as `compute`; if the width is not always the same; or if a number of the
                first, a middle or the last client depends on later check-ins.
        """
        checked = set(np.linspace(0, len(clients) - 1, CHECKED_CLIENTS).astype(int).tolist())
        parts: list[Doubles] = []
        for client, user in enumerate(clients.client_ids):
            rows = clients.rows[clients.starts[client] : clients.starts[client + 1]]
            own = ClientCheckIns.of(check_ins, rows, user)
            parts.append(self.compute(own))
            widths = parts[0].shape[1], parts[-1].shape[1]
            if widths[0] != widths[1]:
                raise ConfigError(
                    f"`features` {self.name} gives {widths[1]} numbers a check-in for client "
                    f"{user}, but {widths[0]} for client {clients.client_ids[0]}: give every "
                    "client the same."
                )
            if client in checked:
                self._check_causal(own, parts[-1])
        return np.concatenate(parts)

    def _check_causal(self, check_ins: ClientCheckIns, values: Doubles) -> None:
        num = len(check_ins)
        for first in sorted({1, num // 2, num - 1} - {0, num}):
            again = self.compute(check_ins.first(first))
            gap = np.abs(again - values[:first]) if again.shape[1] == values.shape[1] else np.inf
            changed = np.argwhere(np.atleast_2d(gap > TOLERANCE * max(1.0, np.abs(values).max())))
            if len(changed):
                raise ConfigError(
                    f"`features` {self.name} at check-in {changed[0, 0] + 1} of client "
                    f"{check_ins.user} changes when the check-ins after number {first} are left "
                    "out: compute it from that check-in and those before it alone."
                )

    def digest(self) -> str:
        """Return the SHA-256 of the file that the function is written in."""
        module = sys.modules.get(getattr(self.function, "__module__", ""))
        file = getattr(module, "__file__", None)
        content = Path(file).read_bytes() if file else repr(self.function).encode()
        return hashlib.sha256(content).hexdigest()


def find_all(names: Sequence[str]) -> dict[str, OwnFeature]:
    """Return {name: OwnFeature} of those of some features that are one's own."""
    return {name: OwnFeature.find(name) for name in names if kind_of(name) == OWN_KIND}
