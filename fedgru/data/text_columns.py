"""Columns of texts, read by their bytes if these are plain ASCII: usual, and much faster."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fedgru.core.types import Bools

_IS_DECIMAL = np.isin(np.arange(256), list(b"0123456789.-"))


def raw_bytes(texts: pa.StringArray) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8]]:
    """Return (offsets, data), views of a pyarrow string array: text i is data[offsets[i : i + 2]].

    >>> offsets, data = raw_bytes(pa.array(["no", "a", "bc"]).slice(1))
    >>> offsets.tolist(), data[offsets[0] : offsets[2]].tobytes()
    ([2, 3, 5], b'abc')
    """
    _, offsets, data = texts.buffers()
    if offsets is None or not len(texts):
        return np.zeros(len(texts) + 1, np.int32), np.zeros(0, np.uint8)
    offsets = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return offsets, np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)


def lengths(texts: pa.StringArray) -> npt.NDArray[np.int32]:
    """Return int32 [num_texts], the bytes of each text."""
    return np.diff(raw_bytes(texts)[0])


def trim(texts: pa.StringArray) -> pa.StringArray:
    """Return texts without white space around them; the same array if there is none.

    >>> trim(pa.array([" a b\\u2003", "", "c"])).to_pylist()
    ['a b', '', 'c']
    """
    offsets, data = raw_bytes(texts)
    begins, ends = offsets[:-1], offsets[1:]
    if (begins == ends).any():
        begins, ends = begins[begins < ends], ends[begins < ends]
    edges = np.concatenate([data[begins], data[ends - 1]])
    if ((edges > 0x20) & (edges < 0x7F)).all():  # ASCII, and no white space
        return texts
    return pc.utf8_trim_whitespace(texts)


def is_empty(texts: pa.StringArray) -> Bools:
    """Return bool [num_texts], whether a text is empty or only white space.

    >>> is_empty(pa.array(["a", " ", ""])).tolist()
    [False, True, True]
    """
    return lengths(trim(texts)) == 0


def plain_numbers(texts: pa.StringArray, kind: pa.DataType, longest: int) -> pa.Array | None:
    """Return a column of numbers, or None unless all texts are plain numbers or empty.

    Plain means: only digits, points and minus signs, at most `longest` characters, and Arrow reads
    them as a number.

    Args:
        texts: pyarrow string array, trimmed.
        kind: pyarrow type.
        longest: int, bytes.

    >>> plain_numbers(pa.array(["-4.5", "", "12"]), pa.float64(), 20).to_pylist()
    [-4.5, None, 12.0]
    >>> plain_numbers(pa.array(["1e3"]), pa.float64(), 20)
    """
    offsets, data = raw_bytes(texts)
    sizes = np.diff(offsets)
    used = data[offsets[0] : offsets[-1]]
    if not _IS_DECIMAL[used].all() or sizes.max(initial=0) > longest:
        return None
    if (sizes == 0).any():
        texts = pc.if_else(pa.array(sizes == 0), None, texts)
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        return None


def fixed_width(texts: pa.StringArray, width: int) -> npt.NDArray[np.uint8] | None:
    """Return uint8 [num_texts, width], the bytes of texts that all have that width, else None."""
    offsets, data = raw_bytes(texts)
    if not len(texts) or (np.diff(offsets) != width).any():
        return None
    return data[offsets[0] : offsets[-1]].reshape(-1, width)
