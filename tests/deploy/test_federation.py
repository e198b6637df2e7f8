"""A federation as it is: Flower's SuperLink and three SuperNodes, TLS, keys, each its own file.

Four runs of processes that ask each other every few seconds: about nine minutes, most of it spent
waiting. That cannot be had for less: Flower takes a killed node for alive for a minute.
"""

import contextlib
import gzip
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs the environment that `make dist` creates (Flower)")

from fedgru.data import datasets, synthetic
from fedgru.deploy import bundle, processes
from fedgru.runs.kinds import DEPLOYED
from fedgru.runs.listing import all_runs, open_run
from tests.conftest import SHARED_NYC

ROOT = Path(__file__).parents[2]
NAMES = ("ann", "ben", "cem")
SETTINGS = "--hidden-dim 8 --prior backoff --patience 0"
UNDISTURBED, DISTURBED, SECURE, HANGING = 5, 12, 2, 5  # rounds
CLIP = 0.05  # shorter than the updates of this model are
NOISY_CLIP, NOISE = 0.1, 0.5
TIMEOUT_S = 35
# The client with the most check-ins is number 0: cem. In round 2 it sends NaN.
SHAKY = """
from fedgru.deploy import client

answer = client.answer


def shaky(task, ask, weights, privacy):
    reply = answer(task, ask, weights, privacy)
    if ask.client == 0 and ask.round_num == 2 and ask.train:
        reply["sums"]["loss_sum"] = float("nan")
    return reply


client.answer = shaky
"""
# And here it does not come back from round 2; ann, number 2, says when she is in it.
STUCK = """
import time

from fedgru.deploy import client

answer = client.answer


def stuck(task, ask, weights, privacy):
    if ask.round_num == 2 and ask.train and ask.client != 1:
        client.logger.info("in round 2")
        time.sleep(100000 if ask.client == 0 else 3)
    return answer(task, ask, weights, privacy)


client.answer = stuck
"""
# What the server receives, a line each: examples, rows, coordinates and length of an update.
SEEN = """
import math
import os

from fedgru.deploy import records, server

unpack_update = records.unpack_update


def seen(content, client):
    update = unpack_update(content, client)
    arrays = [update.row_update, *update.dense.values()]
    length = math.sqrt(sum(float((a.astype("f8") ** 2).sum()) for a in arrays))
    size = sum(a.size for a in arrays)
    with open(f"{os.environ[server.STATE]}/seen.txt", "a") as file:
        file.write(f"{update.num_examples} {len(update.row_ids)} {size} {length}\\n")
    return update


records.unpack_update = seen
"""


def lines_of_three_people():
    """Return three people's check-ins as lines of TSMC2014: of New York, or of a made-up city."""
    if SHARED_NYC.exists():
        by_user = {}
        with gzip.open(SHARED_NYC, "rt", encoding="utf-8") as file:
            for line in file:
                by_user.setdefault(line.split("\t")[0], []).append(line.rstrip("\n"))
        ordered = sorted(by_user, key=lambda user: -len(by_user[user]))
        return [by_user[ordered[place]] for place in (300, 150, 60)]
    city = synthetic.make_city(synthetic.CityConfig(num_users=3, checkins_per_user=150, seed=3))
    check_ins, lines = city.check_ins, [[], [], []]
    for row in range(len(check_ins)):
        texts = [
            column.values[column.codes[row]]
            for column in (check_ins.user, check_ins.venue, check_ins.raw_category)
        ]
        if check_ins.user.codes[row] > 0 and row % (1 + check_ins.user.codes[row]) == 0:
            continue  # of different length each
        when = time.strftime("%a %b %d %H:%M:%S +0000 %Y", time.gmtime(check_ins.time_s[row]))
        cells = [*texts, texts[2], check_ins.lat_deg[row], check_ins.lon_deg[row]]
        cells += [check_ins.offset_min[row], when]
        lines[check_ins.user.codes[row]].append("\t".join(map(str, cells)))
    return sorted(lines, key=len)


