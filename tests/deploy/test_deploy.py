"""fedgru deploy without processes: the app, its records, and rounds over a grid of functions."""

import copy
import datetime
import itertools
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs the environment that `make dist` creates (Flower)")

from click.testing import CliRunner
from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.nodestate import NodeStateFactory

from fedgru.agnostic import protection
from fedgru.algorithms.fed_avg import ClientUpdate
from fedgru.cli.main import main
from fedgru.core.errors import ConfigError, DataError, RunError, TrainingError
from fedgru.data import datasets
from fedgru.data.checkins import CheckIns, Coded
from fedgru.deploy import claims, client, keys, private, processes, records, secure, server
from fedgru.deploy.app import PACKAGE, read_app, write_app
from fedgru.deploy.privacy import Privacy, protect
from fedgru.deploy.system_noise import SystemNoise
from fedgru.report.runs import read_runs
from fedgru.training.rounds import run_round
from fedgru.training.traffic import traffic_of
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows import train as train_workflow
from tests.conftest import start


def only(check_ins, user):
    """The CheckIns of one user, coded as if nobody else's had been in the file."""
    rows = np.flatnonzero(check_ins.user.codes == check_ins.user.values.index(user))

    def code(column):
        texts = [column.values[c] if c >= 0 else None for c in column.codes[rows]]
        known = list(dict.fromkeys(text for text in texts if text is not None))
        codes = [-1 if text is None else known.index(text) for text in texts]
        return Coded(np.array(codes, np.int32), tuple(known))

    columns = vars(check_ins) | {"own": {}}
    return CheckIns(
        **{
            name: code(values) if isinstance(values, Coded) else values[rows]
            for name, values in columns.items()
            if name != "own"
        }
    )


class Grid:
    """Flower's Grid, with clients that answer at once.

    Attributes:
        online: names of the clients that are there.
        spoil: (name, round) -> function of a reply's {name: record}, which changes it, or gives
            Flower's Error in its place.
        asked: (name, kind, round, trains, split) of every message, in order.
        privacy: the app's Privacy.
        lost: name of a client that goes away once it has handed out shares of its secrets.
        stretch: name of a client -> what it multiplies its masked update with.
        errors: texts of errors of clients in the secure aggregation.
        hello: function of a client's name: what it says when it joins.
    """

    def __init__(self, tasks):
        self._tasks, self.online, self.spoil, self.asked = tasks, list(tasks), {}, []
        self._ids, self._replies = itertools.count(1), {}
        self._contexts = {name: Context(1, 1, {}, RecordDict(), {}) for name in tasks}
        self.privacy, self.lost, self.stretch, self.errors = Privacy(), None, {}, []
        self.hello = lambda name: client.hello(tasks[name])
        self._nodes = {
            name: SimpleNamespace(
                node_id=100 + i,
                name=name,
                public_key=name.encode(),
                last_activated_at="2031-05-02",
            )
            for i, name in enumerate(tasks)
        }

    def get_nodes(self):
        return [node for name, node in self._nodes.items() if name in self.online]

    def push_messages(self, messages):
        sent = []
        names = {node.node_id: name for name, node in self._nodes.items()}
        for message in messages:
            message_id = f"message-{next(self._ids)}"
            message.metadata.__dict__["_message_id"] = message_id
            name = names[message.metadata.dst_node_id]
            content = self._answer(name, message)
            if isinstance(content, Error):
                self._replies[message_id] = Message(content, reply_to=message)
            elif content is not None:
                self._replies[message_id] = Message(RecordDict(content), reply_to=message)
            sent.append(message_id)
        return sent

    def _answer(self, name, message):
        if message.metadata.message_type == "query":
            self.asked.append((name, "hello", 0, False, ""))
            return self.hello(name)
        if secure.is_part(message):
            return self._mask(name, message)
        ask, weights = records.unpack_ask(message.content)
        self.asked.append((name, "work", ask.round_num, ask.train, ask.score))
        content = client.answer(self._tasks[name], ask, weights, self.privacy)
        return self.spoil.get((name, ask.round_num), lambda found: found)(content)

    def _mask(self, name, message):
        message = copy.deepcopy(message)  # Flower's protocol takes messages apart
        stage = message.content[secure.configs_key()]["stage"]
        self.asked.append((name, stage, 0, False, ""))
        if name == self.lost and stage in ("collect_masked_vectors", "unmask"):
            return None

        def train():
            ask, weights = records.unpack_ask(message.content)
            update = client.train(self._tasks[name], ask, weights, self.privacy)
            dense = {n: self.stretch.get(name, 1.0) * a for n, a in update.dense.items()}
            return replace(update, dense=dense), len(weights["rows"])

        message.metadata._dst_node_id = self._nodes[name].node_id
        try:
            return dict(secure.reply(message, self._contexts[name], train).content)
        except TrainingError as error:
            self.errors.append(str(error))
            return records.pack_error(error)

    def pull_messages(self, message_ids):
        return [self._replies.pop(one) for one in message_ids if one in self._replies]


