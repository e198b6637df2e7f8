"""What a client demands: a server that lies is refused by name, and the ledger outlives a kill."""

import json
import math
import signal
import subprocess
import sys
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

pytest.importorskip("flwr", reason="needs the environment that `make dist` creates (Flower)")

from fedgru.agnostic import protection
from fedgru.core.errors import DataError
from fedgru.data import datasets
from fedgru.deploy import terms
from fedgru.deploy.app import read_app, write_app
from fedgru.deploy.client import DATA_SET, LOG
from fedgru.deploy.privacy import Privacy
from fedgru.deploy.system_noise import SystemNoise, on_grid
from fedgru.deploy.terms import Ledger, Refused, Sent, Terms, read_ledger, spend
from fedgru.privacy.accounting import Releases, epsilon
from fedgru.storage.files import write_arrays
from tests.deploy.test_deploy import only

NOISY = Privacy(clip=1.0, noise=2.0)
# A process that answers messages as Flower's does, a JSON line of asks for each.
CLIENT = """
import json, sys
import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
TaskIdentity._run_id = TaskIdentity._task_id = TaskIdentity._node_id = 1
from fedgru.deploy import client, records
app, folder, weights = sys.argv[1:]
weights = dict(np.load(weights))
works = client.make_client_app(app)
for line in sys.stdin:
    asked = json.loads(line)
    kind = "train" if asked else "query"
    content = records.pack_ask(records.Ask(**asked), weights) if asked else RecordDict()
    message = Message(content, 1, kind, ttl=300.0)
    message.metadata.__dict__["_message_id"] = "message"
    context = Context(1, 1, {"folder": folder}, RecordDict(), {})
    reply = works(message, context)
    said = reply.content["error"]["kind"] if "error" in reply.content else sorted(reply.content)
    print(json.dumps(said), flush=True)
"""
# A process that spends, and says so each time.
SPENDING = """
import sys
from pathlib import Path
from fedgru.deploy.app import read_app
from fedgru.deploy.terms import spend
app = read_app(sys.argv[1])
for number in range(1, 10000):
    spend(Path(sys.argv[2]), app, number, 3)
    print(number, flush=True)
"""


@pytest.fixture
def joined(make_task, tmp_path):
    """A function of (Privacy, Terms, settings): an app, and a client's folder with its data."""

    def make(privacy=NOISY, demanded=Terms(), **settings):  # noqa: B008  # frozen
        given = {"users": 3, "rounds": 3, "patience": 0, "mean": "clients", "prior": "none"}
        task = make_task(**given | settings)
        write_app(tmp_path / "app", task, privacy)
        folder = tmp_path / "client"
        folder.mkdir()
        person = only(task.check_ins, task.clients.client_ids[0])
        about = {
            "source": {"kind": "made-up city"},
            "settings": {},
            "categories": {"scheme": "coarse", "sha256": None},
        }
        datasets.save_data_set(DATA_SET, folder, person, **about)
        demanded.write(folder)
        write_arrays(tmp_path / "weights.npz", protection.init_weights(task))
        return SimpleNamespace(folder=folder, path=tmp_path / "app", app=read_app(tmp_path / "app"))

    return make


def asked(round_num=1, cohort=3, train=True, score=""):
    return {
        "round_num": round_num,
        "client": 0,
        "train": train,
        "cohort": cohort,
        "score": score,
    }


def process(joined, asks):
    """Let a real process answer; return what the server receives of each, and client.log."""
    words = [sys.executable, "-c", CLIENT, joined.path, joined.folder]
    words += [joined.path.parent / "weights.npz"]
    lines = "".join(json.dumps(ask) + "\n" for ask in asks)
    done = subprocess.run(words, input=lines, text=True, capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()], (
        joined.folder / LOG
    ).read_text()


def test_a_server_that_lies_is_refused_by_a_real_process(joined):
    here = joined(demanded=Terms(min_cohort=2, max_cohort=10))
    lies = [asked(cohort=10**9), asked(cohort=1), asked(round_num=4), asked(round_num=0)]
    replies, log = process(here, [None, asked(), *lies, asked(round_num=2)])
    update = ["dense", "rows", "sums"]
    assert replies == [["hello"], update, *["Refused"] * 4, update], log
    for why in (
        "the server says that the round has 1000000000 clients, this client believes up to "
        "--max-cohort 10: its share of the noise would be too small",
        "the round has 1 clients, this client wants --min-cohort 2",
        "the server asks for round 4, the app has rounds 1 to 3",
        "the server asks for round 0, the app has rounds 1 to 3",
    ):
        assert f"ERROR refused: {why}\n" in log
    # only what was sent was spent, each with the client's own share of the noise
    sent = read_ledger(here.folder).sent
    assert [(one.round_num, one.cohort) for one in sent] == [(1, 3), (2, 3)]
    assert [one.noise for one in sent] == pytest.approx([2 / math.sqrt(3)] * 2)


