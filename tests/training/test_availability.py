"""fedgru/training/availability.py: who is on when, worked out by hand."""

from time import perf_counter

import numpy as np
import pytest

from fedgru.core.errors import ConfigError, DataError
from fedgru.data import datasets
from fedgru.training import availability
from fedgru.training.availability import ALWAYS_MS, MS_PER_HOUR, WhoIsOn, Windows, join_windows
from fedgru.training.simulated_time import open_simulation
from tests.conftest import make_check_ins


def windows(*rows, period_ms=24):
    return Windows(*(np.array(column) for column in zip(*rows, strict=True)), period_ms)


def test_on_until_the_end_of_the_window():
    # client 1 is on from 20 to 28, that is to 4 of the next day; client 3 from 3 to 9
    found = windows((1, 20, 8), (3, 3, 6))
    clients = np.array([3, 0, 1])
    for time, expected in (
        (0, [-1, -1, 4]),
        (3, [9, -1, 4]),
        (4, [9, -1, -1]),  # the end of a window is not in it
        (8, [9, -1, -1]),
        (9, [-1, -1, -1]),
        (24 + 19, [-1, -1, -1]),
        (24 + 20, [-1, -1, 24 + 28]),
        (48 + 5, [48 + 9, -1, -1]),
    ):
        assert found.on_until(clients, time).tolist() == expected, time


def test_whoever_is_always_on():
    found = windows((0, 5, 24), (1, 5, 23))
    assert found.on_until(np.arange(2), 4).tolist() == [ALWAYS_MS, -1]
    assert found.first_with(2, 4) == 5 and found.first_with(1, 4) == 4


def test_when_enough_are_on_against_looking_at_every_moment():
    draw = np.random.default_rng(3)
    for _ in range(30):
        rows = [(c, draw.integers(0, 24), draw.integers(1, 25)) for c in range(5)]
        found = windows(*rows)
        counts = [(found.on_until(np.arange(5), t) >= 0).sum() for t in range(96)]
        assert found.most_on == max(counts)
        for time in range(48):
            for number in range(1, max(counts) + 1):
                expected = next(t for t in range(time, 96) if counts[t] >= number)
                assert found.first_with(number, time) == expected
            starts = {s + 24 * day for _, s, _ in rows for day in range(4)}
            assert found.next_start(time) == min(s for s in starts if s > time)
        with pytest.raises(ValueError, match="clients are on at once, not 6"):
            found.first_with(6, 0)


def test_who_is_on_as_time_goes_on_against_every_window():
    draw = np.random.default_rng(4)
    for _ in range(50):
        count = draw.integers(1, 12)
        starts = np.sort(draw.choice(96, count, replace=False))
        intervals = [
            (c, s, s + length)
            for c in range(4)
            for s, length in zip(starts, draw.integers(1, 9, count), strict=True)
            if draw.random() < 0.6
        ]
        if not intervals:
            continue
        found = join_windows(*(np.array(i) for i in zip(*intervals, strict=True)), 120)
        who, now = WhoIsOn(found, 5), 0
        for step in draw.choice([0, 1, 2, 7, 30, 119, 120, 300, -50], 60):
            now = max(0, now + int(step))
            expected = [
                any(
                    c == client and (now - s) % 120 < length
                    for c, s, length in zip(
                        found.client, found.start_ms, found.length_ms, strict=True
                    )
                )
                for client in range(5)
            ]
            assert who.at(now).tolist() == expected
            until = found.on_until(np.array([4, 1, 1, 0]), now)
            assert (until >= 0).tolist() == [expected[c] for c in (4, 1, 1, 0)]


