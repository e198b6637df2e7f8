"""`protocol`: what DeepMove, STAN and GETNext keep, split and score, on files made by hand."""

import numpy as np
import pytest

from fedgru import config
from fedgru.core.errors import ConfigError, DataError
from fedgru.data.datasets import DataSet
from fedgru.evaluation import evaluate
from fedgru.task import protocols
from fedgru.task.protocols import choose_by_protocol
from fedgru.task.task import build_task
from tests.conftest import make_check_ins


def made(rows):
    """CheckIns of (hour, user, venue), in order of time."""
    hours, users, venues = zip(*rows, strict=True)
    assert list(hours) == sorted(hours)
    kinds = [venue.upper() for venue in venues]
    return make_check_ins(users, kinds, list(venues), [round(3600 * hour) for hour in hours])


def kept(clients, check_ins, split=None):
    """{client: hours of its check-ins}, or of its targets in a split."""
    positions = np.arange(len(clients.rows)) if split is None else clients.target_positions(split)
    hours = check_ins.time_s[clients.rows[positions]] / 3600
    of = clients.client_of[positions]
    return {i: hours[of == n].tolist() for n, i in enumerate(clients.client_ids)}


def splits(clients, check_ins):
    return [kept(clients, check_ins, split) for split in ("train", "val", "test")]


def steps(coverage):
    return [(line.step, line.clients, line.checkins) for line in coverage]


def test_stan_by_hand(monkeypatch):
    monkeypatch.setattr(protocols, "MIN_VISITS", 3)
    monkeypatch.setattr(protocols, "STAN_LENGTH", 4)
    # p and q have 5 and 4 visits, r and z one each; of a's p q p q p the last four count
    rows = [
        (0, "a", "p"),
        (1, "a", "q"),
        (2, "a", "p"),
        (3, "a", "r"),
        (4, "a", "q"),
        (5, "a", "p"),
    ]
    rows += [(10, "b", "p"), (11, "b", "q"), (12, "b", "z"), (13, "b", "p"), (14, "c", "q")]
    check_ins = made(rows)
    clients, coverage = choose_by_protocol(check_ins, "stan")
    assert steps(coverage) == [
        ("in the data set", 3, 11),
        ("at venues with 3 or more check-ins", 3, 9),
        ("of users with 3 or more of these", 2, 8),
        ("the last 4 of each user", 2, 7),
    ]
    assert kept(clients, check_ins) == {"a": [1, 2, 4, 5], "b": [10, 11, 13]}
    assert splits(clients, check_ins) == [
        {"a": [2], "b": []},
        {"a": [4], "b": [11]},
        {"a": [5], "b": [13]},
    ]
    assert (clients.session_starts, clients.unscored) == (None, None)


GETNEXT = [
    *((0, "a", "p"), (1, "a", "q"), (2, "a", "p")),  # a session of three
    *((3, "b", "p"), (4, "b", "q")),  # of two: too short, but b is known from it
    (5, "c", "q"),  # of one: c is not known
    *((40, "a", "q"), (41, "a", "p")),  # 38 hours later: another one, of two
    # validation begins here: 8 of 20 check-ins are train
    *((50, "a", "p"), (51, "a", "r"), (52, "a", "q"), (53, "a", "p")),  # nobody has r in train
    *((54, "c", "p"), (55, "c", "q")),
    # test, 6 of 20: 7 hours after the last one, but in another split
    *((60, "a", "q"), (61, "a", "p"), (62, "a", "q")),
    *((63, "b", "p"), (64, "b", "q"), (65, "b", "r")),  # two without r
]


@pytest.fixture
def small_getnext(monkeypatch):
    for name, value in (("MIN_VISITS", 2), ("GETNEXT_TRAIN", 0.4), ("GETNEXT_VAL", 0.7)):
        monkeypatch.setattr(protocols, name, value)


def test_getnext_by_hand(small_getnext):
    check_ins = made(GETNEXT)
    clients, coverage = choose_by_protocol(check_ins, "getnext")
    assert steps(coverage)[2:] == [
        ("of users with 2 or more of these", 3, 20),
        ("in sessions of 2 or more", 3, 19),
        ("of users that train has", 2, 17),
        ("at venues that train has", 2, 15),
        ("in sessions of 3 or more", 1, 9),
    ]
    assert kept(clients, check_ins) == {"a": [0, 1, 2, 50, 52, 53, 60, 61, 62]}
    # in validation and test only the last check-in of a session is scored
    assert splits(clients, check_ins) == [{"a": [1, 2]}, {"a": [53]}, {"a": [62]}]
    assert np.flatnonzero(clients.session_starts).tolist() == [0, 3, 6]


DEEPMOVE = [
    *((0, "a", "p"), (1, "a", "q"), (1.1, "a", "q"), (2, "a", "p")),  # 6 minutes: left out
    *((3, "b", "p"), (4, "b", "q")),  # b has no more than two check-ins
    *((102, "a", "p"), (103, "a", "r"), (104, "a", "q")),  # r has one visit
    *((200, "a", "q"), (201, "a", "p"), (202, "a", "q"), (203, "a", "p")),  # full after four
    *((204, "a", "q"), (205, "a", "p")),
    *((300, "a", "p"), (301, "a", "q")),
    (400, "a", "q"),  # a session of one
]


