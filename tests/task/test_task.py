"""fedgru/task/task.py: what a client trains on, and what is refused before round 1."""

from dataclasses import replace

import numpy as np
import pytest

from fedgru.core.errors import ConfigError, DataError
from fedgru.data.checkins import CheckIns
from fedgru.data.datasets import DataSet
from fedgru.predict.schema import known_ids
from fedgru.task import features
from fedgru.task.task import build_task
from tests.conftest import make_check_ins


def one_user(categories, **columns):
    check_ins = make_check_ins(["u"] * len(categories), categories, **columns)
    return DataSet("hand", check_ins, {"fingerprint": "hand"})


def test_local_data_by_hand(make_task):
    # 11 check-ins: test ceil(2.2) = 3, val ceil(1.6) = 2, train 6 -> 5 pairs, 2 streams of 3 and 2
    task = make_task(
        one_user(list("abcabcabcab")), features="category", prior="none", seq_len=2, local_epochs=3
    )
    data = task.local_data(0)
    a, b, c = 0, 1, 2
    assert data.rows[..., 0].tolist() == [[[a, b], [a, b]], [[c, -1], [-1, -1]]]
    assert (data.targets * data.mask).tolist() == [[[b, c], [b, c]], [[a, 0], [0, 0]]]
    assert data.mask.tolist() == [[[1, 1], [1, 1]], [[1, 0], [0, 0]]]
    assert (data.passes, data.num_examples, data.beside) == (3, 15, None)


def test_a_missing_category_is_input_unknown_and_no_target(make_task):
    task = make_task(
        one_user(["a", "b", None, "a", "b", "a", "a", "a", "a", "a", "a"]),
        features="category",
        seq_len=5,
        batch_size=1,
    )
    data = task.local_data(0)
    assert data.rows[0, 0, :, 0].tolist() == [0, 1, -1, 0, 1]
    assert data.mask[0, 0].tolist() == [1, 0, 1, 1, 1]
    assert data.num_examples == 4 * 4


def test_prior_of_a_pair_is_that_of_its_input(make_task):
    task = make_task(seq_len=4)
    data, pairs = task.local_data(1), task.batches(1).pairs
    step, stream, column = np.argwhere(pairs >= 0)[-1]
    expected = task.log_prior(1, [pairs[step, stream, column]])[0]
    np.testing.assert_array_equal(data.beside[step, stream, column], expected)


def test_no_category_column(make_task):
    data_set = one_user([None] * 11, venues=list("abcdefghijk"))
    with pytest.raises(ConfigError) as error:
        make_task(data_set, features="category")
    assert str(error.value) == (
        "data set hand has no category, which `features` category and `target` category ask for. "
        "Use `target` venue with `features` user,venue,clock,weekday, or import it again with a "
        "category column."
    )
    make_task(data_set, features="venue", target="venue", prior="markov")


def test_a_client_without_known_train_targets_is_not_drawn(make_task):
    # w has categories in test alone: its one test target counts, and it takes no part in training
    check_ins = make_check_ins(["u"] * 11 + ["w"] * 5, list("abcabcabcab") + [None] * 4 + ["a"])
    task = make_task(
        DataSet("hand", check_ins, {"fingerprint": "hand"}), features="category", min_checkins=5
    )
    assert task.training_clients.tolist() == [0]
    lines = {line.step.strip(): (line.clients, line.checkins) for line in task.coverage}
    assert (lines["train targets"], lines["used for training"]) == ((2, 7), (1, 5))


def test_no_coordinates(make_task):
    data_set = one_user(list("abcabcabcab"), lat_deg=[np.nan] * 11)
    with pytest.raises(ConfigError) as error:
        make_task(data_set, features="venue,latitude")
    assert str(error.value) == (
        "data set hand has no latitude, which `features` venue,latitude asks for. Leave it out, or "
        "import the data again with --column latitude=NAME."
    )


def test_the_best_possible_is_known_for_categories_alone(make_task):
    assert make_task(target="category").best_prob is not None
    assert make_task(target="venue").best_prob is None


