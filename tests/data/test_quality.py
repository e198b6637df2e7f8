"""What is said of a data set's quality, on check-ins counted by hand."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from fedgru.cli.data import data
from fedgru.data.checkins import CheckIns, code_texts
from fedgru.data.distances import distances_km
from fedgru.data.quality import describe_quality
from fedgru.data.synthetic import CityConfig, make_city


def check_ins(*rows, offset_min=0):
    """CheckIns of (user, venue, hour, latitude, longitude), in order of time."""
    users, venues, hours, lat, lon = zip(*rows, strict=True)
    category = code_texts(pa.array([None] * len(rows), pa.string()))
    return CheckIns(
        code_texts(pa.array(users)),
        code_texts(pa.array(venues)),
        category,
        category,
        (1333411200 + 3600 * np.array(hours)).astype(np.int64),  # from 2012-04-03 00:00
        np.full(len(rows), offset_min, np.int32),
        np.array(lat, float),
        np.array(lon, float),
    )


def test_distances():
    # a quarter of the equator, and New York to Tokyo: 10,007.5 and about 10,850 km
    far = distances_km(np.array([0.0, 40.71]), np.array([90.0, -74.0]), 0.0, 0.0)
    assert far[0] == pytest.approx(10_007.5, abs=0.1)
    tokyo = distances_km(
        np.array([40.71]), np.array([-74.0]), np.array([35.68]), np.array([139.69])
    )
    assert tokyo[0] == pytest.approx(10_850, abs=20)


def test_counts():
    nan = np.nan
    found = describe_quality(
        check_ins(
            ("a", "v1", 0, 40.0, -74.0),
            ("b", "v1", 0, 40.0, -74.0),
            ("a", "v1", 0, 40.0, -74.0),  # repeats the first
            ("a", "v2", 2, 60.0, -74.0),  # 2,224 km in 2 h
            ("a", "v3", 5, 40.0, -74.0),  # and back in 3 h: 741 km/h
            ("a", "v4", 25, nan, nan),
            ("a", "v1", 25, 40.05, -74.0),  # 5.6 km in 20 h
            ("b", "v5", 49, 0.0, 0.0),
            offset_min=-60,
        )
    )
    # local hours: 23, 23, 23, 1, 4, 0, 0, 0; the first three on the day before
    assert found["per_day"] == {"first": "2012-04-02", "counts": [3, 2, 2, 1]}
    hours = {hour: n for hour, n in enumerate(found["per_local_hour"]) if n}
    assert hours == {23: 3, 0: 3, 1: 1, 4: 1}
    assert found["users_by_check_ins"] == [0, 1, 1]  # b has 2, a 6
    assert (found["repeats"], found["one_visit_venues"], found["at_origin"]) == (1, 4, 1)
    # a: 4 moves with coordinates at both ends, b: one, of 8,700 km in 49 h
    assert (found["moves"], found["jumps"]) == (5, 1)
    assert found["warnings"] == [
        "1 of 5 moves (20.0%) are faster than a plane (1,000 km/h over more than 10 km): shared "
        "accounts, invented check-ins, or wrong coordinates.",
        "Check-ins that repeat the user, venue and second of an earlier one: 1 (12.5%).",
        "80% of the venues have one check-in: no model can predict it from the past of that venue.",
        "Check-ins at coordinates 0, 0, often a missing value: 1.",
    ]


def test_a_clock_that_is_quiet_by_day_is_a_warning():
    city = make_city(CityConfig(num_users=30, checkins_per_user=60)).check_ins
    assert describe_quality(city)["warnings"] == []
    wrong = replace(city, offset_min=city.offset_min + np.int32(480))
    assert describe_quality(wrong)["warnings"][0].startswith("The quietest hour of the day is ")


def test_describe_shows_plots_and_writes_a_page(tmp_path):
    page = tmp_path / "embedded.html"
    result = CliRunner().invoke(data, ["describe", "--html", str(page)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    hours = lines[lines.index(next(x for x in lines if x.startswith("Check-ins per local"))) + 1]
    assert len(hours.strip("| ").replace(" ", "")) <= 24
    assert hours.startswith("  |") and "█" in hours
    assert any(line.startswith("  faster than a plane") for line in lines)
    html = page.read_text("utf-8")
    for title in ("Check-ins per day", "Where the check-ins are", "Users by their check-ins"):
        assert title in html
    assert "Nothing deserves a warning." in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    refused = CliRunner().invoke(data, ["describe", "--html", str(tmp_path / "x.txt")])
    assert "expected a name that ends in .html" in str(refused.exception)
