"""TensorBoard's event files of a run: one folder each for train, val and test."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedgru.core.types import Row
from fedgru.storage.files import naming

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter

TAGS = {"loss": "epoch_loss", "acc@1": "epoch_sparse_categorical_accuracy"}


class EventFiles:
    """Writes metrics to event files, in this thread, so that a full disk raises an error here.

    tensorboardX's own SummaryWriter writes in another thread; if that thread fails, it waits for
    ever.

    Args:
        folder: Path of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, EventsWriter] = {}

    def write(self, row: Row, round_num: int) -> None:
        """Write a round's metrics, each split into its own folder.

        `loss` and `acc@1` over check-ins get the tags of Keras' own callback, as in the
        reference notebook; all others their metric's name and average, acc_at_5/macro for
        acc@5/macro because a tag cannot hold an @.

        Args:
            row: {"split/metric/average": value}; None, NaN (nothing was measured)
                and other keys are left out.
            round_num: int, the step.
        """
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for key, value in row.items():
            split, *rest = key.split("/")
            if value is None or value != value or len(rest) != 2:
                continue
            name, average = rest
            tag = f"{name.replace('@', '_at_')}/{average}"
            if average == "micro":
                tag = TAGS.get(name, tag)
            event = Event(wall_time=time.time(), step=round_num, summary=scalar(tag, value))
            with naming(self.folder / split):
                self._writer("eval" if split == "test" else split).write_event(event)
        for split, writer in self._writers.items():
            with naming(self.folder / split):
                writer.flush()

    def _writer(self, split: str) -> EventsWriter:
        from tensorboardX.event_file_writer import EventsWriter

        if split not in self._writers:
            (self.folder / split).mkdir(exist_ok=True)
            self._writers[split] = EventsWriter(str(self.folder / split / "events"))
        return self._writers[split]

    def close(self) -> None:
        """Close the files; more can be written afterwards, to new ones."""
        while self._writers:
            self._writers.popitem()[1].close()
