"""What clients keep from round to round, on the disk: any number of clients, in little memory.

One SQLite file holds a row per client and round in which the client kept something. What a client
has after round 7 is in its newest row of round 7 or before. So the state after any round can be
found again as long as its rows are there, and a run that was killed goes back to its checkpoint.

    kept (client INTEGER, round_num INTEGER, arrays BLOB)

The blob is a JSON line {"name": [dtype, shape]} and the bytes of the arrays, one after the other.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgru.core.errors import RunError

Arrays = dict[str, npt.NDArray[Any]]

_TABLE = """
CREATE TABLE IF NOT EXISTS kept (client INTEGER, round_num INTEGER, arrays BLOB);
CREATE UNIQUE INDEX IF NOT EXISTS place ON kept (client, round_num);
"""
_TEMPORARY = """
CREATE TEMP TABLE needed (round_num INTEGER);
CREATE TEMP TABLE looked_at (client INTEGER PRIMARY KEY);
"""
# of the clients that are looked at, the rows that no round of `needed` takes the arrays from
_NOT_NEEDED = """
DELETE FROM kept WHERE client IN (SELECT client FROM looked_at) AND rowid NOT IN (
    SELECT kept.rowid FROM looked_at, needed, kept
    WHERE kept.client = looked_at.client AND kept.round_num = (
        SELECT MAX(older.round_num) FROM kept AS older
        WHERE older.client = looked_at.client AND older.round_num <= needed.round_num
    )
)
"""


class ClientStore:
    """The arrays that each client keeps. Many threads can use it at the same time.

    Args:
        path: the SQLite file, made if it is missing; None for one that is removed with the
            process.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._lock = Lock()
        with self._naming():
            self._file = sqlite3.connect("" if path is None else path, check_same_thread=False)
            self._file.executescript("PRAGMA synchronous = FULL;" + _TABLE + _TEMPORARY)
        self._changed: set[int] = set()  # clients with a new row since the last commit

    def get(self, client: int, round_num: int | None = None) -> Arrays | None:
        """Return what a client has kept, name -> array; None if nothing.

        Args:
            client: number of the client.
            round_num: as after this round; None for now.
        """
        newest = -1 if round_num is None else round_num
        with self._lock, self._naming():
            row = self._file.execute(
                "SELECT arrays FROM kept WHERE client = ? AND (? < 0 OR round_num <= ?)"
                " ORDER BY round_num DESC LIMIT 1",
                (client, newest, newest),
            ).fetchone()
        return None if row is None else _unpack(row[0])

    def put(self, client: int, arrays: Arrays, round_num: int) -> None:
        """Keep a client's arrays as they are after a round."""
        packed = _pack(arrays)
        with self._lock, self._naming():
            self._changed.add(client)
            self._file.execute(
                "INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", (client, round_num, packed)
            )

    def commit(self, needed: Iterable[int] | None = None, everywhere: bool = False) -> None:
        """Bring what was kept to the disk.

        Args:
            needed: rounds whose state must be found again; rows that none of them needs are
                removed. None removes nothing.
            everywhere: whether to remove such rows of all clients, not only of those that have
                kept something since the last commit. That takes time in proportion to all clients.
        """
        with self._lock, self._naming():
            if needed is not None:
                self._file.executescript("DELETE FROM needed; DELETE FROM looked_at;")
                self._file.executemany("INSERT INTO needed VALUES (?)", [(n,) for n in needed])
                if everywhere:
                    self._file.execute("INSERT INTO looked_at SELECT DISTINCT client FROM kept")
                else:
                    changed = [(client,) for client in self._changed]
                    self._file.executemany("INSERT INTO looked_at VALUES (?)", changed)
                self._file.execute(_NOT_NEEDED)
            self._file.commit()
            self._changed.clear()

    def go_back_to(self, round_num: int) -> None:
        """Remove what was kept after a round."""
        with self._lock, self._naming():
            self._file.rollback()
            self._file.execute("DELETE FROM kept WHERE round_num > ?", (round_num,))
            self._file.commit()

    def clients(self) -> list[int]:
        """Return the numbers of the clients that have kept something, ascending."""
        with self._lock, self._naming():
            rows = self._file.execute("SELECT DISTINCT client FROM kept ORDER BY client").fetchall()
        return [client for (client,) in rows]

    def close(self) -> None:
        """Close the file; what was not committed is lost."""
        with self._lock:
            self._file.close()

    def _naming(self) -> "_Naming":
        return _Naming(self.path)


class _Naming:
    """A context that turns errors of SQLite into a RunError that names the file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, sqlite3.Error):
            where = "the temporary file of what clients keep" if self._path is None else self._path
            raise RunError(f"cannot use {where}: {error}.") from error


def _pack(arrays: Arrays) -> bytes:
    head = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    return b"".join([json.dumps(head).encode(), b"\n", *(a.tobytes() for a in arrays.values())])


def _unpack(packed: bytes) -> Arrays:
    head, _, content = packed.partition(b"\n")
    arrays: Arrays = {}
    begin = 0
    for name, (kind, shape) in json.loads(head).items():
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(content, kind, count, begin).reshape(shape)
        begin += arrays[name].nbytes
    return arrays


def dump(store: ClientStore, round_num: int | None = None) -> Iterator[tuple[int, Arrays]]:
    """Yield (client, arrays) of each client that has kept something, as `ClientStore.get`."""
    for client in store.clients():
        arrays = store.get(client, round_num)
        if arrays is not None:
            yield client, arrays
