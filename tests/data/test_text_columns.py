"""Plain texts are read by their bytes, and mean what they meant before."""

import numpy as np
import pyarrow as pa
import pytest

from fedgru.data import text_columns
from fedgru.data.reading import row_checks, timestamps
from fedgru.data.reading import rows as reading_rows


def slow(monkeypatch):
    monkeypatch.setattr(timestamps, "fixed_width", lambda *_: None)
    monkeypatch.setattr(row_checks, "plain_numbers", lambda *_, **__: None)


def test_times_by_their_bytes_are_those_of_the_pattern(monkeypatch):
    rng = np.random.default_rng(0)
    good = b"Tue Apr 03 18:00:09 +0000 2012", b"Wed Feb 29 23:59:59 -1359 2012"
    texts = []
    for i in range(20_000):  # of most, one or two bytes are changed for some that are near
        text = bytearray(good[i % 2])
        for _ in range(i % 3):
            text[rng.integers(30)] = rng.choice(list(b"0123456789 :+-TueWdAprFb/\t"))
        texts.append(text.decode())
    parts = [text for text in texts if text == text.strip()], texts
    texts += ["  Tue Apr 03 18:00:09 +0000 2012", "Tue Apr 03 18:00:09 +0000 201²", ""]
    assert text_columns.fixed_width(text_columns.trim(pa.array(parts[0])), 30) is not None
    fast = [timestamps.read_times(pa.array(part), "tsmc2014") for part in parts]
    slow(monkeypatch)
    for found, part in zip(fast, parts, strict=True):
        expected = timestamps.read_times(pa.array(part), "tsmc2014")
        assert 6000 < expected.ok.sum() < 15_000
        for name, values in vars(expected).items():
            np.testing.assert_array_equal(getattr(found, name), values, err_msg=name)
            assert getattr(found, name).dtype == values.dtype


@pytest.mark.parametrize(
    "texts",
    [
        ["40.7", "-73.98", ""],
        ["1", "-1", "90.", ".5", "-.5", "007"],
        ["1", "1-1"],
        ["1", "1.2.3"],
        ["-", "."],
        ["1" * 20, "1" * 21],
        ["1e1", "nan", "inf", "0x1", "+2", " 3 "],
        ["5", None],
    ],
)
def test_numbers_by_their_bytes_are_those_of_the_pattern(monkeypatch, texts):
    column = pa.array([text or "" for text in texts])
    found = row_checks._read_numbers(column)
    slow(monkeypatch)
    np.testing.assert_array_equal(found, row_checks._read_numbers(column))


def test_a_slice_is_read_where_it_begins():
    texts = pa.array(["x", "12", "7", " "]).slice(1, 2)
    assert text_columns.plain_numbers(texts, pa.int64(), 6).to_pylist() == [12, 7]
    assert text_columns.lengths(texts).tolist() == [2, 1]
    assert text_columns.trim(texts) is texts


@pytest.mark.parametrize("most", [1, 2, 3, 50])
def test_rows_alike_are_found_in_quiet_and_in_crowded_seconds(monkeypatch, most):
    monkeypatch.setattr(reading_rows, "MAX_COMPARED", most)
    rng = np.random.default_rng(most)
    time_s = np.sort(rng.integers(0, 60, 400)) ** 2 // 30
    user, venue = rng.integers(0, 4, (2, 400))
    rows = list(zip(user, venue, time_s, strict=True))
    expected = [i for i, row in enumerate(rows) if rows.count(row) > 1]
    assert reading_rows.find_alike(user, venue, time_s).tolist() == expected
    assert 100 < len(expected) < 400
