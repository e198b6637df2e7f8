"""Small cases by hand, the published tables on the real check-ins."""

from dataclasses import replace

import numpy as np
import pytest

from fedgru.core.errors import TrainingError
from fedgru.evaluation import baselines
from fedgru.task.clients import Clients, choose_clients


def make_clients(**sequences):
    """Return Clients and classes; each client is (train, val, test) lists of classes.

    A keyword _9 is client id "9", given in the order of `Clients`.
    """
    sizes = np.array([[len(part) for part in parts] for parts in sequences.values()])
    starts = np.concatenate([[0], np.cumsum(sizes.sum(axis=1))])
    clients = Clients(
        client_ids=tuple(name.removeprefix("_") for name in sequences),
        rows=np.arange(starts[-1]),
        starts=starts,
        train_ends=starts[:-1] + sizes[:, 0],
        val_ends=starts[:-1] + sizes[:, :2].sum(axis=1),
    )
    classes = [c for parts in sequences.values() for part in parts for c in part]
    return clients, np.array(classes, np.int32)


def ranking(scores):
    """Return the classes best first, and as a set those that share the last ranks."""
    ranked = [int(c) for c in np.argsort(-scores, kind="stable") if scores[c] > 0]
    return ranked, set(np.flatnonzero(scores == 0).tolist())


def rankings(name, clients, classes, num_classes, split="test"):
    baseline = (baselines.STATIC_BASELINES | baselines.RUNNING_COUNTS)[name]
    scores = baseline(baselines.Counting(clients, classes, num_classes, split))
    return [[ranking(row) for row in client_scores] for client_scores in scores]


def test_frequency_counts_train_and_validation_ties_to_the_first():
    # counts: 3 twice, 1 twice, 4 once; 3 came before 1; 0 and 2 were never counted
    clients, classes = make_clients(a=([3, 1, 1], [4, 3], [1, 1]))
    assert rankings("frequency", clients, classes, 5) == [[([3, 1, 4], {0, 2})] * 2]


def test_commonest_is_everybodys():
    # 0 three times, 1 once, 2 four times
    clients, classes = make_clients(a=([0, 0], [1], [2]), b=([2, 2, 2], [2, 0], [1, 1]))
    assert rankings("commonest", clients, classes, 3) == [
        [([2, 0, 1], set())],
        [([2, 0, 1], set())] * 2,
    ]


@pytest.mark.parametrize(
    "ids, first",
    [
        (("_10", "_9"), 1),  # numbers: 9 before 10, so client 9's class 1 was counted first
        (("_10", "_9x"), 0),  # texts: "10" before "9x"
    ],
)
def test_global_ties_go_to_the_first_user_by_id(ids, first):
    clients, classes = make_clients(**{ids[0]: ([0], [], [0]), ids[1]: ([1], [], [1])})
    (ranked, _) = rankings("commonest", clients, classes, 2)[0][0]
    assert ranked[0] == first


def test_last_puts_the_last_class_before_the_own_frequencies():
    clients, classes = make_clients(a=([3, 1, 1], [4], [2, 0, 1]))
    assert rankings("last", clients, classes, 5) == [
        [
            ([4, 1, 3], {0, 2}),  # predicted from the last validation check-in
            ([2, 1, 3, 4], {0}),  # a class never counted before
            ([0, 1, 3, 4], {2}),
        ]
    ]


def test_user_markov_ranks_followers_then_the_own_frequencies():
    # 0 -> 1, 0 -> 2 and 0 -> 2 again, 1 -> 0, 2 -> 0, 2 -> 3; counts 0: 3, 2: 2, 1: 1, 3: 1
    clients, classes = make_clients(a=([0, 1, 0, 2, 0], [2, 3], [0, 4, 2, 1, 0]))
    assert rankings("user_markov", clients, classes, 5) == [
        [
            ([0, 2, 1, 3], {4}),  # after 3 nothing was counted: the frequencies
            ([2, 1, 0, 3], {4}),  # after 0: 2 twice, 1 once, then the rest by frequency
            ([0, 2, 1, 3], {4}),  # after 4, never counted
            ([0, 3, 2, 1], {4}),  # after 2: 0 and 3 once each, 0 is more frequent
            ([0, 2, 1, 3], {4}),  # after 1: 0
        ]
    ]


def test_markov_ties_go_to_the_own_frequency():
    # after 2: 1, then 0, once each; 0 twice, 1 once. The oldest follower would be 1.
    clients, classes = make_clients(a=([0, 2, 1, 2, 0], [2], [0]))
    assert rankings("user_markov", clients, classes, 3) == [[([0, 1, 2], set())]]
    # 1 twice, 0 once: the latest follower would be 0
    clients, classes = make_clients(a=([1, 2, 1, 2, 0], [2], [0]))
    assert rankings("user_markov", clients, classes, 3) == [[([1, 0, 2], set())]]