@pytest.fixture(autouse=True)
def a_task_of_flower(monkeypatch):
    """Flower's messages ask their process which run it belongs to."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def deploy(make_task, tmp_path):
    """Make an app of a small task, and a Grid of its clients; return (task, app, grid)."""

    def make(privacy=None, **overrides):
        task = make_task(**{"users": 3, "rounds": 3, "patience": 0} | overrides)
        write_app(tmp_path / "app", task, privacy or Privacy())
        app = read_app(tmp_path / "app")
        people = task.clients.client_ids
        own = {
            f"client-{user}": datasets.DataSet(
                "own", only(task.check_ins, user), {"fingerprint": "hand"}
            )
            for user in people[::-1]  # whoever comes first is not the first
        }
        grid = Grid({name: client.own_task(app, data_set) for name, data_set in own.items()})
        grid.privacy = app.privacy
        return task, app, grid

    return make


def run_deployed(app, grid, tmp_path, **job):
    job = {"log_dir": str(tmp_path / "deployed"), "clients": 3, "timeout_s": 5.0} | job
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    return server.train(grid, app, job, state)


@pytest.mark.parametrize(
    "overrides",
    [
        {"prior": "kernel", "dropout": 0.3},
        {
            **{"target": "venue", "features": "venue,latitude,gap", "prior": "none"},
            **{"cell": "lstm", "server_optimizer": "adam", "server_lr": 0.01},
        },
        {"prior": "kernel", "head": "candidates", "head_dim": 7},
        {"prior": "backoff", "head": "candidates", "target": "venue", "cell": "lstm"},
    ],
    ids=["places by kernel and dropout", "venues by LSTM and Adam", "candidates", "venues"],
)
def test_a_deployment_gives_what_a_simulation_gives(deploy, tmp_path, overrides):
    task, app, grid = deploy(**overrides)
    run = run_deployed(app, grid, tmp_path)
    simulated, _, _ = train_workflow.train(task, {}, tmp_path / "simulated")
    for which in ("best", "last"):
        (ours, round_num), (expected, at) = (one.load_weights(which) for one in (run, simulated))
        assert round_num == at
        for name, array in expected.items():
            np.testing.assert_array_equal(ours[name], array, err_msg=name)
    ours, expected = ((one.path / "metrics.csv").read_text() for one in (run, simulated))
    assert ours.splitlines()[0] == expected.splitlines()[0]
    columns = [
        dict(
            zip(
                text.splitlines()[0].split(","),
                np.array(
                    [[float(c or "nan") for c in line.split(",")] for line in text.splitlines()[1:]]
                ).T,
                strict=True,
            )
        )
        for text in (ours, expected)
    ]
    if task.settings.server.client_weights == "equal":
        # no number of examples is sent: a deployment has the mean of the clients' means
        engine = train_workflow.make_engine(task)
        weights = start(task)[1].weights
        sent = list(engine.local_updates(weights, np.arange(3), 1))
        means = [
            (one.loss_sum / one.num_examples, one.num_correct / one.num_examples) for one in sent
        ]
        for name, value in zip(("loss", "acc@1"), np.mean(means, axis=0), strict=True):
            deployed, by_examples = (one.pop(f"train/{name}/micro") for one in columns)
            assert deployed[1] == pytest.approx(value, rel=1e-6)
            total = sum(
                getattr(one, "loss_sum" if name == "loss" else "num_correct") for one in sent
            )
            expected_mean = total / sum(one.num_examples for one in sent)
            assert by_examples[1] == pytest.approx(expected_mean, rel=1e-6)
    for name, values in columns[1].items():
        np.testing.assert_allclose(columns[0][name], values, rtol=1e-12, err_msg=name)


def test_secure_aggregation_gives_the_same_but_for_rounding(deploy, tmp_path):
    task, app, grid = deploy(Privacy(secure=True), prior="none", rounds=2)
    run = run_deployed(app, grid, tmp_path)
    simulated, _, _ = train_workflow.train(task, {}, tmp_path / "simulated")
    (ours, _), (expected, _) = (one.load_weights("last") for one in (run, simulated))
    for name, array in expected.items():
        # steps of 6 / 2^22 = 1.4e-6 on each of three clients, over two rounds
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=1e-4, err_msg=name)
    rows = [
        np.genfromtxt(one.path / "metrics.csv", delimiter=",", names=True, deletechars="")
        for one in (run, simulated)
    ]
    for name in ("train/loss/micro", "train/acc@1/micro", "val/loss/micro"):
        np.testing.assert_allclose(rows[0][name], rows[1][name], atol=1e-3, err_msg=name)
    # nobody was ever asked for an update in the clear
    assert not any(trains for _, _, _, trains, _ in grid.asked)
    stages = [
        stage for name, stage, *_ in grid.asked if name == "client-" + task.clients.client_ids[0]
    ]
    assert stages.count("collect_masked_vectors") == 2


def test_a_claim_does_not_round_the_others_away_in_secure_aggregation(deploy, tmp_path):
    """Without the cap, three steps of 2^22 would be left of 10 examples beside 3 * 10^7."""
    task, app, grid = deploy(Privacy(secure=True), prior="none", rounds=1)
    name, hello = f"client-{task.clients.client_ids[2]}", grid.hello
    grid.hello = lambda who: {
        "hello": type(hello(who)["hello"])(
            dict(hello(who)["hello"])
            | ({"checkins": 10**7, "examples": 3 * 10**7} if who == name else {})
        )
    }
    run = run_deployed(app, grid, tmp_path)
    # it has the number 0 now, as if it had most check-ins; its own training is what it was
    simulated, _, _ = train_workflow.train(task, {}, tmp_path / "simulated")
    (ours, _), (expected, _) = (one.load_weights("last") for one in (run, simulated))
    for what, array in expected.items():
        np.testing.assert_allclose(ours[what], array, rtol=0, atol=1e-4, err_msg=what)


def test_secure_aggregation_survives_a_lost_client(deploy, tmp_path):
    task, app, grid = deploy(Privacy(secure=True), prior="none", rounds=1)
    grid.lost = f"client-{task.clients.client_ids[1]}"
    run = run_deployed(app, grid, tmp_path, timeout_s=1.0)
    assert run.facts()["faults"] == {"dropped out": 1}
    assert run.facts()["rounds"] == 1
    # what is left is the mean of the two others
    others = train_workflow.make_engine(task)
    algorithm, state = start(task)
    expected = run_round(others, algorithm, state, np.array([0, 2])).state.weights
    found, _ = run.load_weights("last")
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-4, err_msg=name)


def test_a_secure_app_gives_no_update_in_the_clear(deploy):
    task, app, grid = deploy(Privacy(secure=True), prior="none")
    own = next(iter(grid._tasks.values()))
    ask = records.Ask(1, 0, True, 3, "")
    with pytest.raises(TrainingError) as error:
        client.answer(own, ask, protection.init_weights(task), app.privacy)
    assert str(error.value) == "the server asked for a plain update, but the app is `secure`."


def test_numbers_stay_with_clients_and_newcomers_come_last(deploy, tmp_path):
    task, app, grid = deploy(prior="none")
    names = [f"client-{user}" for user in task.clients.client_ids]
    grid.online = names[1:]
    run = run_deployed(app, grid, tmp_path, clients=2)
    assert [one["name"] for one in run.facts()["members"]] == names[1:]
    # the third comes when the first two have begun: it is asked to score, then to train
    grid.asked.clear()
    seen = []

    def come(content):
        seen.append(1)
        grid.online = names
        return content

    grid.spoil[names[1], 1] = come
    grid.online = names[1:]
    run = run_deployed(app, grid, tmp_path, clients=2)
    assert seen
    assert [one["name"] for one in run.facts()["members"]] == [*names[1:], names[0]]
    trained = [
        round_num for name, _, round_num, trains, _ in grid.asked if name == names[0] and trains
    ]
    assert trained == [2, 3]
    assert (run.path / "faults.csv").exists() is False


def test_whoever_is_missing_or_wrong_is_told(deploy, tmp_path, caplog):
    task, app, grid = deploy(prior="none")
    first, second, third = (f"client-{user}" for user in task.clients.client_ids)

    def with_nan(content):
        content["sums"]["loss_sum"] = float("nan")
        return content

    def without_rows(content):
        content.pop("rows", None)  # the scores of the best round have none
        return content

    def an_error(_):
        return records.pack_error(ValueError("mine.txt, row 3: latitude is 140.7"))

    grid.spoil = {(first, 1): with_nan, (second, 2): without_rows, (third, 3): an_error}
    caplog.set_level("INFO")
    run = run_deployed(app, grid, tmp_path)
    assert (run.path / "faults.csv").read_text().splitlines() == [
        "round,client_id,why",
        f"1,{first},not finite",
        f"2,{second},wrong shape",
        f"3,{third},failed",
    ]
    said = [one.getMessage() for one in caplog.records]
    assert f"round 3, {third}: failed with ValueError (details in its own log)" in said
    assert f"the reply of client {second} is not an update: 'rows'" in said
    assert f"round 2 is validated without {third}" in said


def test_a_round_goes_on_without_a_client_that_is_silent(deploy, tmp_path):
    task, app, grid = deploy(prior="none", rounds=2)
    silent = f"client-{task.clients.client_ids[2]}"
    grid.spoil[silent, 2] = lambda _: None
    run = run_deployed(app, grid, tmp_path, timeout_s=0.7)
    assert (run.path / "faults.csv").read_text().splitlines()[1:] == [f"2,{silent},dropped out"]
    # round 2 is the mean of the other two, from where the simulation stands after round 1
    engine = train_workflow.make_engine(task)
    algorithm, state = start(task)
    state = run_round(engine, algorithm, state, np.arange(3)).state
    expected = run_round(engine, algorithm, state, np.arange(2)).state.weights
    found, _ = run.load_weights("last")
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (ErrorCode.NODE_UNAVAILABLE, "went away (Flower: NODE_UNAVAILABLE)"),
        (ErrorCode.MESSAGE_UNAVAILABLE, "did not answer in time (Flower: MESSAGE_UNAVAILABLE)"),
        (ErrorCode.CLIENT_APP_CRASHED, "failed (Flower: CLIENT_APP_CRASHED)"),
        (99, "failed (Flower: 99)"),
    ],
)
def test_the_log_says_why_flower_has_no_reply(deploy, tmp_path, caplog, code, why):
    task, app, grid = deploy(prior="none", rounds=1)
    name = f"client-{task.clients.client_ids[2]}"
    grid.spoil[name, 1] = lambda _: Error(code, "a text that Flower may change")
    caplog.set_level("INFO")
    run = run_deployed(app, grid, tmp_path)
    said = [one.getMessage() for one in caplog.records]
    assert f"round 1, {name}: {why}" in said
    kept = "failed" if why.startswith("failed") else "dropped out"
    assert (run.path / "faults.csv").read_text().splitlines()[1:] == [f"1,{name},{kept}"]


HANGS = """
import logging, sys, time
from fedgru.deploy.limits import OutOfTime, limited
logging.basicConfig(format="%(message)s")
heeds = sys.argv[1] == "heeds"
began = time.monotonic()
try:
    with limited(0.3, grace_s=0.5):
        while True:
            try:
                time.sleep(30)
            except OutOfTime:
                if heeds:
                    raise
