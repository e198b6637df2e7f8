"""fedgru/task/clients.py: who takes part, and where the splits end."""

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from fedgru.core.errors import ConfigError, DataError
from fedgru.task.clients import choose_clients, split_sizes
from tests.conftest import make_check_ins


def three_users():
    # b has 7 check-ins, a and c 5 each (a comes first), d has 3
    users = list("abcbabcbdbcbacdbacad")
    assert [users.count(u) for u in "abcd"] == [5, 7, 5, 3]
    return make_check_ins(users, ["x"] * len(users))


def test_order_and_slices():
    clients, coverage = choose_clients(three_users())
    assert clients.client_ids == ("b", "a", "c")
    assert clients.rows[:7].tolist() == [1, 3, 5, 7, 9, 11, 15]  # b's rows, in order of time
    assert clients.starts.tolist() == [0, 7, 12, 17]
    assert [(line.step, line.clients, line.checkins) for line in coverage] == [
        ("in the data set", 4, 20),
        ("with 5 or more check-ins", 3, 17),
    ]


def test_splits_by_hand():
    # 7: test ceil(1.4) = 2, val ceil(0.2 * 5) = 1; 5: test 1, val ceil(0.8) = 1
    clients, _ = choose_clients(three_users())
    assert clients.train_ends.tolist() == [4, 10, 15]
    assert clients.val_ends.tolist() == [5, 11, 16]
    assert clients.target_positions("train").tolist() == [1, 2, 3, 8, 9, 13, 14]
    assert clients.target_positions("val").tolist() == [4, 10, 15]
    assert clients.target_positions("test").tolist() == [5, 6, 11, 16]
    assert clients.in_split("train").sum() == 10  # the targets and each client's first check-in
    assert clients.client_of.tolist() == [0] * 7 + [1] * 5 + [2] * 5


@pytest.mark.parametrize("n", [3, 4, 5, 6, 10, 11, 99, 100, 101, 1234])
def test_split_sizes_equal_scikit_learn(n):
    train_val, test = train_test_split(np.arange(n), test_size=0.2, shuffle=False)
    _, val = train_test_split(train_val, test_size=0.2, shuffle=False)
    assert [size.item() for size in split_sizes(np.array([n]))] == [len(test), len(val)]


def test_most_active_users_alone():
    clients, coverage = choose_clients(three_users(), users=2)
    assert clients.client_ids == ("b", "a")
    assert (coverage[-1].step, coverage[-1].clients) == ("the 2 most active", 2)


def test_more_users_train_than_are_scored():
    # b is scored (7 check-ins: splits end at 4, 5, 7), a and c only train; nothing of b's moves
    alone, _ = choose_clients(three_users(), users=1)
    for train_users, ids in ((2, ("b", "a")), ("all", ("b", "a", "c"))):
        clients, coverage = choose_clients(three_users(), users=1, train_users=train_users)
        assert clients.client_ids == ids
        scored = clients.scored
        assert scored.client_ids == ("b",)
        for name in ("rows", "starts", "train_ends", "val_ends"):
            np.testing.assert_array_equal(getattr(scored, name), getattr(alone, name))
        assert scored.target_positions("test").tolist() == [5, 6]
        kept = [("the 2 most active", 2, 12)] if train_users == 2 else []
        assert [(line.step, line.clients, line.checkins) for line in coverage[2:]] == [
            *kept,
            ("  scored: 1 most active", 1, 7),
        ]
    by_split = clients.by_split()
    assert {split: len(who) for split, who in by_split.items()} == {"train": 3, "val": 1, "test": 1}


def test_all_who_train_are_scored():
    for train_users in (None, 2):
        clients, coverage = choose_clients(three_users(), users=2, train_users=train_users)
        assert clients.num_scored is None
        assert clients.scored is clients
        assert coverage[-1].step == "the 2 most active"
    clients, coverage = choose_clients(three_users(), users=3, train_users="all")
    assert clients.scored is clients
    assert coverage[-1].step == "with 5 or more check-ins"


def test_too_few_users_to_train_on():
    with pytest.raises(ConfigError) as error:
        choose_clients(three_users(), users=2, train_users=4)
    assert str(error.value) == (
        "`train_users` is 4, but the data set has 3 users with 5 or more check-ins."
    )


def test_too_few_users():
    with pytest.raises(ConfigError) as error:
        choose_clients(three_users(), users=4)
    assert str(error.value) == (
        "`users` is 4, but the data set has 3 users with 5 or more check-ins."
    )


def test_nobody_left():
    with pytest.raises(DataError) as error:
        choose_clients(three_users(), min_checkins=8)
    assert str(error.value) == (
        "no user has 8 check-ins; the most active one, 'b', has 7. Lower `min_checkins` (at least "
        "3, so that train, val and test are not empty)."
    )


@pytest.mark.realdata
def test_the_real_clients(nyc):
    clients, _ = choose_clients(nyc.check_ins, users=100)
    targets = {split: len(clients.target_positions(split)) for split in ("train", "val", "test")}
    # 56,348 check-ins, of which each client's first is no target
    assert targets == {"train": 35_894, "val": 9_046, "test": 11_308}
    assert sum(targets.values()) == 56_348 - 100
