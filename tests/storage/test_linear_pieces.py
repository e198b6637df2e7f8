"""fedgru/storage/linear_pieces.py: what was compressed is found again at every place."""

import numpy as np
import pytest

from fedgru.storage.linear_pieces import LinearPieces, compress


@pytest.mark.parametrize(
    ("arrays", "begins"),
    [
        ([[7]], [0]),
        ([[7, 9]], [0, 1]),
        ([[0, 1, 2, 3]], [0, 3]),
        ([[0, 1, 5, 6, 7]], [0, 1, 2, 4]),
        ([[4, 4, 4], [9, 7, 5]], [0, 2]),  # the last is a piece of its own: nothing comes after it
        ([[0, 5, 10, 13, 16], [2, 7, 12, 14, 17]], [0, 2, 3, 4]),
    ],
)
def test_pieces_by_hand(arrays, begins):
    table = compress(arrays)
    assert table[:, 0].tolist() == begins
    pieces = LinearPieces(table)
    n = len(arrays[0])
    assert pieces.at(np.arange(n)).tolist() == arrays
    assert [pieces.at(i) for i in range(n)] == [
        list(values) for values in zip(*arrays, strict=True)
    ]


def test_clients_in_order_of_their_check_ins_are_few_pieces():
    rng = np.random.default_rng(0)
    lengths = np.sort(rng.integers(5, 40, 100_000))[::-1]
    ends = np.cumsum(lengths)
    starts = ends - lengths
    table = compress([starts, starts + lengths // 2, ends])
    assert len(table) <= 2 * 35  # of each length a stretch, and the step to the next
    places = rng.integers(0, 100_000, 1000)
    found = LinearPieces(table).at(places)
    np.testing.assert_array_equal(
        found, [starts[places], (starts + lengths // 2)[places], ends[places]]
    )


def test_any_order_is_right():
    arrays = np.random.default_rng(1).integers(-9, 1 << 40, (3, 50))
    pieces = LinearPieces(compress(arrays))
    np.testing.assert_array_equal(pieces.at(np.arange(50)[::-1]), arrays[:, ::-1])
    assert pieces.at(np.zeros(0, int)).shape == (3, 0)