@pytest.mark.slow
def test_who_is_on_among_100_000_clients_takes_no_time():
    # 500,000 windows; a buffered run asks whenever a client is done, here 2,000 times
    draw = np.random.default_rng(5)
    client = np.repeat(np.arange(100_000), 5)
    start_ms = (
        np.arange(5) * 24 * MS_PER_HOUR + draw.integers(0, 12, 500_000).reshape(-1, 5) * MS_PER_HOUR
    ).ravel()
    found = Windows(client, start_ms, draw.integers(1, 8 * MS_PER_HOUR, 500_000), 120 * MS_PER_HOUR)
    begin = perf_counter()
    who, num_on = WhoIsOn(found, 100_000), []
    for moment in range(0, 2_000_000, 1000):
        num_on.append(int(who.at(moment).sum()))
        found.next_start(moment)
    taken_s = perf_counter() - begin
    assert num_on[-1] == (found.on_until(np.arange(100_000), 1_999_000) >= 0).sum() > 0
    assert taken_s < 10  # 0.5 s; looking at every window each time takes a minute


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([(0, 5, 7), (0, 7, 9)], [(0, 5, 4)]),  # they touch
        ([(0, 7, 9), (0, 5, 8), (0, 6, 7)], [(0, 5, 4)]),  # they overlap
        ([(1, 20, 24), (1, 0, 3), (1, 9, 10)], [(1, 9, 1), (1, 20, 7)]),  # over the end
        ([(1, 20, 24), (0, 0, 3)], [(0, 0, 3), (1, 20, 4)]),  # of two clients
        ([(2, 0, 12), (2, 12, 24)], [(2, 0, 24)]),
    ],
)
def test_intervals_that_are_one(intervals, expected):
    columns = (np.array(column) for column in zip(*intervals, strict=True))
    found = join_windows(*columns, period_ms=24)
    rows = zip(found.client, found.start_ms, found.length_ms, strict=True)
    assert [tuple(map(int, row)) for row in rows] == expected