except OutOfTime as error:
    print(error)
time.sleep(1.0)  # nothing is left that would end the process now
print("goes on")
"""


@pytest.mark.parametrize(
    ("how", "code", "out", "err"),
    [
        ("heeds", 0, "not done in the 0.3 s that the server waits for a reply\ngoes on\n", ""),
        (
            "ignores",
            1,
            "",
            "not done in 0.3 s, nor 0.5 s after it was interrupted: this process ends itself\n",
        ),
    ],
)
def test_a_program_that_hangs_ends_itself(how, code, out, err):
    command = [sys.executable, "-c", HANGS, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


@pytest.mark.parametrize(
    ("ends", "status", "messages"), [(True, "finished", 0), (False, "pending", 1)]
)
def test_a_node_forgets_a_message_whose_run_has_ended(ends, status, messages):
    """Else its program waits for it forever, and its error is sent in place of a later reply."""
    factory = ObjectStoreFactory()
    store, state = factory.store(), NodeStateFactory(factory).state()
    message = Message(RecordDict(), 1, "train")
    message.metadata.__dict__["_message_id"] = message.object_id
    state.store_run(Run.create_empty(message.metadata.run_id))

    def confirm(*_):
        if ends:
            raise RunNotRunningException

    pulled = private.make_pull()(
        state=state,
        object_store=store,
        node_config={},
        receive=lambda: (message, get_object_tree(message)),
        get_run=None,
        get_fab=None,
        pull_object=lambda _, one: get_all_nested_objects(message)[one].deflate(),
        confirm_message_received=confirm,
        trusted_entities=None,
    )
    assert pulled == (None if ends else message.metadata.run_id)
    assert [task.status.status for task in state.get_tasks()] == [status]
    assert len(state.get_messages_legacy()) == messages


def test_a_client_that_hangs_replies_that_it_was_out_of_time(deploy, tmp_path, monkeypatch):
    deploy(prior="none")
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(datasets, "open_data_set", lambda *_: time.sleep(30))
    message = Message(RecordDict(), 1, "query", ttl=0.2)
    message.metadata.__dict__["_message_id"] = "message"
    context = Context(1, 1, {"folder": str(tmp_path / "own")}, RecordDict(), {})
    began = time.monotonic()
    reply = client.make_client_app(tmp_path / "app")(message, context)
    assert time.monotonic() - began < 10
    assert dict(reply.content["error"]) == {"kind": "OutOfTime"}
    said = (tmp_path / "own" / client.LOG).read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in said] == [
        "INFO a server asks for training; updates are sent unprotected",
        "ERROR not done in the 0.2 s that the server waits for a reply: this process ends, the "
        "next message starts a new one",
    ]


def test_the_ledger_has_the_bytes_that_are_really_sent(deploy):
    task, app, grid = deploy(prior="none", hidden_dim=64)
    weights, traffic = protection.init_weights(task), traffic_of(task)
    for number, name in enumerate(task.clients.client_ids):
        ask = records.Ask(1, number, True, 3, "")
        sent = Message(records.pack_ask(ask, weights), 1, "train")
        # a deployment sends all rows down, so that nobody asks for those of its places
        assert len(private.wire_bytes(sent)) == pytest.approx(traffic.model_bytes, rel=0.05)
        own = grid._tasks[f"client-{name}"]
        reply = Message(RecordDict(client.answer(own, ask, weights, app.privacy)), 1, "train")
        size = len(private.wire_bytes(reply))
        assert size == pytest.approx(traffic.up_bytes[number], rel=0.05)
        assert size < 0.9 * traffic.model_bytes  # rows of its own alone


def test_a_server_that_was_killed_goes_on(deploy, tmp_path):
    task, app, grid = deploy(prior="none", dropout=0.3)
    (tmp_path / "state").mkdir()
    name = f"client-{task.clients.client_ids[0]}"

    class Killed(BaseException):
        pass

    def kill(_):
        raise Killed

    grid.spoil[name, 3] = kill
    with pytest.raises(Killed):
        run_deployed(app, grid, tmp_path)
    grid.spoil.clear()
    run = run_deployed(app, grid, tmp_path)
    assert [entry["after_round"] for entry in run.facts()["resumed"]] == [1]
    assert not (tmp_path / "state/unfinished").exists()
    simulated, _, _ = train_workflow.train(task, {}, tmp_path / "simulated")
    for which in ("best", "last"):
        (ours, at), (expected, there) = (one.load_weights(which) for one in (run, simulated))
        assert at == there
        for array_name, array in expected.items():
            np.testing.assert_array_equal(ours[array_name], array)


UPDATE = ClientUpdate(
    client=0,
    num_examples=4,
    dense={"bias": np.array([3.0, 0.0], np.float32)},
    row_ids=np.array([1], np.int32),
    row_update=np.array([[0.0, 4.0]], np.float32),
    loss_sum=8.0,
    num_correct=2.0,
)


def test_an_update_is_clipped_as_a_whole():
    # sqrt(3^2 + 4^2) = 5, cut to 1: every coordinate a fifth
    clipped = protect(UPDATE, 3, Privacy(clip=1.0), 3, np.random.default_rng(0))
    np.testing.assert_allclose(clipped.dense["bias"], [0.6, 0.0], rtol=1e-6)
    np.testing.assert_allclose(clipped.row_update, [[0.0, 0.8]], rtol=1e-6)
    assert (clipped.num_examples, clipped.row_ids.tolist()) == (4, [1])
    kept = protect(UPDATE, 3, Privacy(clip=6.0), 3, np.random.default_rng(0))
    np.testing.assert_array_equal(kept.dense["bias"], [3.0, 0.0])


def test_the_noise_of_all_clients_has_the_size_that_was_asked_for():
    privacy, rng = Privacy(clip=2.0, noise=1.5), np.random.default_rng(1)
    large = replace(UPDATE, dense={"bias": np.zeros(20000, np.float32)})
    noisy = [protect(large, 5000, privacy, 4, rng) for _ in range(4)]
    # four shares of 1.5 * 2 / sqrt(4): together 3; rows that nobody owns have it too
    assert np.std(sum(one.dense["bias"] for one in noisy)) == pytest.approx(3.0, rel=0.03)
    assert np.std(sum(one.row_update for one in noisy)[2:]) == pytest.approx(3.0, rel=0.03)
    assert {one.num_examples for one in noisy} == {1}
    assert noisy[0].row_ids.tolist() == list(range(5000))
    # loss and hits of training stay with the client
    assert (noisy[0].loss_sum, noisy[0].num_correct) == (0.0, 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_does_not_switch_clipping_off(value):
    wrong = replace(UPDATE, dense={"bias": np.array([value, 1000.0], np.float32)})
    with pytest.raises(TrainingError, match="the update is kept here: its norm is (nan|inf)"):
        protect(wrong, 3, Privacy(clip=1.0), 3, SystemNoise())


@pytest.mark.parametrize(
    ("privacy", "overrides", "message"),
    [
        (
            Privacy(noise=1.0),
            {"mean": "clients"},
            "`noise` needs `clip`: its unit is the largest norm of an update.",
        ),
        (
            Privacy(clip=1.0, noise=1.0),
            {},
            "`noise` needs `mean` clients: a mean over the owners of a row reveals who owns it.",
        ),
        (
            Privacy(secure=True),
            {"robust": "median"},
            "`robust` median needs single updates, which `secure` hides: leave one of them out.",
        ),
        (
            Privacy(),
            {"engine": "reference", "threads": None},
            "`engine` reference is for simulations: clients train with jax. Leave it out.",
        ),
        (
            Privacy(),
            {"client_dropout": 0.1},
            "`client_dropout` has no effect in a deployment: real clients drop out by themselves. "
            "Leave it out.",
        ),
    ],
)
def test_what_an_app_cannot_be(make_task, tmp_path, privacy, overrides, message):
    with pytest.raises(ConfigError) as error:
        write_app(tmp_path / "app", make_task(prior="none", **overrides), privacy)
    assert str(error.value) == message
    assert not (tmp_path / "app").exists()


def test_an_app_is_read_as_it_was_written(deploy, tmp_path):
    task, app, _ = deploy(Privacy(clip=2.0), prior="kernel")
    assert app.settings == task.settings
    assert app.schema.kernel == task.kernel
    assert app.privacy == Privacy(clip=2.0)
    np.testing.assert_array_equal(app.fitted.shared, task.shared)
    with pytest.raises(DataError) as error:
        write_app(tmp_path / "app", task)
    assert str(error.value) == (
        f"{tmp_path}/app exists already: choose another name, or delete it."
    )
    with pytest.raises(DataError) as error:
        read_app(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} is not an app of fedgru. Make one with: fedgru deploy app FOLDER"
    )
    (tmp_path / f"app/{PACKAGE}/model.json").write_text("{}")
    with pytest.raises(DataError) as error:
        read_app(tmp_path / "app")
    assert (
        str(error.value) == f"{tmp_path}/app/{PACKAGE}/model.json is damaged. Make the app again."
    )


def test_a_file_of_several_people_is_no_client(make_task, tiny_data_set):
    with pytest.raises(DataError) as error:
        client.check_one_person(tiny_data_set)
    assert str(error.value) == (
        "the file has the check-ins of 6 people, a client is one person: give each their own file."
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content.pop("dense"),
        lambda content: content["sums"].pop("num_examples"),
        lambda content: content.update(
            rows=records._pack({"ids": np.zeros(1), "update": np.zeros(1)})
        ),
        lambda content: content.update(dense=records._pack({"bias": np.zeros(2, np.float64)})),
        lambda content: content.update(sums=content["rows"]),
    ],
    ids=["no weights", "no count", "rows of doubles", "weights of doubles", "arrays for sums"],
)
def test_what_is_no_update_is_a_value_error(spoil):
    content = records.pack_update(UPDATE)
    assert records.unpack_update(content, 7).client == 7
    spoil(content)
    with pytest.raises(ValueError):
        records.unpack_update(content, 7)


def test_scores_that_do_not_add_up_are_left_out(deploy):
    task, _, grid = deploy(prior="none")
    own = next(iter(grid._tasks.values()))
    content = client.answer(own, records.Ask(1, 0, False, 0, "val"), protection.init_weights(task))
    good = records.unpack_scores(content["val"])
    assert good.targets == len(own.clients.target_positions("val"))
    for key, value in (
        ("targets", -1),
        ("unknown_targets", good.targets + 1),
        ("model/acc@1", [float("nan"), 1.0]),
        ("model/acc@1", [1.0, good.targets + 1.0]),
        ("model/nonsense", [1.0, 1.0]),
    ):
        spoilt = {"val": copy.deepcopy(content["val"])}
        spoilt["val"][key] = value
        with pytest.raises(ValueError):
            records.unpack_scores(spoilt["val"])


def lie(**sums):
    """Change an update's sums."""

    def change(content):
        if "sums" in content:
            for name, value in sums.items():
                content["sums"][name] = value
        return content

    return change