def test_markov_ties_in_the_frequency_too_go_to_the_latest_follower():
    # after 2: 0 and 1 once each, both counted once; then 2 itself, the most frequent
    clients, classes = make_clients(a=([2, 0, 2, 1], [2], [0]))
    assert rankings("user_markov", clients, classes, 3) == [[([1, 0, 2], set())]]
    # one more 0 -> 1 and 1 -> 0 each way; 0 followed 2 the last time, 1 came last of all
    clients, classes = make_clients(a=([2, 1, 2, 0, 1, 0, 1], [0, 2], [1]))
    # counts 0: 3, 1: 3, 2: 3; after 2: 1, then 0
    assert rankings("user_markov", clients, classes, 3) == [[([0, 1, 2], set())]]


def test_running_user_markov_counts_up_to_each_target():
    clients, classes = make_clients(a=([0, 1], [0], [2, 0, 2, 3]))
    assert rankings("running_user_markov", clients, classes, 5) == [
        [
            ([1, 0], {2, 3, 4}),  # after 0: 1; counts 0: 2, 1: 1
            ([0, 1, 2], {3, 4}),  # after 2, nothing yet; 1 was counted before 2
            ([2, 1, 0], {3, 4}),  # after 0: 1 and 2 once each, once counted, 2 the latest; 0: 3
            ([0, 2, 1], {3, 4}),  # after 2: 0; counts 0: 3, 2: 2, 1: 1
        ]
    ]


def test_running_user_markov_starts_as_the_static_one():
    clients, classes = make_clients(
        a=([0, 1, 0, 2, 0], [2, 3], [0]), b=([1, -1, 2, 1], [2], [1]), c=([], [], [2, 0])
    )
    static, running = (
        rankings(name, clients, classes, 4) for name in ("user_markov", "running_user_markov")
    )
    assert static[:2] == running[:2]


def test_validation_is_predicted_from_train_alone():
    clients, classes = make_clients(a=([1, 0, 1], [0, 2], [2, 2]))
    assert rankings("frequency", clients, classes, 3, "val") == [[([1, 0], {2})] * 2]
    assert rankings("user_markov", clients, classes, 3, "val") == [
        [([0, 1], {2}), ([1, 0], {2})]  # after 1: 0; after 0: 1
    ]
    scored = baselines.Counting(clients, classes, 3, "val")
    assert baselines.rank(baselines.frequency, scored).known.tolist() == [True, False]


def test_only_some_clients_are_scored_and_all_are_counted():
    clients, classes = make_clients(a=([0], [0], [0, 1]), b=([1, 1, 1], [1], [1]))
    counting = baselines.Counting(clients, classes, 2, scored=np.array([1]))
    assert len(baselines.rank(baselines.commonest, counting)) == 1
    counting = baselines.Counting(clients, classes, 2, scored=np.array([0]))
    found = baselines.rank(baselines.commonest, counting)
    assert found.predicted.tolist() == [1, 1]  # b's
    assert found.values["acc@1"].tolist() == [0, 1]