@pytest.fixture
def clocks(make_task):
    """Two people; "tokyo" checks in at 9 to 22 local time, "utc" at 0 to 13."""
    hours = {"utc": (range(14), 0), "tokyo": (range(9, 23), 540)}
    rows = [
        (3600 * (24 * day + hour) - 60 * ahead, who, ahead)
        for who, (day_hours, ahead) in hours.items()
        for day in range(10, 14)
        for hour in day_hours
    ]
    time_s, users, offsets = zip(*sorted(rows), strict=True)
    check_ins = make_check_ins(users, ["a", "b"] * (len(rows) // 2), None, time_s, None, offsets)
    data_set = datasets.DataSet("clocks", check_ins, {"fingerprint": "clocks"})
    return make_task(data_set, availability="clock", features="category", prior="none")


def test_a_client_is_on_in_its_own_quiet_hours(clocks):
    found = availability.of_clocks(clocks, 8)
    own = dict(zip(clocks.clients.client_ids, found.start_ms // MS_PER_HOUR, strict=True))
    # utc: none from 14 on. tokyo: none from 23 to 8 local, and 0 is the first such hour after
    # midnight; 0 in Tokyo is 15 UTC
    assert own == {"utc": 14, "tokyo": 15}
    assert set(found.length_ms) == {8 * MS_PER_HOUR} and found.period_ms == 24 * MS_PER_HOUR
    # of 12 hours, 14 to 1 has the fewest of utc's (two hours), 21 to 8 of tokyo's: 21 is 12 UTC
    found = availability.of_clocks(clocks, 12)
    own = dict(zip(clocks.clients.client_ids, found.start_ms // MS_PER_HOUR, strict=True))
    assert own == {"utc": 12, "tokyo": 12}


def test_test_check_ins_do_not_move_the_window(clocks):
    clients, before = clocks.clients, availability.of_clocks(clocks).start_ms
    for position in np.flatnonzero(~clients.in_split("train")):
        clocks.history.local_time_s[position] += 7 * 3600
    assert availability.of_clocks(clocks).start_ms.tolist() == before.tolist()


@pytest.fixture
def trace(tmp_path, make_task):
    def read(text, **overrides):
        file = tmp_path / "trace.csv"
        file.write_text(text)
        return availability.read_trace(file, make_task(**overrides))

    return read


def test_a_trace(trace, make_task, tmp_path):
    first, second, *others = make_task().clients.client_ids
    found = trace(f"start,client,end\n1.5,{second},30\n\n0,{first},0.25\n2,nobody,3\n")
    assert found.client.tolist() == [0, 1]
    assert found.start_ms.tolist() == [0, 5_400_000]
    assert found.length_ms.tolist() == [900_000, 28.5 * MS_PER_HOUR]
    assert found.period_ms == 48 * MS_PER_HOUR  # 30 hours, in whole days
    assert found.notes == (
        f"{tmp_path}/trace.csv does not name 4 of 6 clients: they are never on",
        f"{tmp_path}/trace.csv also names clients that do not take part: 1",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", " is empty, expected the header 'client,start,end'."),
        (
            "client,start,stop\n",
            ", row 1: the header is 'client,start,stop', expected 'client,start,end'.",
        ),
        (
            "client,start,end,end\n",
            ", row 1: the header is 'client,start,end,end', expected 'client,start,end'.",
        ),
        ("client,start,end\nx,1\n", ", row 2: it has 2 cells, expected 3."),
        (
            "client,start,end\n{0},1,2\n{0},one,2\n",
            ", row 3: start is 'one', expected hours from 0 to 1,000,000.",
        ),
        (
            "client,start,end\n{0},-1,2\n",
            ", row 2: start is '-1', expected hours from 0 to 1,000,000.",
        ),
        (
            "client,start,end\n{0},1,nan\n",
            ", row 2: end is 'nan', expected hours from 0 to 1,000,000.",
        ),
        (
            "client,start,end\n{0},1,1e30\n",
            ", row 2: end is '1e30', expected hours from 0 to 1,000,000.",
        ),
        (
            "client,start,end\n{0},3,2\n",
            ", row 2: start is 3 and end is 2, expected an end at least a millisecond after the "
            "start.",
        ),
        (
            "client,start,end\n{0},3,3.0000000001\n",
            ", row 2: start is 3 and end is 3.0000000001, expected an end at least a millisecond "
            "after the start.",
        ),
        ('client,start,end\n"x,1,2\n', ", row 2: unexpected end of data."),
        (
            "client,start,end\n",
            " names none of the 6 clients with training data: it has no rows, the data set has "
            "{0}, {1}, {2} ....",
        ),
        (
            "client,start,end\nx,1,2\n",
            " names none of the 6 clients with training data: it has x, the data set has {0}, {1}, "
            "{2} ....",
        ),
    ],
)
def test_a_trace_that_is_none(trace, make_task, tmp_path, text, message):
    ids = make_task().clients.client_ids
    with pytest.raises(DataError) as error:
        trace(text.format(*ids))
    assert str(error.value) == f"{tmp_path}/trace.csv{message.format(*ids)}"


def test_a_trace_that_cannot_be_read(make_task, tmp_path):
    task = make_task()
    with pytest.raises(DataError) as error:
        availability.read_trace(tmp_path / "gone.csv", task)
    assert str(error.value) == (
        f"`availability` is '{tmp_path}/gone.csv', expected none, clock or a CSV file; there is no "
        "such file."
    )
    with pytest.raises(DataError) as error:
        availability.read_trace(tmp_path, task)
    assert str(error.value) == f"cannot read {tmp_path}: Is a directory."
    (tmp_path / "bad.csv").write_bytes(b"\xff\xff")
    with pytest.raises(DataError, match="bad.csv is not text in UTF-8.$"):
        availability.read_trace(tmp_path / "bad.csv", task)


def test_more_clients_than_are_ever_on(make_task, tmp_path):
    first, second, *_ = make_task().clients.client_ids
    file = tmp_path / "trace.csv"
    file.write_text(f"client,start,end\n{first},0,2\n{second},2,3\n")
    for name in ("clients_per_round", "min_clients"):
        with pytest.raises(ConfigError) as error:
            open_simulation(make_task(availability=str(file), **{name: 2}))
        assert str(error.value) == (
            "a round needs 2 clients, but at most 1 of the 6 clients with training data are on at "
            f"once. Use a smaller `{name}`."
        )
    with pytest.raises(ConfigError) as error:
        open_simulation(make_task(clients_per_round=5, oversample=1.4))
    assert str(error.value) == (
        "a round needs 7 clients, but at most 6 of the 6 clients with training data are on at "
        "once. Use a smaller `clients_per_round` or `oversample`."
    )