def lie_about_loss(value):
    def change(content):
        if "val" in content:
            content["val"]["model/loss"] = [value, content["val"]["model/loss"][1]]
        return content

    return change


@pytest.mark.parametrize(
    "change, said",
    [
        (lie(num_examples=10**9), "claims 1,000,000,000 examples, and when it joined claimed"),
        (lie(num_examples=2**62), "claims 4,611,686,018,427,387,904 examples, and when it joined"),
        (lie(num_correct=1e9), "claims 1e+09 hits of"),
        (lie(loss_sum=-1e9), "claims a loss of -1e+09 over"),
        (lie(loss_sum=1e300), "claims a loss of 1e+300 over"),
        (lie_about_loss(-1e9), "claims model/loss -1e+09 of"),
        (lie_about_loss(1e300), "claims model/loss 1e+300 of"),
    ],
)
def test_a_liar_is_put_aside_by_name_and_the_others_go_on(deploy, tmp_path, caplog, change, said):
    """The result is, to the bit, that of the two honest clients without the third."""
    task, app, grid = deploy(prior="none", rounds=2)
    liar = f"client-{task.clients.client_ids[2]}"  # the last: the others have the same numbers
    honest = [name for name in grid.online if name != liar]
    # the weights of round r are trained from messages of round r; round 0 is validated with 1
    grid.spoil = {(liar, number): change for number in (1, 2, 3)}
    run = run_deployed(app, grid, tmp_path, clients=3)
    assert run.facts()["faults"] == {"false claim": 2}
    assert f"{liar},false claim" in (run.path / "faults.csv").read_text()
    assert said in caplog.text
    grid.spoil, grid.online = {}, honest
    (tmp_path / "state").rename(tmp_path / "state-3")
    alone = run_deployed(app, grid, tmp_path, clients=2)
    for which in ("best", "last"):
        (ours, at), (theirs, expected) = (one.load_weights(which) for one in (run, alone))
        assert at == expected
        for name, array in theirs.items():
            np.testing.assert_array_equal(ours[name], array, err_msg=name)


