import csv
import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fedgru.core.errors import DataError
from fedgru.data.categories import COARSE_TABLE, apply_scheme, load_scheme
from fedgru.data.checkins import CheckIns, code_texts

DATA = Path(__file__).parents[1] / "data"
SHARED = Path(__file__).parents[3] / "shared/data/nyc"


def named(*names):
    """Check-ins of which only the category names matter."""
    texts = code_texts(pa.array(names, pa.string()))
    zeros = np.zeros(len(names), np.int64)
    return CheckIns(texts, texts, texts, texts, zeros, zeros, zeros, zeros)


def error_of(call, *args):
    with pytest.raises(DataError) as error:
        call(*args)
    return str(error.value)


def test_coarse_categories_in_order_of_first_appearance():
    names = named("Office", None, "Café", "Coffee Shop", "Office", "Bar")
    check_ins = apply_scheme(names, load_scheme("coarse"), "nyc.txt")
    assert check_ins.category.values == ("Work", "Cafe", "Bar")
    assert check_ins.category.codes.tolist() == [0, -1, 1, 1, 0, 2]
    assert check_ins.category.codes.dtype == np.int32
    assert check_ins.raw_category is names.raw_category


def test_coarse_table():
    table = load_scheme("coarse").table
    assert len(table) == 251
    assert len(set(table.values())) == 27
    # oddities that are kept
    assert table["Campground"] == "Home"
    assert table["Brazilian Restaurant"] == "Entertainment"
    assert table["Beer Garden"] == "Restaurant"


@pytest.mark.realdata
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_coarse_table_is_the_shared_one():
    with (SHARED / "uber_cat.csv").open(encoding="utf-8", newline="") as file:
        shared = {row["category_name"]: row["uber_category"] for row in csv.DictReader(file)}
    assert load_scheme("coarse").table == shared


def test_raw_leaves_names_alone():
    check_ins = named("Anything", "Café")
    assert apply_scheme(check_ins, load_scheme("raw"), "nyc.txt") is check_ins


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_own_table_in_any_encoding(tmp_path, encoding):
    path = tmp_path / "mine.csv"
    path.write_bytes('name,category\nCafé,Food\n"Bar, late",Night\n\n'.encode(encoding))
    scheme = load_scheme(path)
    assert scheme.name == "mine.csv"
    check_ins = apply_scheme(named("Bar, late", "Café"), scheme, "nyc.txt")
    assert check_ins.category.values == ("Night", "Food")
    apart = unicodedata.normalize("NFD", "Café")  # e and an accent: looks the same, is not
    assert apart != "Café"
    assert apply_scheme(named(apart), scheme, "nyc.txt").category.values == ("Food",)


def test_the_table_that_comes_along_is_a_valid_own_table():
    assert load_scheme(COARSE_TABLE).table == load_scheme("coarse").table


def test_unmapped_names_are_listed():
    names = named("Zoo Bar", "Office", "Alp", "Zoo Bar")
    assert error_of(apply_scheme, names, load_scheme("coarse"), "nyc.txt") == (
        "nyc.txt: 2 category names are not in the coarse categories:\n"
        "  'Alp' (1 check-in)\n"
        "  'Zoo Bar' (2 check-ins)\n"
        "Use `categories` raw, or `categories` FILE with your own table (header name,category)."
    )
    scheme = load_scheme(DATA / "categories.csv")
    assert error_of(apply_scheme, named("Café", "Alp"), scheme, "nyc.txt") == (
        "nyc.txt: 1 category name is not in categories.csv:\n"
        "  'Alp' (1 check-in)\n"
        "Add them to categories.csv."
    )


def test_at_most_20_unmapped_names_are_listed():
    names = named(*(f"place {i:02}" for i in range(23)))
    lines = error_of(apply_scheme, names, load_scheme("coarse"), "nyc.txt").splitlines()
    assert lines[0] == "nyc.txt: 23 category names are not in the coarse categories:"
    assert lines[20:22] == ["  'place 19' (1 check-in)", "  and 3 more"]
    assert len(lines) == 23


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (
            "Café,Food\n",
            "mine.csv, row 1: the header is 'Café,Food', expected 'name,category'.",
        ),
        ("name,category\n", "mine.csv has a header but no rows."),
        (
            "name,category\nCafé\n",
            "mine.csv, row 2: ['Café'], expected a name and its category.",
        ),
        (
            "name,category\nCafé,\n",
            "mine.csv, row 2: ['Café', ''], expected a name and its category.",
        ),
        (
            "name,category\nCafé,Food\nBar,Night\nCafé,Food\nCafé,Night\n",
            "mine.csv, row 5: 'Café' is 'Night', but 'Food' in row 2.",
        ),
        ("", "mine.csv is empty."),
        (
            'name,category\n"' + "x" * 200_000,
            "mine.csv cannot be cut into rows: field larger than field limit (131072).",
        ),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, rows, text):
    (tmp_path / "mine.csv").write_text(rows, encoding="utf-8")
    assert error_of(load_scheme, tmp_path / "mine.csv") == text


