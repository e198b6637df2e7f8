"""Read a source file as UTF-8 text and as rows of strings, with the facts for the passport.

A file is read in parts, so that gigabytes need no more memory than megabytes. A file that must be
unpacked or converted goes through a temporary file.
"""

import codecs
import hashlib
import io
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from fedgru.core.errors import DataError
from fedgru.core.types import AnyPath, Ints
from fedgru.data.reading import unpacking
from fedgru.data.text_columns import raw_bytes

MAX_TEXT_BYTES = 1 << 33  # a larger file, or one that unpacks to more, is not read
MAX_HELD_BYTES = 1 << 30  # limit of a text that is held in memory
_SPOOLED_BYTES = 1 << 26  # smaller files stay in memory
_PART_BYTES = 1 << 24
_MAX_ROW_BYTES = 1 << 20  # also pyarrow's block size: a longer row is an error
BATCHES_AT_ONCE = 16  # each of at most _MAX_ROW_BYTES of text
ROWS_AT_LEAST = 1000  # in a part: enough to recognise the layout of the times
_UTF8_BOM = b"\xef\xbb\xbf"
_CONTROLS = bytes(range(0x80, 0xA0))  # in Latin-1
_NOT_WINDOWS_1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")


@dataclass(frozen=True)
class Source:
    """The source file of a data set.

    Attributes:
        file: name of the file, without its folder.
        sha256: SHA-256 of the file on disk, not unpacked.
        size_bytes: size of the file on disk.
        compression: "none", "gzip" or "zip".
        encoding: "utf-8", "utf-8-sig" (with a byte order mark), "latin-1", or "windows-1252"
            (Latin-1 with printed characters in place of the control characters 128 to 159).
    """

    file: str
    sha256: str
    size_bytes: int
    compression: str
    encoding: str


@dataclass(frozen=True)
class Text:
    """The UTF-8 text of a file, open: bytes `begin` to `end` of a stream.

    A byte order mark at the start and line ends at the end are left out.
    """

    source: Source
    stream: IO[bytes]
    begin: int
    end: int

    def head(self, size: int | None = None) -> bytes:
        """Return the first bytes of the text, all of them if no size is given."""
        size = self.end - self.begin if size is None else size
        self.stream.seek(self.begin)
        return self.stream.read(min(size, self.end - self.begin))

    def reader(self) -> io.RawIOBase:
        """Return the text as a binary stream from its start; use only one at a time."""
        return _Reader(self)


class _Reader(io.RawIOBase):
    def __init__(self, text: Text) -> None:
        self._text, self._at = text, text.begin

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._text.stream.seek(self._at)
        part = self._text.stream.read(min(len(buffer), self._text.end - self._at))
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def read_text(path: AnyPath) -> tuple[bytes, Source]:
    """Return (text, source) of a small file: UTF-8 bytes, and `Source`.

    Raises:
        DataError: as `open_text`; the limit is `MAX_HELD_BYTES`.
    """
    with open_text(path, min(MAX_HELD_BYTES, MAX_TEXT_BYTES)) as text:
        return text.head(), text.source


@contextmanager
def open_text(path: AnyPath, limit: int | None = None) -> Iterator[Text]:
    """Open a plain, gzip or zip file and find its encoding; every byte is read.

    Args:
        path: the file.
        limit: bytes of text at most; `MAX_TEXT_BYTES` by default.

    Yields:
        `Text`.

    Raises:
        DataError: if the file is missing, a folder, a pipe or device, empty, damaged, of another
            kind than its name, a zip of several files, larger than the limit, or not text.
    """
    path = Path(path)
    limit = MAX_TEXT_BYTES if limit is None else limit
    with _open_stored(path, limit) as (stored, size_bytes):
        digest = hashlib.sha256()
        with _unpacked(stored, size_bytes, path, limit) as (raw, compression):
            if raw is not stored:
                for part in _parts(stored):
                    digest.update(part)
            on_part = digest.update if raw is stored else None
            encoding, begin = _look_through(raw, path.name, on_part)
            with _in_utf8(raw, encoding, begin) as (text, begin):
                end = _end(text, begin)
                facts = Source(path.name, digest.hexdigest(), size_bytes, compression, encoding)
                yield Text(facts, text, begin, end)


