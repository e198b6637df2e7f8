"""Columns written in other ways, as the texts that `read_rows` takes: points and counted times."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedgru.core.errors import ConfigError
from fedgru.data.reading.timestamps import read_times
from fedgru.data.text_columns import trim

UNITS_S = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400}
EPOCH = "1970-01-01T00:00Z"
_COORDINATE = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
# WKT, or the JSON pair of LibCity; longitude first in both
_POINT = (
    rf"^(?i:POINT\s*(?:Z\s*)?\(|\[)\s*(?P<lon>{_COORDINATE})[\s,]+(?P<lat>{_COORDINATE})"
    rf"(?:[\s,]+{_COORDINATE})?\s*[)\]]$"
)


def split_points(points: pa.StringArray) -> tuple[pa.StringArray, pa.StringArray]:
    """Return (latitudes, longitudes) as texts, of points in WKT or as `[longitude, latitude]`.

    A text that is neither is returned as both, so that it is reported as no number.

    >>> lat, lon = split_points(pa.array(["POINT (28.95 41.0)", "[-74,40.7]", "", "here"]))
    >>> lat.to_pylist(), lon.to_pylist()
    (['41.0', '40.7', '', 'here'], ['28.95', '-74', '', 'here'])
    """
    trimmed = trim(points)
    found = pc.extract_regex(trimmed, _POINT)
    parts = {field.name: found.field(i) for i, field in enumerate(found.type)}
    latitudes, longitudes = (
        pc.if_else(found.is_valid(), parts[name], trimmed) for name in ("lat", "lon")
    )
    return latitudes, longitudes


@dataclass(frozen=True)
class CountedTime:
    """Times as numbers of a unit since an epoch.

    Attributes:
        unit: a key of `UNITS_S`.
        epoch_s: Unix seconds of the epoch.
    """

    unit: str
    epoch_s: int

    @classmethod
    def of(cls, unit: str, epoch: str = EPOCH) -> "CountedTime":
        """Return the CountedTime of two settings; an epoch without a zone is UTC.

        Raises:
            ConfigError: if one is none.
        """
        if unit not in UNITS_S:
            raise ConfigError(f"`time_unit` is {unit!r}, expected {', '.join(UNITS_S)}.")
        date = epoch if len(epoch) > len("2012-04-01") else f"{epoch}T00:00Z"
        times = read_times(pa.array([date]), "iso8601")
        if not times.ok[0]:
            raise ConfigError(
                f"`epoch` is {epoch!r}, expected a date like '2012-04-01' or '2012-04-01T00:00Z'."
            )
        return cls(unit, int(times.time_s[0]))

    def to_unix(self, numbers: pa.StringArray) -> pa.StringArray:
        """Return numbers as texts of Unix seconds; a text that is no number stays as it is.

        >>> CountedTime.of("d", "2012-04-01").to_unix(pa.array(["2", "0.5", "x"])).to_pylist()
        ['1333411200', '1333281600', 'x']
        """
        trimmed = trim(numbers)
        is_number = pc.match_substring_regex(trimmed, rf"^{_COORDINATE}$")
        values = pc.if_else(is_number, trimmed, "0").cast(pa.float64()).to_numpy(False)
        # microseconds: a float64 holds them exactly for centuries
        micro = np.rint(np.clip(values * UNITS_S[self.unit] * 1e6, -1e16, 1e16)).astype(np.int64)
        whole, rest = np.divmod(micro, 1_000_000)
        texts = pa.array(whole + self.epoch_s).cast(pa.string())
        if rest.any():
            fraction = pc.utf8_lpad(pa.array(rest).cast(pa.string()), 6, "0")
            texts = pc.binary_join_element_wise(texts, fraction, ".")
        return pc.if_else(is_number, texts, trimmed)