def test_no_such_scheme():
    assert error_of(load_scheme, "corse") == (
        "`categories` is 'corse', expected coarse, raw or a CSV file."
    )


def test_a_quote_left_open_does_not_swallow_the_table(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text('name,category\nBar,"Food\nCaf\u00e9,Food\nGym,Sports\n', "utf-8")
    assert error_of(load_scheme, path) == (
        "own.csv cannot be cut into rows: unexpected end of data."
    )
    path.write_text('name,category\nBar,"Food\nCaf\u00e9,Food"\nGym,Sports\n', "utf-8")
    assert error_of(load_scheme, path) == "own.csv, row 2: a quote is left open."


TREE = [
    {"id": "a", "name": "Food", "categories": [
        {"id": "b", "name": "Cafe", "categories": [{"id": "c", "name": "Tea Room"}]},
        {"id": "d", "name": "Other", "categories": []},
    ]},
    {"id": "e", "name": "Shop", "categories": [{"id": "f", "name": "Other", "categories": []}]},
]  # fmt: skip


def with_ids(*pairs):
    """Check-ins of which only category ids and names matter."""
    ids, names = (code_texts(pa.array(texts, pa.string())) for texts in zip(*pairs, strict=True))
    return replace(named(*["x"] * len(pairs)), category=names, raw_category=ids)


def test_a_tree_cut_at_a_depth(tmp_path):
    path = tmp_path / "tree.json"
    path.write_text(json.dumps({"response": {"categories": TREE}}))
    # by id where it is known (an old name), else by name; neither id nor name: stays missing
    check_ins = with_ids(
        ("c", "Tearoom"), (None, "Cafe"), ("f", "Other"), ("d", "Other"), (None, None)
    )

    def cut(depth):
        found = apply_scheme(check_ins, load_scheme(f"{path}{depth}"), "nyc.txt").category
        return [None if code < 0 else found.values[code] for code in found.codes]

    assert cut("") == ["Food", "Food", "Shop", "Food", None]
    assert cut(":2") == ["Cafe", "Cafe", "Other", "Other", None]
    assert cut(":3") == ["Tea Room", "Cafe", "Other", "Other", None]
    assert load_scheme(f"{path}:2").name == "tree.json:2"
    # an old name without id: as the check-ins of that name with ids, if these agree
    old = [("c", "Tearoom"), (None, "Tearoom"), ("b", "Old"), ("f", "Old")]
    found = apply_scheme(with_ids(*old), load_scheme(path), "nyc.txt").category
    assert [found.values[code] for code in found.codes] == ["Food", "Food", "Food", "Shop"]
    assert "'Old' (1 check-in)" in error_of(
        apply_scheme, with_ids(*old, (None, "Old")), load_scheme(path), "nyc.txt"
    )
    # the name alone does not say which Other it is
    assert error_of(apply_scheme, with_ids((None, "Other")), load_scheme(path), "nyc.txt") == (
        "nyc.txt: 1 category name is not in tree.json:1:\n"
        "  'Other' (1 check-in)\n"
        "Neither their ids nor their names are in it. Use `categories` raw, or `categories` FILE "
        "with your own table (header name,category)."
    )
    path.write_text('[{"name": "Food"}]')
    assert error_of(load_scheme, path) == (
        "tree.json is not a tree of categories: expected a JSON list of objects with id, name and "
        "categories."
    )
    path.write_text(json.dumps(TREE))
    assert error_of(load_scheme, f"{path}:0").startswith(
        "`categories` tree.json:0: expected a tree"
    )


@pytest.mark.realdata
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_the_official_tree_has_ten_roots():
    scheme = load_scheme(SHARED / "foursquare_categories.json")
    assert (len(scheme.by_id), len(set(scheme.by_id.values()))) == (970, 10)
