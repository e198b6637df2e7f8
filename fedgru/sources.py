"""A source file as UTF-8 text and as rows of strings, with the facts a passport keeps about it."""

import gzip
import hashlib
import io
import stat
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from fedgru.errors import DataError

MAX_TEXT_BYTES = 1 << 30  # a file that is, or unpacks to, more than this is taken for a bomb
_MAX_ROW_BYTES = 1 << 20  # also pyarrow's block size: a longer row is an error
_UTF8_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Source:
    """Where a data set came from.

    Attributes:
        file: name of the file, without its folder.
        sha256: of the file as it lies on disk.
        size_bytes: of the file as it lies on disk.
        compression: "none", "gzip" or "zip".
        encoding: "utf-8", "utf-8-sig" (with a byte order mark) or "latin-1".
    """

    file: str
    sha256: str
    size_bytes: int
    compression: str
    encoding: str


def read_text(path):
    """Read a plain, gzip or zip file and tell its encoding.

    Returns:
        The text as UTF-8 bytes without a byte order mark, and its `Source`.

    Raises:
        DataError: if the file is missing, a folder, a pipe or device, empty, damaged, not what
            its name says, a zip of several files, more than `MAX_TEXT_BYTES` of text, or not text
            at all.
    """
    path = Path(path)
    stored = _read_stored(path)
    raw, compression = _unpack(stored, path)
    text, encoding = _to_utf8(raw, path.name)
    if not text.strip():
        raise DataError(f"{path.name} is empty.")
    sha256 = hashlib.sha256(stored).hexdigest()
    return text, Source(path.name, sha256, len(stored), compression, encoding)


def _read_stored(path):
    """The bytes of a file as it lies on disk; nothing is read of what may have no end."""
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            raise DataError(f"{path} is a folder, expected a file.")
        if not stat.S_ISREG(facts.st_mode):
            raise DataError(f"{path} is a pipe or a device: write what it gives to a file first.")
        if facts.st_size > MAX_TEXT_BYTES:
            raise DataError(_too_large(path.name))
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {reason}.") from None


def _unpack(stored, path):
    """The content of a plain, gzip or zip file, told apart by its first bytes."""
    if stored.startswith(b"\x1f\x8b"):
        return _unpack_gzip(stored, path.name), "gzip"
    if stored.startswith(b"PK"):
        return _unpack_zip(stored, path.name), "zip"
    if stored and path.suffix.lower() in (".gz", ".zip"):
        kind = {".gz": "gzip", ".zip": "zip"}[path.suffix.lower()]
        raise DataError(
            f"{path.name} is named {path.suffix} but is not a {kind} file. "
            "If it is plain text, rename it; if not, fetch it again."
        )
    return _within_limit(stored, path.name), "none"


def _unpack_gzip(stored, name):
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(stored)) as file:
            return _within_limit(file.read(MAX_TEXT_BYTES + 1), name)
    except EOFError:
        raise DataError(
            f"{name} ends too early: the gzip file is cut off. Fetch it again."
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{name} is a damaged gzip file ({error}). Fetch it again.") from None


def _unpack_zip(stored, name):
    try:
        with zipfile.ZipFile(io.BytesIO(stored)) as archive:
            members = [
                info
                for info in archive.infolist()
                if not info.is_dir() and not info.filename.startswith("__MACOSX/")
            ]
            if len(members) != 1:
                names = ", ".join(info.filename for info in members[:5]) or "none"
                more = ", ..." if len(members) > 5 else ""
                raise DataError(
                    f"{name} holds {len(members)} files ({names}{more}), expected one. "
                    "Unpack it and import the file you mean."
                )
            with archive.open(members[0]) as file:
                return _within_limit(file.read(MAX_TEXT_BYTES + 1), name)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise DataError(f"{name} is a damaged zip file ({error}). Fetch it again.") from None
    except (RuntimeError, NotImplementedError) as error:  # a password, or an unknown compression
        raise DataError(
            f"{name} cannot be unpacked: {error}. Unpack it yourself and import the file inside."
        ) from None


def _within_limit(raw, name):
    if len(raw) > MAX_TEXT_BYTES:
        raise DataError(_too_large(name))
    return raw


def _too_large(name):
    return (
        f"{name} holds more than {MAX_TEXT_BYTES / 2**20:,.0f} MiB of text, "
        "the most that is read. Import a part of it."
    )


def _to_utf8(raw, name):
    if b"\0" in raw:
        raise DataError(f"{name} is not text in UTF-8 or Latin-1: it has zero bytes in it.")
    if raw.startswith(_UTF8_BOM):
        encoding, raw = "utf-8-sig", raw[len(_UTF8_BOM) :]
    else:
        encoding = "utf-8"
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1").encode("utf-8"), "latin-1"
    return raw, encoding


@dataclass(frozen=True)
class Rows:
    """A text file cut into rows of equally many fields.

    Attributes:
        columns: one pyarrow string array per column, without missing values.
        row_nums: int64 [num_rows], each row's number in the file, counted from 1.
        misfits: (row number, number of fields) of each row with another number of fields.
    """

    columns: list[pa.Array]
    row_nums: np.ndarray
    misfits: list[tuple[int, int]]


def split_rows(text, name, num_columns, delimiter, quoted):
    """Cut text into rows and fields.

    Args:
        text: UTF-8 bytes, as `read_text` gives them.
        name: what messages call the file.
        num_columns: fields that a row must have.
        delimiter: one character.
        quoted: whether a double quote starts a field that may hold delimiters and line ends; if
            not, it is a character like any other.

    Returns:
        `Rows`. Empty lines at the end of the file are not rows; one further up is a row whose
        fields are all empty.

    Raises:
        DataError: if the text cannot be cut at all, as when a quote is never closed.
    """
    misfits = []

    def note_misfit(row):
        misfits.append((row.number, row.actual_columns))
        return "skip"

    names = [str(column) for column in range(num_columns)]
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(text.rstrip(b"\r\n")),
            # One thread: only then does pyarrow number the misfits.
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
    except pa.ArrowInvalid as error:
        reason = "a row is longer than 1 MiB" if "straddl" in str(error) else str(error).strip(".")
        hint = " Is a quote left open?" if quoted else ""
        raise DataError(f"{name} cannot be cut into rows: {reason}.{hint}") from None
    row_nums = np.arange(1, table.num_rows + len(misfits) + 1)
    row_nums = np.delete(row_nums, [row_num - 1 for row_num, _ in misfits])
    columns = [column.combine_chunks() for column in table.columns]
    return Rows(columns, row_nums, misfits)
