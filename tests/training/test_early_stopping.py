"""fedgru/training/early_stopping.py: the decision alone."""

import math

import pytest

from fedgru.training.early_stopping import EarlyStopping


def run(values, **rule):
    stopping = EarlyStopping(**rule)
    decisions = [stopping.report(r, value) for r, value in enumerate(values, start=1)]
    return stopping, [improved for improved, _ in decisions], [stop for _, stop in decisions]


def test_counts_rounds_in_a_row():
    stopping, improved, stop = run(
        [0.1, 0.2, 0.15, 0.3, 0.3, 0.1], higher_is_better=True, patience=2
    )
    assert improved == [True, True, False, True, False, False]
    assert stop == [False, False, False, False, False, True]
    assert (stopping.best_value, stopping.best_round) == (0.3, 4)


def test_small_changes_do_not_count_but_add_up():
    # each step is 0.06 better than the last, and 0.1 is asked for: every second one counts
    _, improved, _ = run(
        [1.0, 0.94, 0.88, 0.82, 0.76],
        higher_is_better=False,
        patience=9,
        min_improvement=0.1,
    )
    assert improved == [True, False, True, False, True]


def test_patience_zero_never_stops():
    _, _, stop = run([1.0] * 50, higher_is_better=False, patience=0)
    assert not any(stop)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_nan_is_never_the_best(higher_is_better):
    stopping, improved, stop = run(
        [math.nan, 1.0, math.nan], higher_is_better=higher_is_better, patience=2
    )
    assert improved == [False, True, False]
    assert stopping.best_round == 2 and not any(stop)
