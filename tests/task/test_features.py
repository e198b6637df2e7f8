"""fedgru/task/features.py: the notebook's formulas, and nothing learnt from val or test."""

from calendar import timegm

import numpy as np
import pytest

from fedgru.config.feature_names import (
    ASKED_FEATURES,
    CYCLE_FEATURES,
    SCALED_FEATURES,
    parse_features,
)
from fedgru.core.errors import ConfigError
from fedgru.task import features
from fedgru.task.clients import choose_clients
from tests.conftest import make_check_ins

FIRST_ROW_S = timegm((2012, 4, 3, 18, 0, 9))


def ten_check_ins(**columns):
    """One user: train is 0 to 5, val 6 and 7, test 8 and 9 (test 2, val ceil(1.6) = 2)."""
    columns = {"time_s": FIRST_ROW_S + 3600 * np.arange(10)} | columns
    check_ins = make_check_ins(["u"] * 10, list("ababababcd"), **columns)
    return check_ins, choose_clients(check_ins)[0]


def test_first_row_of_the_new_york_file_in_utc():
    expected = {
        "clock": (-1.000000, 0.000654),
        "day": (0.587785, 0.809017),
        "month": (0.866025, -0.5),
        "weekday": (0.781831, 0.623490),
    }
    assert expected.keys() == features.CYCLES.keys()
    for name, values in expected.items():
        found = features.circle(np.array([FIRST_ROW_S]), name)
        assert [f.item() for f in found] == pytest.approx(values, abs=5e-7)


def test_every_feature_that_is_no_column_has_a_function():
    asked = {
        kind: {n for n, k in ASKED_FEATURES.items() if k == kind} for kind in ("cycle", "scaled")
    }
    assert set(features.CYCLES) == set(CYCLE_FEATURES)
    assert set(features.ASKED_CYCLES) == asked["cycle"]
    assert set(features.SCALED) == {*SCALED_FEATURES, *asked["scaled"]}


def test_local_clock_is_the_default():
    check_ins, clients = ten_check_ins(offset_min=[-240] * 10)
    local = features.build_inputs(check_ins, clients, ("clock",)).numbers[0]
    utc = features.build_inputs(check_ins, clients, ("clock",), clock="utc").numbers[0]
    turn = 2 * np.pi * (14 * 3600 + 9) / 86400  # 18:00:09 UTC is 14:00:09
    assert local.tolist() == pytest.approx([np.sin(turn), np.cos(turn)])
    assert utc.tolist() == pytest.approx([-1.000000, 0.000654], abs=5e-7)


def test_local_weekday_at_the_edge_of_a_day():
    # Wednesday 2012-04-04 02:00 UTC is still Tuesday (1) at -240 minutes
    late = np.array([timegm((2012, 4, 4, 2, 0, 0))])
    assert np.arctan2(*features.circle(late, "weekday")) * 7 / 2 / np.pi == pytest.approx(2)
    assert np.arctan2(*features.circle(late - 4 * 3600, "weekday")) * 7 / 2 / np.pi == (
        pytest.approx(1)
    )


NOTEBOOK_CYCLES = ("clock", "day", "month", "weekday")


def test_big_is_exactly_the_notebooks_inputs():
    check_ins, clients = ten_check_ins()
    inputs = features.build_inputs(check_ins, clients, parse_features("big"))
    assert inputs.id_names == ("user", "category", "venue", "raw_category")
    assert inputs.number_names == (
        "latitude",
        "longitude",
        *(f"{name}_{part}" for name in NOTEBOOK_CYCLES for part in ("sin", "cos")),
    )


def test_id_features_share_one_table_and_unseen_values_have_no_row():
    check_ins, clients = ten_check_ins()
    inputs = features.build_inputs(check_ins, clients, ("category", "venue"))
    # a, b are categories 0 and 1 of the table, their venues 2 and 3; c and d come in test only
    assert inputs.num_rows == 4
    assert inputs.rows[[0, 1, 8, 9]].tolist() == [[0, 2], [1, 3], [-1, -1], [-1, -1]]
    assert features.unknown_rates(inputs, clients)["venue"] == {"train": 0, "val": 0, "test": 1}


def test_scaling_is_fitted_on_train_and_fills_missing_with_its_mean():
    latitudes = [1, 2, 3, 4, 5, np.nan, 100, 100, np.nan, 3]  # train: 1 to 5, mean 3, var 2
    check_ins, clients = ten_check_ins(lat_deg=latitudes)
    scaled = features.build_inputs(check_ins, clients, ("latitude",)).numbers[:, 0]
    assert scaled.tolist() == pytest.approx(
        [(v - 3) / np.sqrt(2) for v in [1, 2, 3, 4, 5, 3, 100, 100, 3, 3]], rel=1e-6
    )
    raw = features.build_inputs(check_ins, clients, ("latitude",), scaling=False).numbers[:, 0]
    assert raw.tolist() == [1, 2, 3, 4, 5, 3, 100, 100, 3, 3]


def test_gap_is_that_before_the_check_in_and_starts_anew_for_each_client():
    check_ins = make_check_ins(
        ["u"] * 5 + ["w"] * 5, ["x"] * 10, time_s=3600 * np.array([0, 1, 3, 6, 10] * 2)
    )
    clients, _ = choose_clients(check_ins)
    gaps = features.build_inputs(check_ins, clients, ("gap",), scaling=False).numbers[:, 0]
    assert np.expm1(gaps).tolist() == pytest.approx([0, 1, 2, 3, 4] * 2, abs=1e-5)


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "category,speed",
            "unknown feature 'speed' in `features` category,speed. Accepted: one of the sets big, "
            "small, category, or a comma-separated list of user, category, venue, raw_category, "
            "latitude, longitude, clock, day, month, weekday, gap, or MODULE:FUNCTION of your own.",
        ),
        (
            "small,venue",
            "`features` is small,venue, but small is a set: give it alone, or list its features: "
            "category,clock,weekday.",
        ),
        ("venue, venue", "`features` venue, venue names a feature twice."),
    ],
)
def test_bad_lists(text, message):
    with pytest.raises(ConfigError) as error:
        parse_features(text)
    assert str(error.value) == message


def test_changing_val_and_test_changes_no_train_input():
    check_ins, clients = ten_check_ins()
    changed, _ = ten_check_ins(lat_deg=[40.7] * 6 + [0.0] * 4)
    names = parse_features("big")
    before, after = (features.build_inputs(c, clients, names) for c in (check_ins, changed))
    np.testing.assert_array_equal(before.numbers[:6], after.numbers[:6])
    assert (before.numbers[6:, 0] != after.numbers[6:, 0]).all()