@pytest.mark.parametrize(
    ("privacy", "demanded", "why"),
    [
        (Privacy(), Terms(min_noise=1.0), "the app has no noise, this client wants --min-noise 1"),
        (NOISY, Terms(min_noise=2.5), "the app has noise 2, this client wants --min-noise 2.5"),
        (Privacy(), Terms(max_clip=1.0), "the app does not clip updates, this client takes part"),
        (NOISY, Terms(max_clip=0.5), "the app clips at 1, this client takes part up to --max-clip"),
        (
            Privacy(),
            Terms(max_epsilon=100.0),
            "all that this client has sent would have epsilon inf, more than --max-epsilon 100",
        ),
        (NOISY, Terms(max_epsilon=1.0), "epsilon 1.993, more than --max-epsilon 1"),
    ],
)
def test_an_app_beyond_the_terms_is_refused_when_it_asks_who_is_there(
    joined, privacy, demanded, why
):
    here = joined(privacy, demanded)
    with pytest.raises(Refused, match=why):
        terms.check_app(here.folder, here.app)
    with pytest.raises(Refused):
        spend(here.folder, here.app, 1, 1)
    assert read_ledger(here.folder) == Ledger()


def test_epsilon_is_of_all_that_was_ever_sent(joined):
    here = joined(demanded=Terms(max_epsilon=8.0, runs=9))
    for _ in range(3):
        spend(here.folder, here.app, 1, 3)
    # three updates, each with noise 2 / sqrt(3), are one with noise 2 / 3
    assert read_ledger(here.folder).epsilon() == pytest.approx(epsilon(Releases(2 / 3), 1))
    with pytest.raises(Refused, match="would have epsilon 8[.]"):
        for _ in range(9):
            spend(here.folder, here.app, 1, 3)


def test_with_secure_aggregation_an_update_costs_what_the_sum_does(joined):
    here = joined(Privacy(secure=True, clip=1.0, noise=2.0))
    spend(here.folder, here.app, 1, 3)
    assert read_ledger(here.folder).epsilon() == pytest.approx(epsilon(Releases(2.0), 1))


def test_one_run_is_one_run(joined):
    here = joined()
    for number in (1, 2, 3, 3, 2, 3):  # a server that was killed asks again
        spend(here.folder, here.app, number, 3)
    with pytest.raises(Refused, match="sent 6 updates to this app of 3 rounds: that was --runs 1"):
        spend(here.folder, here.app, 1, 3)
    Terms(runs=2).write(here.folder)
    spend(here.folder, here.app, 1, 3)


def test_the_ledger_survives_a_kill(joined):
    here = joined(rounds=9999)
    said = 0
    for stop in (3, 5, 8):
        words = [sys.executable, "-c", SPENDING, here.path, here.folder]
        running = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        for _ in range(stop):
            assert running.stdout.readline()
            said += 1
        running.send_signal(signal.SIGKILL)
        said += len(running.stdout.readlines())
        running.wait()
        # what was said was spent; at most one more, whose update was never made
        found = len(read_ledger(here.folder).sent)
        assert said <= found <= said + 1
        said = found


def test_a_damaged_ledger_is_not_taken_for_empty(joined):
    here = joined()
    (here.folder / terms.LEDGER).write_text('{"sent": [{"time"')
    with pytest.raises(DataError, match="is damaged, so nobody knows what has been sent"):
        spend(here.folder, here.app, 1, 3)
    (here.folder / terms.LEDGER).write_text('{"sent": [{"what": 1}]}')
    with pytest.raises(DataError, match="is damaged"):
        terms.check_app(here.folder, here.app)


def test_the_sum_of_a_ledger():
    sent = tuple(Sent("", "app", r, 1, noise) for r, noise in enumerate((3.0, 6.0, 6.0), 1))
    # 1/9 + 1/36 + 1/36 = 1/6
    assert Ledger(sent).epsilon() == pytest.approx(epsilon(Releases(math.sqrt(6)), 1))
    assert Ledger((*sent, Sent("", "app", 4, 1, None))).epsilon() == math.inf
    assert asdict(Terms())["max_cohort"] == 100


def test_noise_of_the_system_is_gaussian_and_never_the_same():
    drawn = SystemNoise().standard_normal((100_001,))
    assert stats.kstest(drawn, "norm").pvalue > 1e-6
    assert drawn.std() == pytest.approx(1.0, abs=0.012)
    assert np.corrcoef(drawn[:50_000], drawn[50_001:100_001])[0, 1] == pytest.approx(0, abs=0.03)
    assert not set(drawn) & set(SystemNoise().standard_normal((1000,)))


def test_noised_numbers_are_on_a_grid_that_does_not_depend_on_them():
    for value in (0.0, 0.1234567):
        noised = on_grid(value + 0.7 * SystemNoise().standard_normal((1000,)), 0.7)
        assert (noised.astype(np.float32) * 8192 % 1 == 0).all()  # 2^-1 * 2^-12
        assert noised.mean() == pytest.approx(value, abs=0.1)
