"""The CSV tables of a run folder: how their rows are made, and how they are read back."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from fedgru.core.types import Columns, Doubles, Row
from fedgru.storage.files import open_plain
from fedgru.storage.tables import from_cell

MAX_TABLE_BYTES = 1 << 30  # clients.csv of a million clients has 0.2 GiB


def metric_cells(round_num: int, row: Row, _: dict[str, float]) -> dict[str, Any]:
    """Return a row of metrics.csv as a dict, from the arguments of `RunFolder.record_round`."""
    return {"round": round_num, **row}


def time_cells(round_num: int, _: Row, seconds: dict[str, float]) -> dict[str, Any]:
    """Return a row of times.csv as a dict, from the arguments of `RunFolder.record_round`."""
    return {"round": round_num, **{f"{name}_s": f"{s:.3f}" for name, s in seconds.items()}}


def read_texts(file: Path) -> dict[str, list[str]]:
    """Return a table as {column: list of str}, each cell the text that was written.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a table.
    """
    try:
        with (
            open_plain(file, MAX_TABLE_BYTES) as content,
            io.TextIOWrapper(content, "utf-8", newline="") as stream,
        ):
            head, *rows = csv.reader(stream, strict=True)
    except (ValueError, csv.Error):  # ValueError: no row at all, or not UTF-8
        raise ValueError("it is no table") from None
    if len(set(head)) < len(head) or any(len(row) != len(head) for row in rows):
        raise ValueError("it is no table")
    return {name: [from_cell(row[i]) for row in rows] for i, name in enumerate(head)}


def read_round_texts(file: Path) -> dict[str, list[str]]:
    """Return metrics.csv or times.csv as `read_texts` does; row i is of round i.

    Raises:
        FileNotFoundError, ValueError: as `read_texts`; or if row i is not of round i.
    """
    texts = read_texts(file)
    if "round" not in texts:
        raise ValueError("it has no column round")
    rounds = texts["round"]
    if rounds != [str(i) for i in range(len(rounds))]:
        raise ValueError(f"its {len(rounds)} rows are not rounds 0, 1, 2 ...")
    return texts


def read_rounds(file: Path) -> dict[str, Doubles]:
    """Return metrics.csv or times.csv as {column: float64 [rounds + 1]}, NaN where a cell is empty.

    Raises:
        FileNotFoundError, ValueError: as `read_round_texts`; or if a cell is no number.
    """
    return {name: _numbers(texts) for name, texts in read_round_texts(file).items()}


def read_clients(file: Path) -> Columns:
    """Return clients.csv as {column: array [num_clients]}: `client_id` texts, the others float64.

    Raises:
        FileNotFoundError, ValueError: as `read_texts`; or if there are no ids, or a cell is no
            number.
    """
    texts = read_texts(file)
    if "client_id" not in texts:
        raise ValueError("it has no column client_id")
    return {
        name: np.array(cells) if name == "client_id" else _numbers(cells)
        for name, cells in texts.items()
    }


def _numbers(texts: list[str]) -> Doubles:
    try:
        return np.array([float(text or "nan") for text in texts])
    except ValueError:
        raise ValueError("it is no table of numbers") from None
