"""fedgru/task/vocabulary.py: ids from train only; the notebook's range(n)."""

import numpy as np

from fedgru.task import vocabulary
from tests.conftest import coded


def test_unseen_and_missing_values_are_unknown():
    column = coded(["z", "a", None, "a", "new", "z"])
    vocab = vocabulary.from_train(column, train_rows=np.array([0, 1, 2, 3]))
    assert vocab.values == ("z", "a")
    assert vocab.encode(column.codes).tolist() == [1, 2, 0, 2, 0, 1]


def test_range_knows_only_numbers_below_the_count():
    # users 470, 1 and 2: three distinct, so numbers 0 to 2 are known, and 470 is not
    column = coded(["470", "1", "2", "1"])
    vocab = vocabulary.from_range(column, rows=np.arange(4))
    assert vocab.encode(column.codes).tolist() == [0, 2, 3, 2]
    assert vocab.values == ("0", "1", "2")


def test_range_of_texts_goes_by_first_appearance_in_the_whole_column():
    # the chosen rows hold two distinct venues, but "late" is number 2
    column = coded(["x", "y", "late", "y"])
    vocab = vocabulary.from_range(column, rows=np.array([1, 2, 3]))
    assert vocab.encode(column.codes).tolist() == [1, 2, 0, 2]
