"""Everything a resumed run needs, written whole or not at all.

After round 7 the folder `checkpoints/` of a run holds

round-7.json        where training stands: counters of early stopping, the rows of all rounds, which
                    round is the best, and the checksums of the files it stands on; last to be
                    written, so that whoever finds it finds the rest
round-7.npz         the weights, in the form of best.npz
round-7.slots.npz   what the server optimizer keeps, if it keeps anything
round-6...          the checkpoint before, kept until this one is on the disk
round-4.npz         the best round's weights; best.npz is another name (a hard link) of this file
"""

import json
import logging
import os
import re
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np

from fedgru.algorithms.fed_avg import ServerState
from fedgru.core.errors import RunError
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
    """The checkpoints of one run. Who writes holds the run's lock.

    A checkpoint is written in a thread of its own while the next round is computed; at most one is
    under way. Its arrays are not copied: rounds make new ones and leave the old as they are.

    Args:
        folder: Path of the run.
    """

    def __init__(self, folder):
        self._best = folder / "best.npz"
        self.folder = folder / "checkpoints"
        self._writing = None  # Future of what is under way
        self._kept = {}  # round_num -> names of the files its checkpoint stands on

    def save(self, checkpoint):
        """Begin to write a Checkpoint, once the one before is on the disk.

        Raises:
            OSError: if the one before could not be written.
        """
        self.wait()
        thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing = thread.submit(self._write, checkpoint)
        thread.shutdown(wait=False)  # it ends when this is written

    def wait(self):
        """Return when what was begun is on the disk.

        Raises:
            OSError: if it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    @property
    def last_round(self):
        """The round of the newest checkpoint on the disk; None if there is none."""
        return max(self._kept, default=None)

    def remove(self):
        """Remove all checkpoints: the run has come to its end."""
        self.wait()
        if self.folder.exists():
            with naming(self.folder):
                shutil.rmtree(self.folder)
        self._kept = {}

    def load(self, like):
        """Return the newest Checkpoint that is whole, and make best.npz that of its best round.

        One that is damaged is passed over with a warning that says what is wrong with it.

        Args:
            like: Checkpoint of round 0, whose arrays' names and shapes and whose rules of early
                stopping are the run's.

        Returns:
            Checkpoint, or None if the run has none yet: it was stopped before.

        Raises:
            RunError: if there are some, and all are damaged.
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

    def _write(self, checkpoint):
        state, round_num = checkpoint.state, checkpoint.state.round_num
        with naming(self.folder):
            self.folder.mkdir(exist_ok=True)
        arrays = {_weights(round_num): {"round_num": np.int64(round_num), **state.weights}}
        scalars = {name: int(s) for name, s in state.optimizer.items() if not isinstance(s, dict)}
        if slots := _flat(state.optimizer):
            arrays[_slots(round_num)] = slots
        files = {}
        for name, content in arrays.items():
            write_arrays(self.folder / name, content)
            files[name] = checksums(self.folder / name)
        best = _weights(checkpoint.best.round_num)
        files[best] = files.get(best) or checksums(self.folder / best)
        content = {
            "round_num": round_num,
            "best_round": checkpoint.best.round_num,
            "stopping": asdict(checkpoint.stopping),
            "scalars": scalars,
            "files": files,
            "rows": checkpoint.rows,
            "faults": checkpoint.faults,
        }
        text = {"format": FORMAT, "crc32": _checksum(content), "checkpoint": content}
        write_text(self.folder / _manifest(round_num), json.dumps(text) + "\n")
        self._show_best(checkpoint)
        self._forget_but(round_num, set(files))

    def _show_best(self, checkpoint):
        """Make best.npz the best round's; there is none while that is round 0."""
        source = self.folder / _weights(checkpoint.best.round_num)
        with naming(self._best):
            if checkpoint.best.round_num == 0:
                self._best.unlink(missing_ok=True)
            elif not (self._best.exists() and self._best.samefile(source)):
                part = self._best.with_name(".best.npz.part")
                part.unlink(missing_ok=True)
                try:
                    os.link(source, part)
                except OSError:  # a file system without links, or a full disk: then this fails too
                    write_whole(part, lambda stream: stream.write(source.read_bytes()))
                part.replace(self._best)
                sync_folder(self._best.parent)

    def _forget_but(self, round_num, files):
        """Remove all but the checkpoint just written and the one before."""
        before = max((r for r in self._kept if r < round_num), default=None)
        kept = {} if before is None else {before: self._kept[before]}
        kept[round_num] = files
        wanted = set().union(*kept.values(), *([_manifest(r)] for r in kept))
        for file in self._files():  # in order of name: .json first, then what it stands on
            if file.name not in wanted:
                with naming(file):
                    file.unlink()
        self._kept = kept

    def _files(self):
        return sorted(self.folder.iterdir()) if self.folder.exists() else []

    def _read(self, round_num, like):
        """Return a Checkpoint and the names of its files; see `load` for what it may raise."""
        text = read_json_object(self.folder / _manifest(round_num))
        if text["format"] != FORMAT:
            raise ValueError(f"its format is {text['format']}, expected {FORMAT}")
        content = text["checkpoint"]
        if text["crc32"] != _checksum(content) or content["round_num"] != round_num:
            raise ValueError("its checksum does not fit")
        files = content["files"]
        weights = self._read_weights(round_num, files, like)
        slots = self._read_arrays(_slots(round_num), files) if _slots(round_num) in files else {}
        own = {key: array for key, array in slots.items() if not key.startswith("aggregator/")}
        check_like(own, _flat(like.state.optimizer))
        optimizer = content["scalars"] | _nested(slots)
        if content["scalars"].keys() != like.state.optimizer.keys() - _nested(own).keys():
            raise ValueError("it does not hold what the server optimizer keeps")
        state = best = ServerState(weights, optimizer, round_num)
        if (best_round := content["best_round"]) != round_num:
            # nobody asks what the server optimizer kept then
            best = ServerState(self._read_weights(best_round, files, like), {}, best_round)
        rows = tuple((row, seconds) for row, seconds in content["rows"])
        if len(rows) != round_num + 1:
            raise ValueError(f"it has {len(rows)} rows, expected {round_num + 1}")
        stopping = replace(like.stopping, **content["stopping"])
        faults = tuple(tuple(fault) for fault in content["faults"])
        return Checkpoint(state, best, stopping, rows, faults), set(files)

    def _read_weights(self, round_num, files, like):
        arrays = self._read_arrays(_weights(round_num), files)
        if arrays.pop("round_num") != round_num:
            raise ValueError(f"{_weights(round_num)} is of another round")
        check_like(arrays, like.state.weights)
        return arrays

    def _read_arrays(self, name, files):
        try:
            if checksums(self.folder / name) != files[name]:
                raise ValueError("its checksums are not those of the checkpoint")
            return read_arrays(self.folder / name)
        except FileNotFoundError:
            raise ValueError(f"{name} is missing") from None
        except Exception as error:
            raise ValueError(f"{name}: {error}") from error


def _reason(error):
    return str(error) if isinstance(error, ValueError) else "it does not hold what it should"


def _manifest(round_num):
    return f"round-{round_num}.json"


def _weights(round_num):
    return f"round-{round_num}.npz"


def _slots(round_num):
    return f"round-{round_num}.slots.npz"


def _checksum(content):
    return zlib.crc32(json.dumps(content).encode())


def _flat(optimizer):
    """Return {"slot/weight": array} of a ServerState's optimizer, scalars left out."""
    return {
        f"{slot}/{name}": array
        for slot, arrays in optimizer.items()
        if isinstance(arrays, dict)
        for name, array in arrays.items()
    }


def _nested(flat):
    """The way back from `_flat`."""
    nested = {}
    for key, array in flat.items():
        slot, _, name = key.partition("/")
        nested.setdefault(slot, {})[name] = array
    return nested