class Place:
    """A folder in which commands are typed, and the programs that run there."""

    def __init__(self, folder):
        self.folder, self.port, self._running = folder, processes.free_port(), {}
        self._stopped = []
        self.allowed = ""  # apps beside the first one

    def fedgru(self, line, expect=0):
        """Run a command to its end; return its stdout and stderr."""
        done = subprocess.run(
            self._command(line), cwd=self.folder, env=self._env(), capture_output=True, text=True
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout, done.stderr

    def start(self, name, line):
        """Run a command until it ends or is killed; what it says goes to NAME.err."""
        with open(self.folder / f"{name}.err", "ab") as err:
            self._running[name] = subprocess.Popen(
                self._command(line), cwd=self.folder, env=self._env(), stdout=err, stderr=err
            )

    def client(self, name):
        self.start(
            name,
            f"client --data {name}.txt --categories raw --server localhost:{self.port} --record "
            f"--ca certificates/ca.crt --key {name} --folder own-{name} {self.allowed}",
        )

    def server(self, rounds_of, options=""):
        self.start(
            "server", f"server {rounds_of} --clients 3 --port {self.port} --folder state {options}"
        )

    def kill(self, name):
        self._running.pop(name).kill()

    def wait(self, name, timeout_s=900):
        code = self._running[name].wait(timeout_s)  # where it does not end, `stop_all` ends it
        del self._running[name]
        assert code == 0, self.said(name)

    def said(self, name):
        return (self.folder / f"{name}.err").read_text()

    def wait_for(self, pattern, file, times=1, timeout_s=300):
        def is_there():
            return len(re.findall(pattern, file.read_text() if file.exists() else "")) >= times

        assert processes.wait_until(is_there, timeout_s), (
            f"{pattern} is not in {file}:\n{file.read_text()[-3000:]}\n{self.said('server')}"
        )

    def stop_short(self, pid):
        """Let a process hang; it goes on by `go_on`."""
        os.kill(pid, signal.SIGSTOP)
        self._stopped.append(pid)

    def go_on(self, pid):
        self._stopped.remove(pid)
        os.kill(pid, signal.SIGCONT)

    def programs_of(self, name, program):
        """Return the process ids of a program of Flower's that a client runs now."""
        home = f"FLWR_HOME={self.folder / f'own-{name}'}/flower".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                is_own = home in (entry / "environ").read_bytes().split(b"\0")
                if is_own and b"fedgru.deploy.flower" in words and program.encode() in words:
                    found.append(int(entry.name))
        return found

    def stop_all(self):
        while self._stopped:
            with contextlib.suppress(ProcessLookupError):
                self.go_on(self._stopped[0])
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        for process in self._running.values():
            process.wait(30)

    def left_running(self):
        """Command lines of all processes that have to do with this folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                folder = os.readlink(entry / "cwd")
            except OSError:
                continue
            if str(self.folder) in command + folder and entry.name != str(os.getpid()):
                found.append(command)
        return found

    def _command(self, line):
        words = shlex.split(line)
        deploys = ("app", "certificate", "key", "server", "client")
        group = ["deploy"] if words[0] in deploys else []
        return [sys.executable, "-m", "fedgru", *group, *words]

    def _env(self):
        return os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three people's files, keys, a certificate, and two apps; at the end nothing is left."""
    place = Place(tmp_path_factory.mktemp("federation"))
    people = lines_of_three_people()
    for name, lines in zip(NAMES, people, strict=True):
        (place.folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    together = "\n".join(line for lines in people for line in lines)
    (place.folder / "three.txt").write_text(together + "\n", encoding="utf-8")
    place.fedgru("data import tsmc2014 three.txt --name three --categories raw")
    place.fedgru(f"app steady --data three {SETTINGS} --rounds {UNDISTURBED}")
    place.fedgru(f"app shaky --data three {SETTINGS} --rounds {DISTURBED} --clip {CLIP}")
    place.fedgru(f"app secret --data three {SETTINGS} --rounds {SECURE} --secure")
    place.fedgru(
        f"app stuck --data three {SETTINGS} --rounds {HANGING} --mean clients --clip {NOISY_CLIP} "
        f"--noise {NOISE}"
    )
    for app, client_does in {"shaky": SHAKY, "stuck": STUCK}.items():
        for end, does in {"client": client_does, "server": SEEN}.items():
            with open(place.folder / f"{app}/fedgru_app/{end}_app.py", "a") as file:
                file.write(does)
    # with code of their own, or other settings than the app of the first run
    apps = [bundle.sha256_of_folder(place.folder / app) for app in ("shaky", "stuck", "secret")]
    place.allowed = " ".join(f"--allow-app {sha256}" for sha256 in apps)
    place.fedgru("certificate certificates --host localhost")
    place.fedgru("certificate others --host localhost")
    for name in (*NAMES, "stranger"):
        place.fedgru(f"key {name}")
    (place.folder / "keys").mkdir()
    for name in NAMES:
        (place.folder / f"keys/{name}.pub").write_bytes((place.folder / f"{name}.pub").read_bytes())
    yield place
    place.stop_all()
    assert processes.wait_until(lambda: not place.left_running(), 15), place.left_running()


@pytest.fixture(scope="module")
def undisturbed(place):
    """A run that nothing happens to, and what was said to those who were refused before it."""
    place.server("steady")
    place.wait_for("waiting for clients: 0 of 3", place.folder / "server.err")
    place.client("ann")
    given = f"client --data ben.txt --categories raw --server localhost:{place.port} --folder own-x"
    refusals = {
        "a stranger": f"{given} --ca certificates/ca.crt --key stranger --patience 0",
        "another authority": f"{given} --ca others/ca.crt --key ben",
        "plaintext": f"{given} --insecure",
    }
    refused = {who: place.fedgru(line, expect=1)[1] for who, line in refusals.items()}
    refused |= _refused_by_flower_itself(place)
    for name in NAMES[1:]:
        place.client(name)
    place.wait("server")
    return open_run(place.folder / "log", "run"), refused


def _refused_by_flower_itself(place):
    """What Flower's own SuperNode says where fedgru's check before it is left out."""
    (place.folder / "flower-own").mkdir()
    env = processes.environment(place.folder / "flower-own", PYTHONPATH=str(ROOT))
    common = [
        "--superlink",
        f"localhost:{place.port}",
        "--max-retries",
        "1",
        "--max-wait-time",
        "3",
    ]
    key = ["--auth-supernode-private-key", "ben"]
    found = {}
    for who, options in {
        "Flower: another authority": ["--root-certificates", "others/ca.crt", *key],
        "Flower: plaintext": ["--insecure"],
        "Flower: without a key": ["--root-certificates", "certificates/ca.crt"],
    }.items():
        command = [sys.executable, "-m", "fedgru.deploy.flower", "flower-supernode"]
        command += [*common, *options, "--port", str(processes.free_port())]
        log = place.folder / "own-supernode.log"
        with open(log, "wb") as said:
            supernode = subprocess.Popen(
                command, cwd=place.folder, env=env, stdout=said, stderr=said, start_new_session=True
            )
        try:
            found[who] = (supernode.wait(60), log.read_text())
        finally:
            processes.stop(supernode)
    return found


def test_the_result_is_that_of_the_jax_engine(place, undisturbed):
    run, _ = undisturbed
    place.fedgru(
        f"train --data three {SETTINGS} --rounds {UNDISTURBED} --log-dir simulated --no-eval"
    )
    (simulated,) = all_runs(place.folder / "simulated")
    for which in ("best", "last"):
        (ours, round_num), (expected, at) = (r.load_weights(which) for r in (run, simulated))
        assert round_num == at
        assert set(ours) == set(expected)
        for name, array in expected.items():
            np.testing.assert_allclose(ours[name], array, rtol=0, atol=1e-4, err_msg=name)
    rows = [np.genfromtxt(r.path / "metrics.csv", delimiter=",")[2:] for r in (run, simulated)]
    assert rows[0].shape[0] == UNDISTURBED
    np.testing.assert_allclose(*rows, atol=1e-4)


def test_the_test_report_stands_beside_counting(place, undisturbed):
    run, _ = undisturbed
    report = run.test()
    people = [place.folder / f"{name}.txt" for name in NAMES]
    checkins = [len(file.read_text().splitlines()) for file in people]
    # the last fifth of each person's check-ins, rounded up
    assert report["test/targets"] == sum(-(-n // 5) for n in checkins)
    assert report["test/clients"] == 3
    assert {"running_backoff", "frequency", "last"} <= set(report["baselines"])
    assert run.kind is DEPLOYED
    assert [line.split(",")[0] for line in (run.path / "clients.csv").read_text().split()] == [
        "client_id",
        "cem",
        "ben",
        "ann",
    ]


def test_a_stranger_is_refused(undisturbed):
    _, refused = undisturbed
    assert (
        "refuses this client. Has its operator registered stranger.pub?" in (refused["a stranger"])
    )
    # the doors answer with 401 before Flower looks at it, upon which its node ends itself
    _, said = refused["Flower: without a key"]
    assert "SuperNode ID: " not in said


def test_a_server_with_another_certificate_is_refused(place, undisturbed):
    _, refused = undisturbed
    assert refused["another authority"].splitlines()[-1] == (
        f"Error: the certificate of localhost:{place.port} is not valid for others/ca.crt: unable "
        "to get local issuer certificate. Ask the operator for the right ca.crt, and for a "
        "certificate with the name that you use."
    )
    code, said = refused["Flower: another authority"]
    assert code == 1
    assert "CERTIFICATE_VERIFY_FAILED" in said or "SSL/TLS handshake error" in said


def test_plaintext_is_refused(place, undisturbed):
    _, refused = undisturbed
    assert refused["plaintext"].splitlines()[-1] == (
        f"Error: localhost:{place.port} wants TLS: leave --insecure out and give --ca."
    )
    assert refused["Flower: plaintext"][0] == 1


def test_no_check_in_is_in_what_was_sent(place, undisturbed):
    """Every byte that a client's app gave to Flower, searched for the check-ins of its file."""
    for name in NAMES:
        sent = [file.read_bytes() for file in sorted((place.folder / f"own-{name}/sent").iterdir())]
        # hello, validation with the next round's training five times, validation alone, test
        assert len(sent) == 1 + UNDISTURBED + 2
        everything = b"".join(sent)
        data_set = datasets.open_data_set("own", place.folder / f"own-{name}")
        planted = _planted(place.folder / f"{name}.txt", data_set.check_ins)
        assert len(planted) > 100
        assert [what for what in planted if what in everything] == []
        # the search finds what is there: names of the model's weights
        assert b"head_kernel" in everything


def _planted(file, check_ins):
    """What a check-in could look like in a stream of bytes, as text and as numbers of a machine."""
    planted = set()
    for line in file.read_text(encoding="utf-8").splitlines():
        user, venue, raw_category, category, lat, lon, _, when = line.split("\t")
        texts = [venue, raw_category, category, lat, lon, when, user if len(user) > 4 else ""]
        planted |= {text.encode() for text in texts if len(text) > 4}
    for values in (check_ins.lat_deg, check_ins.lon_deg):
        known = values[np.isfinite(values)]
        planted |= {one.tobytes() for one in known} | {one.tobytes()[::-1] for one in known}
    for seconds in check_ins.time_s:
        planted |= {seconds.tobytes(), seconds.tobytes()[::-1], str(seconds).encode()}
        planted.add(np.float64(seconds).tobytes())
    return planted


def test_an_error_tells_the_server_no_more_than_its_kind(place, undisturbed):
    from fedgru.deploy import records

    error = ValueError("mine.txt, row 3: latitude is 140.7")
    assert dict(records.pack_error(error)["error"]) == {"kind": "ValueError"}


@pytest.fixture(scope="module")
def disturbed(place, undisturbed):
    """A run in which a client sends NaN, one is killed in a round, and the server between two."""
    server, ben = place.folder / "server.err", place.folder / "own-ben/supernode.log"
    server.unlink()
    seconds = {}
    place.server("shaky", "--timeout 90")
    place.wait_for("round 2: loss", server)
    received = len(re.findall("Received successfully", ben.read_text()))
    place.wait_for("Received successfully", ben, times=received + 1)
    killed_at = time.monotonic()
    place.kill("ben")
    place.wait_for("ben: did not answer|ben: went away", server)
    seconds["until the round goes on without a killed client"] = time.monotonic() - killed_at
    place.client("ben")
    place.wait_for("round 4: loss", server)
    stopped_at = time.monotonic()
    place.kill("server")
    place.server("shaky", "--timeout 90")
    place.wait_for("resumed after round", server)
    place.wait_for("round 5: loss", server)
    seconds["from a killed server to its next round"] = time.monotonic() - stopped_at
    place.wait_for("connected to", place.folder / "ben.err", times=2)
    seconds["until a killed client is let in again"] = time.monotonic() - killed_at
    place.wait("server")
    (place.folder / "state/seen.txt").rename(place.folder / "state/seen-shaky.txt")
    (place.folder / "seconds.txt").write_text(repr(seconds))
    return open_run(place.folder / "log"), server.read_text()


def test_a_run_survives_what_happens_to_it(disturbed):
    run, said = disturbed
    rows = np.genfromtxt(run.path / "metrics.csv", delimiter=",", names=True, deletechars="")
    assert rows["round"].tolist() == list(range(DISTURBED + 1))
    facts = run.facts()
    assert (facts["status"], facts["rounds"]) == ("done", DISTURBED)
    assert [entry["after_round"] for entry in facts["resumed"]] in ([3], [4])  # what was written
    best = int(np.nanargmin(rows["val/loss/micro"]))
    assert facts["best_round"] == best
    assert run.load_weights("best")[1] == best
    assert run.test()["round"] == best


def test_whoever_was_missing_is_named(disturbed):
    run, said = disturbed
    faults = (run.path / "faults.csv").read_text().splitlines()
    assert "2,cem,not finite" in faults
    out = [int(line.split(",")[0]) for line in faults if line.endswith("ben,dropped out")]
    assert out and min(out) in (3, 4, 5)
    assert max(out) < DISTURBED  # let in again
    assert set(faults[1:]) == {"2,cem,not finite", *(f"{n},ben,dropped out" for n in out)}


def test_what_the_server_receives_is_no_longer_than_the_clip(place, disturbed):
    _, said = disturbed
    assert f"updates are clipped to norm {CLIP}\n" in said
    lengths = np.loadtxt(place.folder / "state/seen-shaky.txt")[:, 3]
    assert len(lengths) >= 2 * DISTURBED  # of at least two clients in each round
    np.testing.assert_allclose(lengths, CLIP, rtol=1e-5)  # each was longer before


def test_no_program_is_left_at_work_for_a_run_that_has_ended(place, disturbed):
    """The server may have been killed while a client was sent its message."""

    def left():
        return [pid for name in NAMES for pid in place.programs_of(name, "flwr-clientapp")]

    assert processes.wait_until(lambda: not left(), 60), left()


@pytest.fixture(scope="module")
def hanging(place, undisturbed):
    """A run in which a client's code hangs, another's process is stopped, and another's node."""
    server = place.folder / "server.err"
    server.unlink()
    node_log = place.folder / "own-ben/supernode.log"
    earlier = node_log.read_text().count("round 4]")
    before = {name: len(place.said(name)) for name in NAMES}
    place.server("stuck", f"--timeout {TIMEOUT_S}")
    # round 2: cem's code does not come back, ann's program is stopped; ben's answer is enough
    place.wait_for("in round 2", place.folder / "ann.err")
    (ann,) = place.programs_of("ann", "flwr-clientapp")
    place.stop_short(ann)
    hang_at = time.monotonic()
    for name in ("cem", "ann"):
        place.wait_for(f"round 2, {name}: ", server)
    place.wait_for("ERROR not done in", place.folder / "cem.err", timeout_s=60)
    time.sleep(max(0.0, hang_at + TIMEOUT_S + 1.0 - time.monotonic()))  # ann's time is over, too
    place.go_on(ann)
    # both are there again in round 3, which has begun; in round 4 ben's node is stopped
    place.wait_for("round 4\\]", node_log, times=earlier + 1)
    (ben,) = place.programs_of("ben", "flower-supernode")
    place.stop_short(ben)
    place.wait_for("round 4, ben: ", server)
    place.go_on(ben)
    place.wait("server")
    said = {name: place.said(name)[begin:] for name, begin in before.items()}
    return open_run(place.folder / "log"), server.read_text(), said


def test_a_run_survives_clients_that_hang(hanging):
    run, said, _ = hanging
    facts = run.facts()
    assert (facts["status"], facts["rounds"]) == ("done", HANGING)
    faults = (run.path / "faults.csv").read_text().splitlines()[1:]
    # nobody else, and nobody twice: whoever hung is there in the next round
    assert sorted(faults) == ["2,ann,dropped out", "2,cem,dropped out", "4,ben,dropped out"]
    for round_num, name in ((2, "ann"), (2, "cem"), (4, "ben")):
        # either end may be the first to give up
        why = rf"in {TIMEOUT_S} s|in time \(Flower: MESSAGE_UNAVAILABLE\)"
        assert re.search(rf"round {round_num}, {name}: did not answer ({why})\n", said)
    for validated, names in ((1, "cem, ann"), (3, "ben")):
        assert f"round {validated} is validated without {names}\n" in said
        (seconds,) = re.findall(rf"round {validated}: .* \+ ([\d.]+) s", said)
        assert TIMEOUT_S - 1 < float(seconds) < TIMEOUT_S + 10
    assert run.test()["test/clients"] == 3


def test_the_programs_of_clients_that_hang_end_themselves(hanging):
    *_, said = hanging
    gave_up = f"ERROR not done in the {TIMEOUT_S} s that the server waits for a reply"
    assert [said[name].count(gave_up) for name in NAMES if name != "ann"] == [0, 1]
    # stopped for longer than both limits, it may meet either first
    assert said["ann"].count(f"ERROR not done in {TIMEOUT_S} s, nor") + said["ann"].count(gave_up)


def test_each_client_adds_its_share_of_the_noise(place, hanging):
    _, said, by_client = hanging
    options = (
        f"updates are clipped to norm {NOISY_CLIP}, noise in their sum is {NOISE} times that\n"
    )
    assert options in said
    assert all(options in told for told in by_client.values())
    seen = np.loadtxt(place.folder / "state/seen.txt")[:3]  # of round 1, where all three train
    assert seen[:, 0].tolist() == [1, 1, 1]  # whatever they have, they count alike
    sizes, lengths = seen[:, 2], seen[:, 3]
    assert len(set(seen[:, 1])) == 1  # all rows of the table
    # 0.5 * 0.1 / sqrt(3) = 0.0289 in each coordinate; the update itself, 0.1 long, hardly counts
    np.testing.assert_allclose(lengths, 0.028868 * np.sqrt(sizes), rtol=0.1)


@pytest.fixture(scope="module")
def secret(place, disturbed):
    """A run with secure aggregation, and what each client sent in it."""
    before = {name: set((place.folder / f"own-{name}/sent").iterdir()) for name in NAMES}
    place.server("secret")
    place.wait("server")
    sent = {
        name: [
            file.read_bytes()
            for file in sorted(set((place.folder / f"own-{name}/sent").iterdir()) - files)
        ]
        for name, files in before.items()
    }
    return open_run(place.folder / "log"), sent


def test_secure_aggregation_ends_where_the_jax_engine_does(place, secret):
    run, sent = secret
    place.fedgru(
        f"train --data three {SETTINGS} --rounds {SECURE} --log-dir simulated-secure --no-eval"
    )
    (simulated,) = all_runs(place.folder / "simulated-secure")
    (ours, _), (expected, _) = (one.load_weights("last") for one in (run, simulated))
    for name, array in expected.items():
        np.testing.assert_allclose(ours[name], array, rtol=0, atol=1e-4, err_msg=name)
    for messages in sent.values():
        # hello, validation three times, four steps of the protocol twice, test
        assert len(messages) == 1 + (SECURE + 1) + 4 * SECURE + 1
        assert not any(b"head_kernel" in one for one in messages)
