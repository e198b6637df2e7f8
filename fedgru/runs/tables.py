"""The CSV tables of a run folder: what a row of them holds, and how they are read back."""

import csv

import numpy as np


def metric_cells(round_num, row, _):
    """Return a row of metrics.csv as a dict, from what `RunFolder.record_round` is given."""
    return {"round": round_num} | row


def time_cells(round_num, _, seconds):
    """Return a row of times.csv as a dict, from what `RunFolder.record_round` is given."""
    return {"round": round_num} | {f"{name}_s": f"{s:.3f}" for name, s in seconds.items()}


def read_texts(file):
    """Return a table as {column: list of str}, cells as they stand in it.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no table; says so.
    """
    try:
        with open(file, newline="", encoding="utf-8") as stream:
            head, *rows = csv.reader(stream, strict=True)
    except (ValueError, csv.Error):  # ValueError: no row at all, or not UTF-8
        raise ValueError("it is no table") from None
    if len(set(head)) < len(head) or any(len(row) != len(head) for row in rows):
        raise ValueError("it is no table")
    return {name: [row[i] for row in rows] for i, name in enumerate(head)}


def read_round_texts(file):
    """Return metrics.csv or times.csv as `read_texts` does; its row i is of round i.

    Raises:
        FileNotFoundError, ValueError: as `read_texts`; or if the rows are of other rounds.
    """
    texts = read_texts(file)
    if "round" not in texts:
        raise ValueError("it has no column round")
    rounds = texts["round"]
    if rounds != [str(i) for i in range(len(rounds))]:
        raise ValueError(f"its {len(rounds)} rows are not rounds 0, 1, 2 ...")
    return texts


def read_rounds(file):
    """Return metrics.csv or times.csv as {column: float64 [rounds + 1]}, NaN where a cell is empty.

    Raises:
        FileNotFoundError, ValueError: as `read_round_texts`; or if a cell is no number.
    """
    return {name: _numbers(texts) for name, texts in read_round_texts(file).items()}


def read_clients(file):
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


def _numbers(texts):
    try:
        return np.array([float(text or "nan") for text in texts])
    except ValueError:
        raise ValueError("it is no table of numbers") from None