@pytest.mark.parametrize(
    "counts, said",
    [
        ({"checkins": 10**9, "examples": 10**9}, "1,000,000,000 check-ins, at most 10,000,000 are"),
        ({"examples": 10**9}, "targets of"),
        ({"examples": 2**62}, "targets of"),
        ({"val": 10**7}, "targets of"),
        ({"test": -5}, "it claims fewer than 0 targets"),
    ],
)
def test_claims_that_do_not_fit_each_other_do_not_join(deploy, tmp_path, caplog, counts, said):
    task, app, grid = deploy(prior="none", rounds=1)
    liar = f"client-{task.clients.client_ids[2]}"
    honest_hello = client.hello
    grid.hello = lambda name: (
        {
            "hello": type(honest_hello(grid._tasks[name])["hello"])(
                dict(honest_hello(grid._tasks[name])["hello"]) | (counts if name == liar else {})
            )
        }
    )
    run = run_deployed(app, grid, tmp_path, clients=2)
    assert len(run.facts()["members"]) == 2
    assert f"{liar} cannot take part: false claim: it claims" in caplog.text and said in caplog.text


def test_claims_that_fit_weigh_at_most_twice_the_median(deploy, tmp_path, caplog):
    """A client that says from the start that it has 2,000 examples moves no more than 2 others."""
    task, app, grid = deploy(prior="none", rounds=1)
    names = [f"client-{user}" for user in task.clients.client_ids]
    most = {"checkins": 10**7, "examples": 10**7}
    honest_hello = client.hello
    record = type(honest_hello(grid._tasks[names[0]])["hello"])
    grid.hello = lambda name: {
        "hello": record(
            dict(honest_hello(grid._tasks[name])["hello"]) | (most if name == names[2] else {})
        )
    }
    grid.spoil = {(names[2], 1): lie(num_examples=10**7)}
    run = run_deployed(app, grid, tmp_path, clients=3)
    honest = [int(honest_hello(grid._tasks[name])["hello"]["examples"]) for name in names]
    capped = 2 * sorted([honest[0], honest[1], 10**7])[1]
    assert f"{names[2]} counts as {capped} examples of 10000000" in caplog.text
    algorithm, state = start(task)
    engine = train_workflow.make_engine(task)
    updates = engine.local_updates(state.weights, np.arange(3), 1)
    weights = [honest[0], honest[1], capped]
    expected = sum(
        w * u.dense["recurrent"].astype(float) for w, u in zip(weights, updates, strict=True)
    ) / sum(weights)
    found, _ = run.load_weights("last")
    np.testing.assert_allclose(found["recurrent"] - state.weights["recurrent"], expected, atol=1e-6)


