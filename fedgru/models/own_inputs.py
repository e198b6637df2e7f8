"""What the function of a Keras model of one's own is given."""

from dataclasses import dataclass
from typing import Any

import numpy as np

GROUP = "fedgru.models"  # of entry points


@dataclass(frozen=True)
class ModelInputs:
    """What a model of one's own is built for: its inputs, its classes, and the shape of a call.

    Attributes:
        ids: (name, number of known ids) of each id feature; ids begin at 1, 0 is unknown.
        number_names: names of the number inputs.
        num_classes: scores that the model gives for each check-in.
        batch_size: streams in a call, each with a state of its own.
        seq_len: check-ins of each stream in a call.
    """

    ids: tuple[tuple[str, int], ...]
    number_names: tuple[str, ...]
    num_classes: int
    batch_size: int
    seq_len: int

    @property
    def id_names(self) -> tuple[str, ...]:
        """Names of the id inputs."""
        return tuple(name for name, _ in self.ids)

    @property
    def sizes(self) -> dict[str, int]:
        """Name of an id input -> how many known ids it has."""
        return dict(self.ids)

    @property
    def num_rows(self) -> int:
        """The known ids of all id inputs together: the rows of a table."""
        return sum(size for _, size in self.ids)

    def tensors(self) -> dict[str, Any]:
        """Return {name: keras.Input}, [batch_size, seq_len] each: int32 ids, float32 numbers."""
        import keras

        shape = {"shape": (self.seq_len,), "batch_size": self.batch_size}
        ids = {name: keras.Input(dtype="int32", name=name, **shape) for name in self.id_names}
        return ids | {name: keras.Input(name=name, **shape) for name in self.number_names}

    def one_hot(self, tensors: dict[str, Any]) -> Any:
        """Return all inputs side by side, as the built-in model reads them.

        Args:
            tensors: from `tensors`.

        Returns:
            Keras tensor, float32 [batch_size, seq_len, num_rows + len(number_names)]: each id
            one-hot, all zeros for unknown; then the numbers.
        """
        import keras

        ops = keras.ops
        columns = [ops.one_hot(tensors[name] - 1, size) for name, size in self.ids]
        columns += [ops.expand_dims(tensors[name], -1) for name in self.number_names]
        return keras.layers.Concatenate(name="inputs")(columns) if len(columns) > 1 else columns[0]

    def table_rows(self, tensors: dict[str, Any]) -> Any:
        """Return the id inputs as rows of one table, for a keras.layers.Embedding.

        Args:
            tensors: from `tensors`.

        Returns:
            Keras tensor, int32 [batch_size, seq_len, number of id inputs]: 0 to num_rows - 1, and
            num_rows for unknown. So the Embedding has num_rows + 1 rows.
        """
        import keras

        ops = keras.ops
        offsets = np.cumsum([0, *(size for _, size in self.ids)])
        columns = [
            ops.where(ops.equal(tensors[name], 0), self.num_rows, tensors[name] - 1 + int(offset))
            for name, offset in zip(self.id_names, offsets, strict=False)
        ]
        return ops.cast(ops.stack(columns, -1), "int32")
