"""A client's sequence -> rows for a stateful GRU: batches of indices, padded and masked.

A client with train check-ins v[0], ..., v[n] has n pairs; pair j has input v[j] and target
v[j + 1]. A layout says which pair stands where in which local step.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fedgru.core.types import Bools, Int32s, Ints


@dataclass(frozen=True)
class Batches:
    """The local steps of one pass over a client's pairs.

    Attributes:
        pairs: int32 [steps, batch, seq_len], index of a pair; -1 is padding.
        passes: how often a round goes over them; the state is zero at the start of each.
        num_pairs: distinct pairs in `pairs`.
        resets: bool [steps, batch], the rows whose state is zero before a step; None where that is
            so at the start of a pass alone.
    """

    pairs: Int32s
    passes: int
    num_pairs: int
    resets: Bools | None = None

    @property
    def num_examples(self) -> int:
        """Pairs trained on in one round, counting each pass, not counting padding."""
        return int((self.pairs >= 0).sum()) * self.passes


def contiguous(num_pairs: int, batch_size: int, seq_len: int, local_epochs: int) -> Batches:
    """Cut a client's pairs into contiguous streams, so that the carried state is the true one.

    Stream b continues in row b of the next local step. Nothing is dropped: the streams' tails
    are padded.

    Visits 1 to 7 are six pairs; two streams, `seq_len` 2:

    >>> contiguous(6, batch_size=2, seq_len=2, local_epochs=1).pairs.tolist()
    [[[0, 1], [3, 4]], [[2, -1], [5, -1]]]

    that is inputs [[1, 2], [4, 5]] with targets [[2, 3], [5, 6]], then inputs [[3, 0], [6, 0]]
    with targets [[4, 0], [7, 0]] and mask [[1, 0], [1, 0]].
    """
    stream_len = -(-num_pairs // batch_size)
    steps = -(-stream_len // seq_len)
    stream, offset = np.divmod(np.arange(num_pairs), max(stream_len, 1))
    step, column = np.divmod(offset, seq_len)
    pairs = np.full((steps, batch_size, seq_len), -1, np.int32)
    pairs[step, stream, column] = np.arange(num_pairs)
    return Batches(pairs, local_epochs, num_pairs)


def chunks(num_pairs: int, batch_size: int, seq_len: int, local_epochs: int) -> Batches:
    """Cut as the reference notebook does, for comparison.

    Chunks of seq_len + 1 check-ins; an incomplete last chunk is dropped, and the pair between
    two chunks too; the chunks are repeated once per local epoch, batched, and an incomplete last
    batch is dropped. The state is carried from row i of a batch to row i of the next although
    that row does not continue it, and is zero only at the start of the round.

    Eight visits with `seq_len` 2 make chunks (0, 1, 2) and (3, 4, 5); with two epochs and
    batches of three the fourth chunk is dropped:

    >>> chunks(7, batch_size=3, seq_len=2, local_epochs=2).pairs.tolist()
    [[[0, 1], [3, 4], [0, 1]]]
    """
    num_chunks = (num_pairs + 1) // (seq_len + 1)
    firsts = np.tile(np.arange(num_chunks) * (seq_len + 1), local_epochs)
    steps = len(firsts) // batch_size
    firsts = firsts[: steps * batch_size].reshape(steps, batch_size, 1)
    pairs = (firsts + np.arange(seq_len)).astype(np.int32)
    return Batches(pairs, 1, len(np.unique(pairs)))


def sessions(crossing: Bools, batch_size: int, seq_len: int, local_epochs: int) -> Batches:
    """Lay a client's sessions into rows, so that each begins with a local step and a zero state.

    Each session goes to the row that is shortest so far. Its end is padded to a whole step. A pair
    that leads from one session to the next is left out.

    Visits 1 to 4, 5 to 6 and 7 to 8 are three sessions; two rows, `seq_len` 2:

    >>> crossing = np.array([False, False, False, True, False, True, False])
    >>> found = sessions(crossing, batch_size=2, seq_len=2, local_epochs=1)
    >>> found.pairs.tolist()
    [[[0, 1], [4, -1]], [[2, -1], [6, -1]]]
    >>> found.resets.tolist()
    [[True, True], [False, True]]

    Args:
        crossing: bool [num_pairs], whether a pair's target begins a session.
        batch_size, seq_len, local_epochs: ints.
    """
    num_pairs = len(crossing)
    cuts = np.flatnonzero(crossing)
    firsts, ends = np.append(0, cuts + 1), np.append(cuts, num_pairs)
    streams = [np.arange(a, b) for a, b in zip(firsts, ends, strict=True) if a < b]
    pairs, resets = lay_in_rows(streams, batch_size, seq_len)
    if len(resets):
        resets[0] = True  # rows that have no session too, for the next pass
    num_laid = sum(map(len, streams))
    return Batches(pairs.astype(np.int32), local_epochs, num_laid, resets)


def lay_in_rows(streams: Iterable[Ints], batch_size: int, seq_len: int) -> tuple[Ints, Bools]:
    """Lay streams into the rows of batches; each in turn goes to the shortest row.

    Args:
        streams: int64 [any length >= 0] each.
        batch_size: rows.
        seq_len: of each stream in a step; a stream is padded to whole steps.

    Returns:
        (values, int64 [steps, batch_size, seq_len], -1 in padding; resets, bool [steps,
        batch_size], where a stream begins).
    """
    rows: list[tuple[int, int, list[Ints]]] = [(0, row, []) for row in range(batch_size)]
    for stream in streams:
        if not len(stream):
            continue
        windows = -(-len(stream) // seq_len)
        padded = np.full(windows * seq_len, -1)
        padded[: len(stream)] = stream
        length, row, laid = heapq.heappop(rows)
        laid.append(padded.reshape(windows, seq_len))
        heapq.heappush(rows, (length + windows, row, laid))
    steps = max(length for length, _, _ in rows)
    values = np.full((steps, batch_size, seq_len), -1)
    resets = np.zeros((steps, batch_size), bool)
    for length, row, laid in rows:
        if length:
            values[:length, row] = np.concatenate(laid)
            begins = np.cumsum([0, *(len(stream) for stream in laid[:-1])])
            resets[begins, row] = True
    return values, resets


LAYOUTS = {"streams": contiguous, "chunks": chunks}


def is_trained_on(
    layout: str,
    pairs: Ints,
    num_pairs: Ints | int,
    batch_size: int,
    seq_len: int,
    local_epochs: int,
) -> Bools:
    """Return bool, the shape of `pairs`: whether a layout keeps each pair of a client.

    In closed form, so that it can be computed for all clients at once; the result is that of the
    layouts themselves.

    Args:
        layout: a key of LAYOUTS.
        pairs: int64, indices of pairs.
        num_pairs: int64, the shape of `pairs`: how many pairs the client has.
        batch_size, seq_len, local_epochs: ints, as for the layouts.

    >>> is_trained_on("chunks", np.arange(7), 7, batch_size=3, seq_len=2, local_epochs=2).tolist()
    [True, True, False, True, True, False, False]
    """
    if layout == "streams":
        return pairs < num_pairs
    num_chunks = (num_pairs + 1) // (seq_len + 1)
    num_laid = num_chunks * local_epochs // batch_size * batch_size  # of all epochs' chunks
    chunk, offset = np.divmod(pairs, seq_len + 1)
    return (chunk < np.minimum(num_chunks, num_laid)) & (offset < seq_len)
