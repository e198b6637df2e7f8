"""Everything a resumed run needs, written whole or not at all.

After round 7 the folder `checkpoints/` of a run holds

round-7.json        the state of training: counters of early stopping, the rows of all rounds, which
                    round is the best, and the checksums of the files it needs. It is written last:
                    if it exists, the others exist too
round-7.npz         the weights, in the form of best.npz
round-7.slots.npz   the slots of the server optimizer, if it has any
round-6...          the checkpoint before, kept until this one is on the disk
round-4.npz         the best round's weights; best.npz is another name (a hard link) of this file
round-3.npz         where rounds overlap, the weights that clients are training from
"""

import json
import logging
import os
import re
import shutil
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedgru.algorithms.fed_avg import ServerState
from fedgru.algorithms.private import Private
from fedgru.algorithms.simulated import Simulated
from fedgru.core.errors import RunError
from fedgru.core.types import Weights
from fedgru.storage.files import (
    check_like,
    checksums,
    naming,
    read_arrays,
    read_json_object,
    sync_folder,
    write_arrays,
    write_text,
    write_whole,
)
from fedgru.training.loop import Checkpoint

FORMAT = 1

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run. The process that writes them holds the run's lock.

    A checkpoint is written in a separate thread while the next round is computed, at most one at a
    time. Its arrays are not copied: a round makes new arrays and does not change the old ones.

    Args:
        folder: Path of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._best = folder / "best.npz"
        self.folder = folder / "checkpoints"
        self._writing: Future[None] | None = None  # of the checkpoint being written
        self._kept: dict[int, set[str]] = {}  # round_num -> names of its checkpoint's files

    def save(self, checkpoint: Checkpoint) -> None:
        """Start writing a Checkpoint, once the one before is on the disk.

        Raises:
            OSError: if the one before could not be written.
        """
        self.wait()
        thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing = thread.submit(self._write, checkpoint)
        thread.shutdown(wait=False)  # it ends when this is written

    def wait(self) -> None:
        """Return when the checkpoint that `save` started is on the disk.

        Raises:
            OSError: if it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    @property
    def last_round(self) -> int | None:
        """The round of the newest checkpoint on the disk; None if there is none."""
        return max(self._kept, default=None)

    def remove(self) -> None:
        """Remove all checkpoints: the run is done."""
        self.wait()
        if self.folder.exists():
            with naming(self.folder):
                shutil.rmtree(self.folder)
        self._kept = {}

    def load(self, like: Checkpoint) -> Checkpoint | None:
        """Return the newest undamaged Checkpoint, and make best.npz the weights of its best round.

        A damaged checkpoint is skipped with a warning that names the fault.

        Args:
            like: Checkpoint of round 0. It gives the names and shapes of the run's arrays, and the
                run's rules of early stopping.

        Returns:
            Checkpoint, or None if the run has none: it was stopped before the first.

        Raises:
            RunError: if there are checkpoints, and all are damaged.
        """
        names = (re.fullmatch(r"round-(\d+)\.json", file.name) for file in self._files())
        rounds = sorted((int(name[1]) for name in names if name), reverse=True)
        reasons = []
        for round_num in rounds:
            try:
                checkpoint, files = self._read(round_num, like)
            except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
                reasons.append(f"round {round_num}: {_reason(error)}")
                continue
            if reasons:
                logger.warning(
                    "damaged checkpoint of %s; going back to that of round %d",
                    "; ".join(reasons),
                    round_num,
                )
            self._kept = {round_num: files}
            self._show_best(checkpoint)
            return checkpoint
        if reasons:
            raise RunError(
                f"all checkpoints in {self.folder} are damaged ({'; '.join(reasons)}). Train again "
                f"with: fedgru train --config {self.folder.parent / 'config.toml'}"
            )
        self._best.unlink(missing_ok=True)
        return None

    def _write(self, checkpoint: Checkpoint) -> None:
        state, round_num = checkpoint.state, checkpoint.state.round_num
        with naming(self.folder):
            self.folder.mkdir(exist_ok=True)
        arrays: dict[str, dict[str, Any]] = {
            _weights(round_num): {"round_num": np.int64(round_num), **state.weights}
        }
        scalars = {name: int(s) for name, s in state.optimizer.items() if not isinstance(s, dict)}
        if slots := _flat(state.optimizer):
            arrays[_slots(round_num)] = slots
        files = {}
        for name, members in arrays.items():
            write_arrays(self.folder / name, members)
            files[name] = checksums(self.folder / name)
        versions = () if state.simulated is None else state.simulated.versions
        for earlier in (checkpoint.best.round_num, *versions):
            name = _weights(earlier)
            files[name] = files.get(name) or checksums(self.folder / name)
        content: dict[str, Any] = {
            "round_num": round_num,
            "best_round": checkpoint.best.round_num,
            "stopping": asdict(checkpoint.stopping),
            "scalars": scalars,
            "files": files,
            "rows": checkpoint.rows,
            "faults": checkpoint.faults,
        }
        if state.simulated is not None:
            content["simulated"] = state.simulated.to_dict()
        if state.private is not None:
            content["private"] = state.private.to_dict()
        text = {"format": FORMAT, "crc32": _checksum(content), "checkpoint": content}
        write_text(self.folder / _manifest(round_num), json.dumps(text) + "\n")
        self._show_best(checkpoint)
        self._forget_but(round_num, set(files))

    def _show_best(self, checkpoint: Checkpoint) -> None:
        """Make best.npz the weights of the best round; remove it while that is round 0."""
        source = self.folder / _weights(checkpoint.best.round_num)
        with naming(self._best):
            if checkpoint.best.round_num == 0:
                self._best.unlink(missing_ok=True)
            elif not (self._best.exists() and self._best.samefile(source)):
                part = self._best.with_name(".best.npz.part")
                part.unlink(missing_ok=True)
                try:
                    os.link(source, part)
                except OSError:  # no hard links here; on a full disk the next line fails too
                    write_whole(part, lambda stream: stream.write(source.read_bytes()))
                part.replace(self._best)
                sync_folder(self._best.parent)

    def _forget_but(self, round_num: int, files: set[str]) -> None:
        """Remove all checkpoints but the one just written and the one before."""
        before = max((r for r in self._kept if r < round_num), default=None)
        kept = {} if before is None else {before: self._kept[before]}
        kept[round_num] = files
        wanted = set().union(*kept.values(), *([_manifest(r)] for r in kept))
        for file in self._files():  # in order of name: .json first, then the files it needs
            if file.name not in wanted:
                with naming(file):
                    file.unlink()
        self._kept = kept

    def _files(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.exists() else []

    def _read(self, round_num: int, like: Checkpoint) -> tuple[Checkpoint, set[str]]:
        """Return a Checkpoint and the names of its files; `load` lists the errors it catches."""
        text = read_json_object(self.folder / _manifest(round_num))
        if text["format"] != FORMAT:
            raise ValueError(f"its format is {text['format']}, expected {FORMAT}")
        content = text["checkpoint"]
        if text["crc32"] != _checksum(content) or content["round_num"] != round_num:
            raise ValueError("its checksum does not match")
        files = content["files"]
        weights = self._read_weights(round_num, files, like)
        slots = self._read_arrays(_slots(round_num), files) if _slots(round_num) in files else {}
        own = {key: array for key, array in slots.items() if not key.startswith("aggregator/")}
        check_like(own, _flat(like.state.optimizer))
        optimizer = content["scalars"] | _nested(slots)
        if content["scalars"].keys() != like.state.optimizer.keys() - _nested(own).keys():
            raise ValueError("it lacks slots of the server optimizer")
        simulated = None
        if like.state.simulated is not None:
            simulated = Simulated.from_dict(content["simulated"])
            used = sorted({flight.version for flight in simulated.in_flight or ()})
            versions = {version: self._read_weights(version, files, like) for version in used}
            simulated = replace(simulated, versions=versions)
        is_private = like.state.private is not None
        private = Private.from_dict(content["private"]) if is_private else None
        state = best = ServerState(weights, optimizer, round_num, simulated, private)
        if (best_round := content["best_round"]) != round_num:
            # the optimizer's slots of the best round are never read
            best = ServerState(self._read_weights(best_round, files, like), {}, best_round)
        rows = tuple((row, seconds) for row, seconds in content["rows"])
        if len(rows) != round_num + 1:
            raise ValueError(f"it has {len(rows)} rows, expected {round_num + 1}")
        stopping = replace(like.stopping, **content["stopping"])
        faults = tuple(tuple(fault) for fault in content["faults"])
        return Checkpoint(state, best, stopping, rows, faults), set(files)

    def _read_weights(self, round_num: int, files: dict[str, Any], like: Checkpoint) -> Weights:
        expected = {"round_num": np.zeros((), np.int64), **like.state.weights}
        arrays = self._read_arrays(_weights(round_num), files, expected)
        if arrays.pop("round_num") != round_num:
            raise ValueError(f"{_weights(round_num)} is of another round")
        check_like(arrays, like.state.weights)
        return arrays

    def _read_arrays(
        self, name: str, files: dict[str, Any], like: dict[str, Any] | None = None
    ) -> Weights:
        try:
            if checksums(self.folder / name) != files[name]:
                raise ValueError("its checksums are not those of the checkpoint")
            return read_arrays(self.folder / name, like)
        except FileNotFoundError:
            raise ValueError(f"{name} is missing") from None
        except Exception as error:
            raise ValueError(f"{name}: {error}") from error


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else "it does not hold what it should"


def _manifest(round_num: int) -> str:
    return f"round-{round_num}.json"


def _weights(round_num: int) -> str:
    return f"round-{round_num}.npz"


def _slots(round_num: int) -> str:
    return f"round-{round_num}.slots.npz"


def _checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content).encode())


def _flat(optimizer: dict[str, Any]) -> Weights:
    """Return {"slot/weight": array} of a ServerState's optimizer, scalars left out."""
    return {
        f"{slot}/{name}": array
        for slot, arrays in optimizer.items()
        if isinstance(arrays, dict)
        for name, array in arrays.items()
    }


def _nested(flat: Weights) -> dict[str, Weights]:
    """The inverse of `_flat`."""
    nested: dict[str, Weights] = {}
    for key, array in flat.items():
        slot, _, name = key.partition("/")
        nested.setdefault(slot, {})[name] = array
    return nested
