"""Values as JSON that any parser reads; texts in CSV that no program obeys."""

import json
import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedgru.runs.tables import read_texts
from fedgru.storage.tables import append_csv, from_cell, to_cell, to_json, write_csv


def test_what_json_cannot_hold_is_null():
    value = {"loss": float("nan"), "rows": [1.5, (float("-inf"), np.float64("inf"))], "name": "ü"}

    def refuse(constant):  # Python's own parser would take NaN and Infinity
        raise ValueError(constant)

    text = to_json(value)
    read = json.loads(text, parse_constant=refuse)
    assert read == {"loss": None, "rows": [1.5, [None, None]], "name": "ü"}
    assert text.isascii()
    assert '"ü"' in to_json(value, ensure_ascii=False)


ODD = st.text(
    st.sampled_from("=+-@'\"\\\\,;u0051bc \t\r\n\x00\x07\x1b\x7f\x9b\u202e\u2028\uff1dé")
    | st.characters()
)


@given(ODD)
def test_no_text_is_a_formula_and_every_text_comes_back(text):
    cell = to_cell(text)
    assert from_cell(cell) == text
    assert not re.search("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", cell)
    if cell[:1] in tuple("=+-@\uff1d\uff0b\uff0d\uff20"):
        assert float(cell) == float(text)  # a number is none


@given(st.lists(ODD, min_size=1, max_size=4))
def test_tables_give_back_what_was_written(tmp_path_factory, texts):
    file = tmp_path_factory.mktemp("table") / "whole.csv"
    write_csv(file, [{"client_id": text, "hits": -1.5} for text in texts])
    assert read_texts(file) == {"client_id": texts, "hits": ["-1.5"] * len(texts)}
    for text in texts:
        append_csv(file, {"client_id": text, "hits": 2})
    assert read_texts(file)["client_id"] == texts + texts
    assert len(file.read_bytes().splitlines()) == 1 + 2 * len(texts)


def test_the_cells_as_a_spreadsheet_gets_them(tmp_path):
    names = ['=HYPERLINK("http://example.org";"x")', "@SUM(1)", "-2+3", "-2", "'=1", "a\x1b[2J"]
    write_csv(tmp_path / "t.csv", [{"id": name} for name in names])
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        *("id", '"\'=HYPERLINK(""http://example.org"";""x"")"', "'@SUM(1)", "'-2+3"),
        *("-2", "''=1", "a\\u001b[2J"),
    ]