def test_all_clients_can_count_alike(deploy, tmp_path):
    task, app, grid = deploy(prior="none", rounds=1, client_weights="equal")
    run = run_deployed(app, grid, tmp_path)
    algorithm, state = start(task)
    updates = train_workflow.make_engine(task).local_updates(state.weights, np.arange(3), 1)
    expected = np.mean([u.dense["recurrent"] for u in updates], axis=0)
    found, _ = run.load_weights("last")
    np.testing.assert_allclose(found["recurrent"] - state.weights["recurrent"], expected, atol=1e-6)


def scores(targets, loss, hits=1):
    sums = {name: (float(hits), targets) for name in ("acc@1", "acc@5", "acc@10", "mrr", "ndcg")}
    return records.Scores(targets, 0, {"model": sums | {"loss": (loss * targets, targets)}})


def test_no_client_moves_the_validation_far():
    # median loss 2: at most 4, at least 1; median 10 targets: at most 20 count
    found = {0: scores(10, 2.0), 1: scores(8, 1.9), 2: scores(1000, 500.0, hits=500)}
    bounded, whose = claims.bounded(found)
    assert bounded[0] == found[0] and bounded[1] == found[1]
    assert bounded[2].targets == 20
    assert bounded[2].sums["model"]["loss"] == (80.0, 20)
    assert bounded[2].sums["model"]["acc@1"] == (10.0, 20)
    assert whose == {2: "1,000 targets count as 20, a loss of 500 counts as 4"}
    low, _ = claims.bounded({0: scores(10, 2.0), 1: scores(8, 2.2), 2: scores(9, 0.0)})
    assert low[2].sums["model"]["loss"] == (9.0, 9)
    two = {0: scores(10, 2.0), 1: scores(10, 99.0)}
    assert claims.bounded(two) == (two, {})
    honest = {0: scores(10, 2.0), 1: scores(20, 1.2), 2: scores(7, 3.9)}
    assert claims.bounded(honest) == (honest, {})