def test_what_nobody_counted_is_a_miss_and_takes_no_rank():
    # 0 and 1 are counted; 2 is in a's test alone, 3 in nobody's; 7 in b's validation
    clients, classes = make_clients(a=([0], [0], [0, 2, 7]), b=([1, 1], [7], [1]))
    counting = baselines.Counting(clients, classes, 9)
    found = baselines.rank(baselines.frequency, counting)
    assert found.known.tolist() == [True, False, True, True]
    assert found.values["acc@5"].tolist() == [1, 0, 1, 1]
    # a counted 0 alone: 1 and 7, which b counted, share the ranks 2 and 3
    assert found.values["mrr"].tolist() == [1, 0, pytest.approx((1 / 2 + 1 / 3) / 2), 1]
    assert found.predicted.tolist() == [0, 0, 0, 1]
    # a was at 2 before its third target: `last` knows it, as a miss of no other
    found = baselines.rank(baselines.last, counting)
    assert found.known.tolist() == [True, False, True, True]
    assert found.predicted.tolist() == [0, 0, 2, 7]
    # with a list that has 2 and one more class, both take ranks
    listed = classes == 2
    found = baselines.rank(baselines.frequency, counting, listed, 5)
    assert found.known.all()
    shared = (1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 4  # 1, 2, 7 and the one that nobody here was at
    assert found.values["mrr"][1] == pytest.approx(shared)


def test_global_markov_does_not_count_from_one_client_to_the_next():
    # a: 0 -> 1; b: 2 -> 0, 0 -> 2, 2 -> 0. From a's end to b's start would be 1 -> 2.
    clients, classes = make_clients(a=([0], [1], [1, 0]), b=([2, 0], [2, 0], [0]))
    assert rankings("global_markov", clients, classes, 3) == [
        [
            ([0, 2, 1], set()),  # after 1, nothing: the frequencies 0: 3, 2: 2, 1: 1
            ([0, 2, 1], set()),
        ],
        [([2, 1, 0], set())],  # after 0: 1 and 2 once each, 2 is more frequent
    ]


def test_missing_classes_are_not_counted_and_miss():
    # 1 -> missing -> 0 is no transition at all
    clients, classes = make_clients(a=([1, -1, 0], [0], [-1, 0]))
    assert rankings("user_markov", clients, classes, 2) == [[([0, 1], set()), ([0, 1], set())]]
    assert rankings("last", clients, classes, 2) == [[([0, 1], set()), ([0, 1], set())]]
    summary = baselines.evaluate_static(clients, classes, 2)["frequency"]
    assert (summary["targets"], summary["unknown_targets"]) == (2, 1)
    assert summary["acc@1/micro"] == 0.5


def test_a_first_check_in_is_no_target():
    # client a has a single check-in, client b's first test check-in follows nothing
    clients, classes = make_clients(a=([], [], [0]), b=([], [], [1, 0]), c=([0], [1], [1]))
    summary = baselines.evaluate_static(clients, classes, 2)
    assert summary["last"]["targets"] == 2
    assert summary["last"]["acc@1/micro"] == 0.5


def test_counts_do_not_see_the_test_split():
    clients, classes = make_clients(a=([0, 1, 0], [1], [0, 2, 0, 2, 2]))
    changed = classes.copy()
    changed[-1] = 1  # predicted, but nothing is predicted from it
    first, second = (baselines.Counting(clients, c, 3) for c in (classes, changed))
    for baseline in (baselines.STATIC_BASELINES | baselines.RUNNING_COUNTS).values():
        for before, after in zip(baseline(first), baseline(second), strict=True):
            np.testing.assert_array_equal(after, before)


def test_all_are_counted_and_the_first_are_scored():
    # b alone counts 2 four times; a, who is scored, has 0 twice and 1 once, and then a 2
    clients, classes = make_clients(a=([0, 0], [1], [2]), b=([2, 2, 2], [2, 0], [1, 1]))
    scored = replace(clients, num_scored=1)
    counting = baselines.Counting(scored, classes, 3)
    found = baselines.rank(baselines.commonest, counting)
    assert found.rank.tolist() == [1]  # counted over a alone, 2 would be last
    alone, own = make_clients(a=([0, 0], [1], [2]))
    counting_alone = baselines.Counting(alone, own, 3)
    assert not baselines.rank(baselines.commonest, counting_alone).known.any()  # a alone: a miss
    # a's own counts are a's own
    mine = baselines.rank(baselines.frequency, counting)
    assert mine.rank.tolist() == [3]
    theirs = baselines.rank(baselines.frequency, counting_alone)
    assert mine.predicted.tolist() == theirs.predicted.tolist() == [0]
    summary = baselines.evaluate_static(scored, classes, 3)["commonest"]
    assert (summary["targets"], summary["acc@1/micro"]) == (1, 1.0)


def test_no_test_targets_are_an_error():
    clients, classes = make_clients(a=([0, 1], [1], []))
    with pytest.raises(TrainingError) as error:
        baselines.evaluate_static(clients, classes, 2)
    assert str(error.value) == "there are no targets to score."


def evaluate_real(data_set, users, column):
    clients, _ = choose_clients(data_set.check_ins, users)
    coded = getattr(data_set.check_ins, column)
    return baselines.evaluate_static(clients, coded.codes[clients.rows], len(coded.values))


@pytest.mark.realdata
def test_published_table_of_the_top_100_users(nyc):
    summaries = evaluate_real(nyc, 100, "category")
    assert all(summary["targets"] == 11308 for summary in summaries.values())
    assert {name: f"{summary['acc@1/micro']:.4f}" for name, summary in summaries.items()} == {
        "commonest": "0.1525",
        "last": "0.1958",
        "global_markov": "0.2189",
        "frequency": "0.2884",
        "user_markov": "0.3084",
    }
    assert {
        name: [f"{summary[f'acc@{k}/micro']:.3f}" for k in (5, 10)]
        for name, summary in summaries.items()
        if name != "last"  # published at rank 1 only
    } == {
        "commonest": ["0.518", "0.739"],
        "global_markov": ["0.576", "0.766"],
        "frequency": ["0.712", "0.897"],
        "user_markov": ["0.719", "0.891"],
    }


@pytest.mark.realdata
@pytest.mark.parametrize(
    "users, column, targets, published",
    [
        (100, "venue", 11308, ["0.006", "0.049", "0.167", "0.129", "0.189"]),
        (None, "category", 32117, ["0.124", "0.246", "0.247", "0.326", "0.332"]),
    ],
)
def test_published_accuracies(nyc, users, column, targets, published):
    summaries = evaluate_real(nyc, users, column)
    assert list(summaries) == ["commonest", "last", "global_markov", "frequency", "user_markov"]
    assert [f"{summary['acc@1/micro']:.3f}" for summary in summaries.values()] == published
    assert {summary["targets"] for summary in summaries.values()} == {targets}