def _parts(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield a stream's bytes from its start."""
    stream.seek(0)
    while part := stream.read(_PART_BYTES):
        yield part


@contextmanager
def _open_stored(path: Path, limit: int) -> Iterator[tuple[IO[bytes], int]]:
    """Yield a file's bytes on disk and their number; refuse what can be endless."""
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            raise DataError(f"{path} is a folder, expected a file.")
        if not stat.S_ISREG(facts.st_mode):
            raise DataError(f"{path} is a pipe or a device: write its content to a file first.")
        if facts.st_size > limit:
            raise DataError(unpacking.too_large(path.name, limit))
        stream: IO[bytes] = open(path, "rb")  # noqa: SIM115 (closed below)
        if facts.st_size <= _SPOOLED_BYTES:
            with stream:
                stream = io.BytesIO(stream.read())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {reason}.") from None
    with stream:
        yield stream, stream.seek(0, io.SEEK_END)


@contextmanager
def _unpacked(
    stored: IO[bytes], size_bytes: int, path: Path, limit: int
) -> Iterator[tuple[IO[bytes], str]]:
    """Yield the content of a plain, gzip or zip file, and its compression, by the first bytes."""
    stored.seek(0)
    magic = stored.read(2)
    stored.seek(0)
    unpack = {b"\x1f\x8b": unpacking.unpack_gzip, b"PK": unpacking.unpack_zip}.get(magic)
    if unpack is None:
        if size_bytes and path.suffix.lower() in (".gz", ".zip"):
            kind = {".gz": "gzip", ".zip": "zip"}[path.suffix.lower()]
            raise DataError(
                f"{path.name} is named {path.suffix} but is not a {kind} file. "
                "If it is plain text, rename it; if not, download it again."
            )
        yield stored, "none"
        return
    with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as raw:
        try:
            unpack(stored, raw, path.name, limit, size_bytes)
        except OSError as error:
            raise DataError(f"{path.name} cannot be unpacked: {error.strerror or error}.") from None
        yield raw, "gzip" if magic != b"PK" else "zip"


def _look_through(
    raw: IO[bytes], name: str, on_part: Callable[[bytes], object] | None
) -> tuple[str, int]:
    """Return (encoding, bytes of a byte order mark); raise a DataError if it is not text.

    `on_part`, if not None, is called with each part, so that the file is read only once.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    encoding, begin, is_blank, is_plain, has_controls = "utf-8", 0, True, True, False
    for number, part in enumerate(_parts(raw)):
        if on_part is not None:
            on_part(part)
        if b"\0" in part:
            raise DataError(f"{name} is not text in UTF-8 or Latin-1: it has zero bytes in it.")
        if number == 0 and part.startswith(_UTF8_BOM):
            encoding, begin = "utf-8-sig", len(_UTF8_BOM)
        is_blank = is_blank and not part[begin if number == 0 else 0 :].strip()
        if part.isascii() and is_plain:
            continue
        is_plain = False  # from here on a character can continue in the next part
        has_controls = has_controls or len(part.translate(None, _CONTROLS)) < len(part)
        if encoding != "latin-1":
            try:
                decoder.decode(part)
            except UnicodeDecodeError:
                encoding = "latin-1"
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        encoding = "latin-1"
    if is_blank:
        raise DataError(f"{name} is empty.")
    if encoding == "latin-1" and has_controls:
        _check_windows_1252(raw, name)
        encoding = "windows-1252"
    return encoding, begin


def _check_windows_1252(raw: IO[bytes], name: str) -> None:
    """Raise a DataError at the first byte that Windows-1252 does not have."""
    line = 1
    for part in _parts(raw):
        if found := _NOT_WINDOWS_1252.search(part):
            line += part.count(b"\n", 0, found.start())
            raise DataError(
                f"{name} is not text in UTF-8, Latin-1 or Windows-1252: line {line} has the byte "
                f"0x{found[0].hex()}, a control character. Convert the file to UTF-8."
            )
        line += part.count(b"\n")


@contextmanager
def _in_utf8(raw: IO[bytes], encoding: str, begin: int) -> Iterator[tuple[IO[bytes], int]]:
    """Yield a UTF-8 stream and its begin: the stream itself, or its 8-bit text converted."""
    if encoding not in ("latin-1", "windows-1252"):
        yield raw, begin
        return
    with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES) as converted:
        raw.seek(begin)
        while part := raw.read(_PART_BYTES):
            converted.write(part.decode(encoding).encode())
        yield converted, 0


def _end(stream: IO[bytes], begin: int) -> int:
    """Return the end of a stream's text, without line ends."""
    end = stream.seek(0, io.SEEK_END)
    while end > begin:
        size = min(1 << 16, end - begin)
        stream.seek(end - size)
        kept = stream.read(size).rstrip(b"\r\n")
        if kept:
            return end - size + len(kept)
        end -= size
    return end


@dataclass(frozen=True)
class Misfit:
    """A row with another number of fields, or one in which an open quote swallowed others.

    Attributes:
        row_num: its number in the file, counted from 1.
        num_fields: its number of fields.
        num_swallowed: rows after it that a quote left open made part of it; they are counted in
            the numbers of the rows after them.
    """

    row_num: int
    num_fields: int
    num_swallowed: int = 0


@dataclass(frozen=True)
class Rows:
    """A text file split into rows with the same number of fields.

    Attributes:
        columns: one pyarrow string array per column, without missing values.
        row_nums: int64 [num_rows], each row's number in the file, counted from 1.
        misfits: the rows that do not fit, in order.
    """

    columns: list[pa.Array]
    row_nums: Ints
    misfits: list[Misfit]

    @property
    def num_rows(self) -> int:
        """Rows in the file, with misfits and what they swallowed."""
        return len(self.row_nums) + sum(1 + misfit.num_swallowed for misfit in self.misfits)


def split_rows(
    text: Text, num_columns: int, delimiter: str, quoted: bool, first_row: int = 1
) -> Iterator[Rows]:
    """Split text into rows and fields, some megabytes at a time.

    Args:
        text: `Text`.
        num_columns: number of fields that a row must have.
        delimiter: one character.
        quoted: whether a double quote starts a field that can contain delimiters and line ends; if
            not, it is an ordinary character.
        first_row: number of the first row.

    Yields:
        `Rows`, at least once. Empty lines at the end of the file are not rows; an empty line
        before is a row whose fields are all empty.

    Raises:
        DataError: if the text cannot be split, for example if a quote is never closed.
    """
    misfits: list[tuple[int, int, int]] = []  # row in the text, fields, swallowed
    batches: list[pa.RecordBatch] = []
    num_before, next_num = 0, first_row

    def note_misfit(row: Any) -> str:
        after = _lines(row.text)[1:] if quoted else []
        is_swallowed = any(line.count(delimiter) >= num_columns - 1 for line in after)
        misfits.append((row.number, row.actual_columns, len(after) if is_swallowed else 0))
        return "skip"

    names = [str(column) for column in range(num_columns)]
    nothing = pa.table([pa.array([], pa.string())] * num_columns, names)

    def rows_so_far() -> Rows:
        """Return the rows read since the last call, with their numbers."""
        nonlocal batches, num_before, next_num
        table = pa.Table.from_batches(batches) if batches else nothing
        number = 0  # pyarrow can have found misfits further down already
        while number < len(misfits) and misfits[number][0] <= num_before + len(table) + number + 1:
            number += 1
        found = np.array(misfits[:number], np.int64).reshape(-1, 3)
        del misfits[:number]
        columns = [column.combine_chunks() for column in table.columns]
        num_fields = np.full(table.num_rows + number, num_columns)
        is_misfit, swallowed = np.zeros(len(num_fields), bool), np.zeros(len(num_fields), np.int64)
        places = found[:, 0] - num_before - 1
        is_misfit[places], num_fields[places], swallowed[places] = True, found[:, 1], found[:, 2]
        if quoted:
            in_fields = _swallowed_in_fields(columns, delimiter)
            swallowed[~is_misfit] = in_fields
            is_misfit |= swallowed > 0
            if (in_fields > 0).any():
                whole = pa.array(in_fields == 0)
                columns = [column.filter(whole) for column in columns]
        row_nums = next_num + np.arange(len(num_fields)) + np.cumsum(swallowed) - swallowed
        batches, num_before = [], num_before + len(num_fields)
        next_num += len(num_fields) + int(swallowed.sum())
        of_misfits = (values[is_misfit].tolist() for values in (row_nums, num_fields, swallowed))
        return Rows(
            columns, row_nums[~is_misfit], [Misfit(*one) for one in zip(*of_misfits, strict=True)]
        )

    try:
        reader = pa.csv.open_csv(
            pa.PythonFile(text.reader(), mode="r"),
            # one thread: pyarrow numbers the misfits only then
            pa.csv.ReadOptions(use_threads=False, block_size=_MAX_ROW_BYTES, column_names=names),
            pa.csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                ignore_empty_lines=False,
                invalid_row_handler=note_misfit,
            ),
            pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )
        for batch in reader:
            batches.append(batch)
            if len(batches) >= BATCHES_AT_ONCE and sum(map(len, batches)) >= ROWS_AT_LEAST:
                yield rows_so_far()
    except pa.ArrowInvalid as error:
        name, reason = text.source.file, str(error).strip(".")
        if "straddl" in reason:  # all rows before have been read
            row_num = next_num + sum(map(len, batches)) + sum(1 + n for _, _, n in misfits)
            reason = f"row {row_num} is longer than 1 MiB"
        hint = " Is a quote left open?" if quoted else ""
        raise DataError(f"{name} cannot be cut into rows: {reason}.{hint}") from None
    if batches or misfits or not num_before:
        yield rows_so_far()


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _swallowed_in_fields(columns: list[pa.Array], delimiter: str) -> Ints:
    """Return int64 [num_rows], rows that a quote left open made part of a row's field.

    A field with line ends is such a field if there are enough delimiters before its first line end
    to complete its own row, and after its last one to complete the row that comes there.
    """
    swallowed = np.zeros(len(columns[0]), np.int64)
    for place, column in enumerate(columns):
        offsets, data = raw_bytes(column)
        used = data[offsets[0] : offsets[-1]]
        ends = np.flatnonzero((used == 10) | (used == 13)) + offsets[0]
        for row in np.unique(np.searchsorted(offsets, ends, side="right") - 1).tolist():
            lines = _lines(column[row].as_py())
            missing = len(columns) - 1 - place
            if lines[0].count(delimiter) >= missing and lines[-1].count(delimiter) >= place:
                swallowed[row] += len(lines) - 1
    return swallowed
