"""Clients stacked on a leading axis, so that one compiled call trains many of them.

This uses a GPU fully, because its matrix products are larger. On a CPU it is slower than one client
at a time, whose weights and moments stay in the cache.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgru.core.trees import map_arrays
from fedgru.core.types import Bools, Floats, Int32s, KeyWords
from fedgru.engines.jax.prepared import Arrays, Prepared


@dataclass(frozen=True)
class Stack:
    """Clients as the compiled loop takes them, the client first; C is padded to a power of two.

    Attributes:
        rows: float32 [C, num_table, G * hidden_dim], each client's own rows.
        arrays: as in the jax engine's form of a client, each [C, steps, ...].
        keys: uint32 [C, 2], words of the random keys.
        steps_per_pass, num_steps: int32 [C]; a padded client has no steps.
        resets: bool [C, steps, batch], see Steps; or None.
    """

    rows: Floats
    arrays: Arrays
    keys: KeyWords
    steps_per_pass: Int32s
    num_steps: Int32s
    resets: Bools | None


def group(shapes: Sequence[tuple[int, int]], at_once: int) -> list[list[int]]:
    """Return groups of clients that are stacked together: lists of indices.

    A group has one table size. Clients are sorted by their number of local steps, so that the
    clients of a stack have about equally many.

    Args:
        shapes: (num_table, num_steps) of each client.
        at_once: most clients in a group.

    >>> group([(128, 4), (256, 8), (128, 12), (128, 8)], at_once=2)
    [[1], [2, 3], [0]]
    """
    groups: list[list[int]] = []
    last = None
    for index in sorted(range(len(shapes)), key=lambda i: (-shapes[i][0], -shapes[i][1], i)):
        if shapes[index][0] != last or len(groups[-1]) == at_once:
            groups.append([])
        groups[-1].append(index)
        last = shapes[index][0]
    return groups


def stack(prepared: Sequence[Prepared], keys: Sequence[KeyWords], table: Floats) -> Stack:
    """Return the Stack of some clients.

    Args:
        prepared: the jax engine's form of each, with one num_table.
        keys: uint32 [2] for each.
        table: float32 [num_rows, G * hidden_dim], all rows.
    """
    extra = (1 << (len(prepared) - 1).bit_length()) - len(prepared)
    steps = max(len(data.arrays[0]) for data in prepared)

    def pad(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
        return np.concatenate([array, np.zeros((length, *array.shape[1:]), array.dtype)])

    def pile(*arrays: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return pad(np.stack([pad(array, steps - len(array)) for array in arrays]), extra)

    rows = np.zeros((len(prepared) + extra, prepared[0].num_table, table.shape[1]), np.float32)
    for own, data in zip(rows, prepared, strict=False):
        own[: len(data.row_ids)] = table[data.row_ids]
    return Stack(
        rows=rows,
        arrays=tuple(
            map_arrays(pile, *arrays) for arrays in zip(*(d.arrays for d in prepared), strict=True)
        ),
        keys=pad(np.stack(keys), extra),
        steps_per_pass=np.array([d.steps for d in prepared] + [1] * extra, np.int32),
        num_steps=np.array([d.steps * d.passes for d in prepared] + [0] * extra, np.int32),
        resets=map_arrays(pile, *(d.resets for d in prepared)),
    )
