"""Columns of text on the terminal."""

from fedgru.console.tables import align


def test_columns_are_as_wide_as_their_widest_cell():
    rows = [["", "a", "bbb"], ["long", "22", ""], ["x", "333", "c"]]
    # column 0 is 4 wide, column 1 is 3, column 2 is 3; two spaces between, none at the end
    assert align(rows).split("\n") == ["      a    bbb", "long  22", "x     333  c"]
    assert align(rows, right=(1, 2)).split("\n") == [
        "        a  bbb",
        "long   22",
        "x     333    c",
    ]