def test_a_certificate_is_renewed_by_the_same_authority(tmp_path):
    from cryptography import x509

    ends = keys.make_certificate(tmp_path, ["fed.example.org", "10.0.0.1"], days=2)
    assert keys.check_certificate(tmp_path) == ends
    authority = (tmp_path / "ca.crt").read_bytes()
    before = x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes())
    names = before.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fed.example.org", "localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == [
        "10.0.0.1",
        "127.0.0.1",
        "::1",
    ]
    later = keys.make_certificate(tmp_path, ["fed.example.org"], days=30)
    assert later > ends
    assert (tmp_path / "ca.crt").read_bytes() == authority
    after = x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes())
    after.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    for name, mode in (("ca.key", 0o600), ("server.key", 0o600), ("ca.crt", 0o644)):
        assert (tmp_path / name).stat().st_mode & 0o777 == mode


def test_a_certificate_that_has_ended_says_how_to_renew_it(tmp_path):
    ends = keys.make_certificate(tmp_path, ["localhost"], days=1)
    assert keys.check_certificate(tmp_path) == keys.check_certificate(tmp_path, ends) == ends
    with pytest.raises(ConfigError) as error:
        keys.check_certificate(tmp_path, ends + datetime.timedelta(seconds=1))
    assert str(error.value) == (
        f"{tmp_path}/server.crt ended on {ends:%Y-%m-%d}. Renew it with: fedgru deploy certificate "
        f"{tmp_path} --host NAME, for each name that clients use."
    )


def test_a_key_is_made_once_and_is_its_owners_alone(tmp_path):
    public = keys.make_key(tmp_path / "ann")
    assert public == tmp_path / "ann.pub"
    assert (tmp_path / "ann").stat().st_mode & 0o777 == 0o600
    assert keys.public_keys(tmp_path) == {"ann": public}
    with pytest.raises(ConfigError) as error:
        keys.make_key(tmp_path / "ann")
    assert str(error.value) == (
        f"{tmp_path}/ann exists already: a client keeps its key. Choose another name."
    )


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (
            "server nowhere --clients 3",
            1,
            "Error: nowhere is not an app of fedgru. Make one with: fedgru deploy app FOLDER\n",
        ),
        (
            "client --data mine.txt --server localhost:9092",
            2,
            "Error: --key is missing. Make one with: fedgru deploy key NAME\n",
        ),
        (
            "client --data mine.txt --server localhost:9092 --key ann",
            1,
            "Error: mine.txt does not exist.\n",
        ),
    ],
)
def test_commands_say_what_is_missing(tmp_path, monkeypatch, line, code, message):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["deploy", *line.split()], prog_name="fedgru")
    assert (result.exit_code, result.stderr.split("\n\n")[-1]) == (code, message)