def test_deepmove_by_hand(monkeypatch):
    small = {"MIN_VISITS": 2, "DEEPMOVE_LENGTH": 2, "DEEPMOVE_SESSIONS": 2, "DEEPMOVE_MOST": 3}
    for name, value in small.items():
        monkeypatch.setattr(protocols, name, value)
    check_ins = made(DEEPMOVE)
    clients, coverage = choose_by_protocol(check_ins, "deepmove")
    assert steps(coverage) == [
        ("in the data set", 2, 18),
        ("of users with more than 2 check-ins", 1, 16),
        ("at venues with more than 2, or where they came back", 1, 15),
        ("more than 10 minutes after the last one", 1, 14),
        ("in sessions of 2 or more", 1, 13),
        ("of users with 2 or more of them", 1, 13),
    ]
    # five sessions: floor(0.8 * 5) = 4 for training, ceil(0.2 * 4) = 1 of them for validation
    assert np.flatnonzero(clients.session_starts).tolist() == [0, 3, 5, 9, 11]
    assert splits(clients, check_ins) == [
        {"a": [1, 2, 104, 201, 202, 203]},
        {"a": [205]},
        {"a": [301]},
    ]


def test_the_most_active_of_those_that_are_kept(monkeypatch):
    monkeypatch.setattr(protocols, "MIN_VISITS", 1)
    rows = [(i, user, "p") for i, user in enumerate("abacabbb")]
    clients, coverage = choose_by_protocol(made(rows), "stan", users=1)
    assert clients.client_ids == ("b",)
    assert steps(coverage)[-1] == ("the 1 most active", 1, 4)
    with pytest.raises(ConfigError) as error:
        choose_by_protocol(made(rows), "stan", users=4)
    assert str(error.value) == "`users` is 4, but `protocol` stan keeps 3 users."


def test_only_last_check_ins_are_scored(small_getnext):
    small = {"hidden_dim": 4, "batch_size": 2, "seq_len": 2, "prior": "markov", "threads": 1}
    small |= {"features": "venue", "target": "venue", "protocol": "getnext"}
    data_set = DataSet("hand", made(GETNEXT), {"fingerprint": "hand"})
    task = build_task(data_set, config.load(small))
    found = evaluate.evaluate_baselines(task, "test")
    for name in ("user_markov", "running_user_markov", "running_markov"):
        assert found[name].positions.tolist() == [8]
        assert len(found[name].scores.rank) == 1
    # 62 is at q, after p: at 0 and 52 p was followed by q; 2 to 50 and 53 to 60 go on to another
    # session: by p and by q
    assert found["running_user_markov"].scores.values["acc@1"].tolist() == [1]
    assert task.settings.task_name == "next check-in, protocol getnext"


def test_too_little_is_refused():
    with pytest.raises(DataError) as error:
        choose_by_protocol(made(GETNEXT), "getnext")
    assert str(error.value) == (
        "`protocol` getnext leaves nothing in train, validation or test: it is for data sets of "
        "hundreds of users. It kept 0 check-ins of 0 users."
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "`protocol` stan predicts venues: give `target` venue, or leave it out."),
        (
            {"target": "venue", "session_gap": "24h"},
            "`session_gap` has no effect with `protocol` stan, which decides it: leave one of them "
            "out.",
        ),
        (
            {"target": "venue", "min_checkins": 7},
            "`min_checkins` has no effect with `protocol` stan, which decides it: leave one of "
            "them out.",
        ),
        (
            {"target": "venue", "asked_at": True},
            "`protocol` cannot be combined with `asked_at`, which knows the moment of every next "
            "check-in: leave one of them out.",
        ),
    ],
)
def test_what_does_not_go_with_a_protocol(settings, text):
    with pytest.raises(ConfigError) as error:
        config.load({"protocol": "stan"} | settings)
    assert str(error.value) == text


@pytest.mark.realdata
def test_the_published_counts_of_new_york(nyc):
    """Of the 158,360 check-ins here, those at venues with 10 or more are all of the full file's.

    NYC.npy of STAN's repository: 147,938 check-ins of 1,083 users at 5,135 venues, each with 10 or
    more. The other counts are the same by pandas on the text file.
    """
    venues = nyc.check_ins.venue.codes
    counts = np.bincount(venues)
    assert (counts >= 10).sum() == 5_135
    clients, coverage = choose_by_protocol(nyc.check_ins, "stan")
    assert steps(coverage)[1:3] == [
        ("at venues with 10 or more check-ins", 1_083, 147_938),
        ("of users with 10 or more of these", 1_083, 147_938),
    ]
    targets = [len(clients.target_positions(split)) for split in ("train", "val", "test")]
    assert targets == [86_616, 1_083, 1_083]
    _, coverage = choose_by_protocol(nyc.check_ins, "getnext")
    assert steps(coverage)[-1] == ("in sessions of 3 or more", 1_066, 103_882)
