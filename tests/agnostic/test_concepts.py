"""fedgru/agnostic/concepts: every label by hand."""

from dataclasses import replace

import numpy as np
import pytest

from fedgru.agnostic.concepts import COLUMNS, NAMES, make_concept
from fedgru.core.errors import ConfigError, DataError
from fedgru.data.checkins import NAMES_TAKEN
from fedgru.task.clients import choose_clients
from tests.conftest import coded, make_check_ins

DAY = 86400


@pytest.fixture
def city():
    """Two people with five check-ins each; a is the first client, being first to appear."""
    categories = ["Home", "Medical", "Home", None, "Religion", "Home", "Home", "Bar", "Home", "Bar"]
    check_ins = make_check_ins(
        ["a", "b"] * 5,
        categories,
        venues=[f"v{i}" for i in range(10)],
        # 1970-01-01 was a Thursday: days 2 and 3 are the weekend
        time_s=[DAY * day for day in (1, 1, 2, 2, 3, 3, 4, 4, 5, 5)],
    )
    return check_ins, choose_clients(check_ins)[0]


def test_weekend_is_on_the_local_clock(city):
    check_ins, clients = city
    assert make_concept("weekend", check_ins, clients).labels.tolist() == [0, 1, 1, 0, 0] * 2
    # five hours earlier all of these midnights lie in the day before
    earlier = replace(check_ins, offset_min=np.full(10, -300, np.int32))
    assert make_concept("weekend", earlier, clients).labels.tolist() == [0, 0, 1, 1, 0] * 2


def test_client(city):
    concept = make_concept("client", *city)
    assert concept.labels.tolist() == [0] * 5 + [1] * 5
    assert concept.values == ("a", "b") and concept.is_client


def test_category_group(city):
    # a: Home, Home, Religion, Home, Home; b: Medical, missing, Home, Bar, Bar
    concept = make_concept("category-group", *city)
    assert concept.values == ("other", "Medical", "Religion")
    assert concept.labels.tolist() == [0, 0, 2, 0, 0, 1, -1, 0, 0, 0]
    bars = make_concept("category-group:Bar, Medical", *city)
    assert bars.labels.tolist() == [0, 0, 0, 0, 0, 2, -1, 0, 1, 1]


def test_column_of_the_data_set(city):
    concept = make_concept("category", *city)
    assert [concept.values[label] if label >= 0 else None for label in concept.labels] == [
        *("Home", "Home", "Religion", "Home", "Home"),
        *("Medical", None, "Home", "Bar", "Bar"),
    ]


def test_kept_column(city):
    check_ins, clients = city
    # rows in order of time are a's and b's in turn
    faith = ["sufi", "sikh", "sufi", None, "none", "sikh", None, "sufi", "sufi", "sikh"]
    kept = replace(check_ins, own={"age": coded(["x"] * 10), "faith": coded(faith)})
    concept = make_concept("faith", kept, clients)
    assert concept.values == ("sufi", "sikh", "none")
    # a: sufi, sufi, none, missing, sufi; b: sikh, missing, sikh, sufi, sikh
    assert concept.labels.tolist() == [0, 0, 2, -1, 0, 1, -1, 1, 0, 1]
    assert concept.labels.dtype == np.int32 and not concept.is_client
    with pytest.raises(DataError, match="concept age has 1 value in train, expected at least 2"):
        make_concept("age", kept, clients)
    for name in ("fatih", "faith:sufi", "Faith"):
        with pytest.raises(ConfigError) as error:
            make_concept(name, kept, clients)
        assert str(error.value) == (
            f"unknown concept {name!r}. Accepted: zone, weekend, client, category-group, "
            "category-group:NAME,NAME, or a column of the data set (category, raw_category, "
            "venue, age, faith)."
        )


def test_whether_each_client_holds_one_value(city):
    check_ins, clients = city

    def one_each(a, b):
        mixed = [value for pair in zip(a, b, strict=True) for value in pair]
        kept = replace(check_ins, own={"own": coded(mixed)})
        return make_concept("own", kept, clients).one_per_client

    assert make_concept("client", check_ins, clients).one_per_client
    assert not make_concept("weekend", check_ins, clients).one_per_client
    # the first three check-ins are train
    assert one_each(["x"] * 5, ["y"] * 5)
    assert one_each(["x", None, "x", "y", "y"], ["y"] * 5)
    assert not one_each(["x", "y", "x", "x", "x"], ["y"] * 5)


def test_no_kept_column_can_take_the_name_of_a_concept():
    assert {name.partition(":")[0] for name in (*NAMES, *COLUMNS)} <= set(NAMES_TAKEN)


def test_zones_are_cells_of_train_places_in_kilometres(city):
    check_ins, clients = city
    # longitude is half as long as latitude at 60 degrees: in kilometres 0.03 and 0.05 apart in
    # longitude are nearer than 0.04 in latitude; by degrees 0.03 would be joined with latitude's
    lat = np.array([60.0, 60.0, 60.0, 60.04, 60.0, 60.04, 60.0, 60.0, 60.0, np.nan])
    lon = np.array([10.0, 10.0, 10.03, 10.0, 10.0, 10.0, 10.06, 10.05, 10.0, np.nan])
    placed = replace(check_ins, lat_deg=lat, lon_deg=lon)
    labels = make_concept("zone", placed, clients, zones=2).labels
    # a: north at its third check-in (index 5 is b's): rows of a 0, 2, 4, 6, 8, of b 1, 3, 5, 7, 9
    assert labels[9] == -1
    north = {6, 7}  # b's second and third, at 60.04
    assert {i for i in range(9) if labels[i] == labels[6]} == north


def test_errors(city):
    check_ins, clients = city

    def message(kind, name, **options):
        with pytest.raises(kind) as error:
            make_concept(name, options.pop("check_ins", check_ins), clients, **options)
        return str(error.value)

    assert message(ConfigError, "age") == (
        "unknown concept 'age'. Accepted: zone, weekend, client, category-group, "
        "category-group:NAME,NAME, or a column of the data set (category, raw_category, venue)."
    )
    assert message(ConfigError, "category-group:Gym") == (
        "concept category-group: no check-in has the category 'Gym'. The data set's are: Bar, "
        "Home, Medical, Religion."
    )
    weekdays = replace(check_ins, time_s=np.arange(10))
    assert message(DataError, "weekend", check_ins=weekdays) == (
        "concept weekend has 1 value in train, expected at least 2: there is nothing to hide."
    )
    assert message(DataError, "zone", zones=3) == (
        "concept zone needs 3 different places with coordinates in train, found 1. Use smaller "
        "`zones`."
    )