def test_the_client_does_not_import_tensorflow():
    """It would cost every message twenty seconds."""
    code = "import sys, fedgru.deploy.client; print({'tensorflow', 'keras'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_when_all_clients_fail_the_run_ends_and_can_go_on(deploy, tmp_path):
    task, app, grid = deploy(prior="none")
    names = [f"client-{user}" for user in task.clients.client_ids]
    grid.spoil = {(name, 2): lambda _: records.pack_error(OSError("/home/ann/x")) for name in names}
    with pytest.raises(TrainingError) as error:
        run_deployed(app, grid, tmp_path)
    assert str(error.value).startswith(
        f"all connected clients failed ({', '.join(names)}): nobody scored round 1. The reason is "
        "in their own client.log. When that is fixed, resume with the same command."
    )
    grid.spoil = {}
    assert run_deployed(app, grid, tmp_path).facts()["rounds"] == 3


def test_a_deployed_run_says_why_it_cannot_be_scored_again(deploy, tmp_path):
    _, app, grid = deploy(prior="none", rounds=1)
    run = run_deployed(app, grid, tmp_path)
    with pytest.raises(RunError) as error:
        reopen_workflow.reopen_task(run, tmp_path)
    assert str(error.value) == (
        f"{run.path} is of fedgru deploy: its check-ins are with the clients. Show the scores that "
        f"they sent with: fedgru runs show {run.path}"
    )
    with pytest.raises(RunError) as error:
        run.predictions()
    assert str(error.value) == (
        f"{run.path} has no predictions.parquet: its clients sent only sums."
    )
    with pytest.raises(RunError) as error:
        read_runs([run], tmp_path)
    assert str(error.value) == (
        f"{run.path} is of fedgru deploy: its clients sent only sums, so there are no predictions "
        f"to report. Show the scores with: fedgru runs show {run.path}"
    )


def test_secure_aggregation_with_clipping_and_noise(deploy, tmp_path, caplog):
    privacy = Privacy(secure=True, clip=0.5, noise=1e-4)
    task, app, grid = deploy(privacy, prior="none", rounds=1, mean="clients")
    caplog.set_level("INFO")
    run = run_deployed(app, grid, tmp_path)
    assert (
        "updates are clipped to norm 0.5 and summed securely, noise in their sum is 0.0001 times "
        "that"
    ) in [one.getMessage() for one in caplog.records]
    algorithm, state = start(task)
    engine = train_workflow.make_engine(task)
    total = algorithm.start(state.weights)
    for update in engine.local_updates(state.weights, np.arange(3), 1):
        clipped = protect(update, 0, Privacy(clip=0.5), 3, None)
        assert np.linalg.norm(np.concatenate([a.ravel() for a in clipped.dense.values()])) < 0.5
        total.add(replace(clipped, num_examples=1))  # everybody counts once
    expected = algorithm.apply(state, total).weights
    found, _ = run.load_weights("last")
    for name, array in expected.items():
        # noise of 1e-4 * 0.5 in the sum, a third of that in the mean; and the rounding
        np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-4, err_msg=name)
    moved = found["rows"] - state.weights["rows"]
    assert np.count_nonzero(moved) > 0.9 * moved.size  # rows that nobody owns have noise, too


def test_noise_is_never_cut_off_by_the_protocol():
    # 1 + 8 * 10 / sqrt(4): beyond eight standard deviations of a client's share
    assert secure.clipping_range(Privacy(secure=True, clip=1.0, noise=10.0), 4) == 41.0
    assert secure.clipping_range(Privacy(secure=True), 4) == 3.0
    assert secure.clipping_range(Privacy(secure=True, clip=7.0), 4) == 7.0


def test_an_update_that_does_not_fit_the_protocol_stays_with_its_client(deploy, tmp_path, caplog):
    task, app, grid = deploy(Privacy(secure=True), prior="none", rounds=1)
    name = f"client-{task.clients.client_ids[0]}"
    grid.stretch[name] = 1e4
    caplog.set_level("INFO")
    run = run_deployed(app, grid, tmp_path)
    assert (run.path / "faults.csv").read_text().splitlines()[1:] == [f"1,{name},dropped out"]
    assert grid.errors == ["the update is kept here: a coordinate is beyond 3."]


def test_a_log_is_followed_from_the_call_on(tmp_path):
    log = tmp_path / "server.log"
    for before in ("", "old\n"):
        log.write_text(before)
        lines = processes.follow(log)
        with open(log, "a") as stream:
            stream.write("resumed\nann jo")
        assert next(lines) == ["resumed"]  # written before anybody looked
        with open(log, "a") as stream:
            stream.write("ined\n")
        assert [next(lines), next(lines)] == [["ann joined"], []]
    assert next(processes.follow(tmp_path / "none.log")) == []