def test_val_and_test_change_nothing_that_is_learnt(make_task, tiny_data_set):
    # scramble everything from each client's first validation check-in on
    given = {"prior": "kernel", "head": "dense"}  # tests/task/test_candidates.py has the other head
    task = make_task(**given)
    later = task.clients.rows[~task.clients.in_split("train")]
    rng = np.random.default_rng(0)
    changed = {}
    for name in ("venue", "category", "raw_category"):
        column = getattr(tiny_data_set.check_ins, name)
        codes = column.codes.copy()
        codes[later] = rng.permutation(codes[later])
        changed[name] = replace(column, codes=codes)
    lat_deg = tiny_data_set.check_ins.lat_deg.copy()
    lat_deg[later] = 51.5
    check_ins = replace(tiny_data_set.check_ins, lat_deg=lat_deg, **changed)
    other = make_task(replace(tiny_data_set, check_ins=check_ins), **given)
    assert (other.inputs.rows != task.inputs.rows).any()
    assert other.kernel == task.kernel
    assert other.target_vocabulary.values == task.target_vocabulary.values
    np.testing.assert_array_equal(other.shared, task.shared)
    for client in range(len(task.clients)):
        ours, theirs = task.local_data(client), other.local_data(client)
        for name in ("rows", "numbers", "targets", "mask"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        # the priors' arrays are padded to another size, and may round otherwise
        np.testing.assert_allclose(ours.beside, theirs.beside, atol=1e-5)


def test_too_little_for_the_notebooks_layout(make_task):
    with pytest.raises(DataError) as error:
        make_task(layout="chunks", batch_size=16, seq_len=16)
    assert str(error.value) == (
        "none of the 6 clients has enough check-ins for one local step with `layout` chunks, "
        "`batch_size` 16, `seq_len` 16."
    )


def test_cohort_larger_than_the_clients(make_task):
    with pytest.raises(ConfigError) as error:
        make_task(clients_per_round=50)
    assert str(error.value) == (
        "`clients_per_round` is 50, but the split has 6 clients with training data."
    )


def test_coverage_says_what_the_layout_drops(make_task):
    # 40 check-ins: test 8, val 7, train 25 -> 24 pairs; chunks of 6 check-ins: 4 of them with 5
    # pairs each, so 4 pairs are lost
    task = make_task(one_user(list("abcd") * 10), layout="chunks")
    lines = {line.step.strip(): (line.clients, line.checkins) for line in task.coverage}
    assert lines["train targets"] == (1, 24)
    assert lines["used for training"] == (1, 20)
    assert (lines["val targets"], lines["test targets"]) == ((1, 7), (1, 8))


@pytest.mark.parametrize(
    "layout, batch_size, seq_len",
    [(layout, *size) for layout in ("streams", "chunks") for size in ((1, 1), (2, 5), (3, 2))]
    + [("streams", 16, 16)],
)
def test_what_is_trained_on_in_closed_form_is_what_the_layout_holds(
    make_task, layout, batch_size, seq_len
):
    # "z" comes once, in val: where it would be a train target it is of no known class
    check_ins = make_check_ins(
        ["u"] * 41 + ["v"] * 3 + ["w"] * 90,
        [*"abcab" * 8, "a", *"abz", *"abc" * 10, None, *"ab" * 29, "c"],
    )
    task = make_task(
        DataSet("hand", check_ins, {"fingerprint": "hand"}),
        layout=layout,
        batch_size=batch_size,
        seq_len=seq_len,
        local_epochs=3,
        features="category",
        min_checkins=3,
    )
    trained = 0
    for client in range(3):
        pairs = np.unique(task.batches(client).pairs)
        pairs = pairs[pairs >= 0]
        known = int((task.classes[task.clients.starts[client] + pairs + 1] >= 0).sum())
        assert (client in task.training_clients) == (known > 0)
        trained += known
    lines = {line.step.strip(): line.checkins for line in task.coverage}
    assert lines["used for training"] == trained


def test_validation_on_some_clients(make_task):
    task = make_task(eval_clients=2, seed=1)
    assert len(task.validation_clients) == 2
    # the same for every seed: otherwise runs with other seeds would not be compared on one sample
    np.testing.assert_array_equal(
        task.validation_clients, make_task(eval_clients=2, seed=7).validation_clients
    )
    # 40 check-ins on average; val of n: ceil(0.2 * (n - ceil(0.2 * n)))
    lengths = task.clients.lengths[task.validation_clients]
    expected = sum(-(-(n - -(-n // 5)) // 5) for n in lengths.tolist())
    lines = {line.step: (line.clients, line.checkins) for line in task.coverage}
    assert lines["  scored in each round"] == (2, expected)
    assert make_task().validation_clients is None
    with pytest.raises(ConfigError) as error:
        make_task(eval_clients=7)
    assert str(error.value) == (
        "`eval_clients` is 7, but there are 6 clients. Leave it out to validate on all."
    )


def test_what_is_laid_out_is_kept_only_where_clients_come_up_again(make_task):
    kept = {}
    for cohort in (1, 2, None):  # a quarter of 6 clients is 1.5
        task = make_task(clients_per_round=cohort, eval_clients=1)
        for client in range(6):
            task.client_prior(client, "markov")
        kept[cohort] = sorted(client for client, _ in task._client_priors)
    assert kept == {1: task.validation_clients.tolist(), 2: [*range(6)], None: [*range(6)]}


def test_one_client_with_the_fit_of_all_has_the_same_task(make_task, tiny_data_set):
    """What a real client is: its own check-ins, and tables that were fitted elsewhere."""
    task = make_task(features="big", users=3)
    fitted = features.Fitted(
        ids={
            name: known_ids(getattr(task.check_ins, name), vocab)
            for name, vocab in task.inputs.vocabularies.items()
        },
        sizes=task.inputs.sizes,
        scales=task.inputs.scales,
        classes=task.target_vocabulary.values,
        shared=task.shared,
    )
    client = 1
    check_ins = tiny_data_set.check_ins
    rows = np.flatnonzero(
        check_ins.user.codes == check_ins.user.values.index(task.clients.client_ids[client])
    )
    columns = {
        name: replace(column, codes=column.codes[rows])
        if hasattr(column, "codes")
        else column[rows]
        for name, column in vars(check_ins).items()
        if name != "own"
    }
    alone = build_task(
        replace(tiny_data_set, check_ins=CheckIns(**columns), best_prob=None),
        task.settings.model_copy(
            update={"data": task.settings.data.model_copy(update={"users": None})}
        ),
        fitted=fitted,
    )
    alone = replace(alone, coverage=[])  # a copy keeps what it was given
    assert (len(alone.clients), alone.spec) == (1, task.spec)
    ours, theirs = alone.local_data(0), task.local_data(client)
    for name in ("rows", "numbers", "targets", "mask", "beside"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
