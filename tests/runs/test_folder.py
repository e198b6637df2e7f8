"""fedgru/runs/folder.py: what is in a run folder, and that it can be read back."""

import csv
import json
import logging
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedgru import config
from fedgru.cli.main import main
from fedgru.core.errors import RunError
from fedgru.runs import folder as run_folder
from fedgru.runs import listing
from fedgru.runs.kinds import FEDERATED
from fedgru.storage import tables
from fedgru.workflows import reopen as reopen_workflow
from tests.conftest import HAS_TFF

FIRST_WEIGHTS = {"bias": np.arange(6, dtype=np.float32).reshape(2, 3), "prior_scale": np.float32(1)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the data set data/hamlet and one finished run in log/; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    small = ["--hidden-dim", 8, "--batch-size", 2, "--seq-len", 5, "--threads", 1, "--rounds", 3]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        typed("data", "synth", "--name", "hamlet", "--users", 6, "--checkins-per-user", 40)
        typed("train", "--data", "hamlet", "--prior", "backoff", "--client-lr", 0.01, *small)
    return folder


def typed(*words):
    result = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def finished(folder, tmp_path, monkeypatch):
    """The finished run, in a copy of its folder that is the current one."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return listing.open_run("log")


@pytest.fixture
def make_run(tmp_path):
    def make(name="run", **facts):
        return run_folder.RunFolder.create(tmp_path / "log", config.load({"name": name}), facts)

    return make


def read_csv(file):
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def message_of(action, *args):
    with pytest.raises(RunError) as error:
        action(*args)
    return str(error.value)


def test_what_is_in_a_run_folder(finished):
    assert sorted(path.name for path in finished.path.iterdir()) == [
        *("best.npz", "clients.csv", "config.toml", "eval", "last.npz", "metrics.csv"),
        *("predictions.parquet", "run.json", "run.log", "test.json", "times.csv", "train", "val"),
    ]
    facts = finished.facts()
    passport = json.loads(Path("data/hamlet/passport.json").read_text())
    assert facts["status"] == "done"
    assert facts["fingerprint"] == passport["fingerprint"]
    assert facts["coverage"][0] == {"step": "in the data set", "clients": 6, "checkins": 240}
    assert {"fedgru", "python", "jax", "numpy", "tensorflow"} <= {*facts["versions"]}
    assert ("tensorflow-federated" in facts["versions"]) == HAS_TFF
    assert None not in facts["versions"].values()  # what is not there is not named
    clients = read_csv(finished.path / "clients.csv")
    assert [list(clients[0])[0], len(clients)] == ["client_id", 6]
    assert sum(int(row["targets"]) for row in clients) == 51


def test_the_log_tells_of_each_round(finished):
    lines = (finished.path / "run.log").read_text().splitlines()
    told = [line.split(" INFO ")[1].split(":")[0] for line in lines]
    assert told[0].startswith(f"run folder {finished.path}, engine jax on ")
    assert told[1:4] == ["round 1", "round 2", "round 3"]


def test_times_are_in_their_own_file(finished):
    assert list(read_csv(finished.path / "times.csv")[0]) == ["round", "train_s", "val_s"]
    rows = read_csv(finished.path / "metrics.csv")
    assert [row["round"] for row in rows] == ["0", "1", "2", "3"]
    assert all(key == "round" or key.split("/")[0] in ("train", "val") for key in rows[0])
    assert rows[0]["train/loss/micro"] == "" != rows[0]["val/loss/micro"]


def test_the_config_repeats_the_run(finished):
    file = finished.path / "config.toml"
    settings = finished.settings()
    assert config.dump(settings) == file.read_text()
    assert (settings.data.data, settings.client.client_lr, settings.loop.rounds) == (
        *("hamlet", 0.01, 3),
    )
    typed("train", "--config", file, "--no-eval")
    again = listing.open_run("log")
    assert again.path != finished.path
    for name in ("config.toml", "metrics.csv", "best.npz", "last.npz"):
        assert (again.path / name).read_bytes() == (finished.path / name).read_bytes(), name


def test_tensorboard_shows_what_the_tables_say(finished):
    def shown(split):
        events = EventAccumulator(str(finished.path / split))
        events.Reload()
        tags = events.Tags()["scalars"]
        return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags}

    def column(name):
        rows = read_csv(finished.path / "metrics.csv")
        return [(int(r["round"]), np.float32(r[name])) for r in rows if r[name] != ""]

    tags = {"loss": "epoch_loss", "acc@1": "epoch_sparse_categorical_accuracy"}
    for split, rounds in (("train", [1, 2, 3]), ("val", [0, 1, 2, 3])):
        scalars = shown(split)
        for name, tag in tags.items():
            assert scalars[tag] == column(f"{split}/{name}/micro")
            assert [step for step, _ in scalars[tag]] == rounds
    assert {*shown("train")} == {*tags.values()}
    assert shown("val")["mrr/macro"] == column("val/mrr/macro")
    report = json.loads((finished.path / "test.json").read_text())
    for tag, key in [("epoch_loss", "loss/micro"), ("acc_at_5/micro", "acc@5/micro")]:
        assert shown("eval")[tag] == [(report["round"], np.float32(report[f"test/{key}"]))]
    # a second evaluation takes the place of the first
    typed("eval")
    assert [len(values) for values in shown("eval").values()] == [1] * 12


def test_the_best_round_is_kept(finished):
    losses = [float(row["val/loss/micro"]) for row in read_csv(finished.path / "metrics.csv")]
    best_round = 1 + int(np.argmin(losses[1:]))
    weights, round_num = finished.load_weights("best")
    facts = finished.facts()
    assert round_num == facts["best_round"] == best_round
    assert facts["best_value"] == losses[best_round]
    assert finished.load_weights("last")[1] == facts["rounds"] == 3
    report = json.loads((finished.path / "test.json").read_text())
    assert report["round"] == best_round
    assert weights["head_bias"].dtype == np.float32


def test_runs_that_start_in_the_same_second(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.time, "strftime", lambda _: "2031-05-02-120000")
    threads = [threading.Thread(target=make_run) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {path.parent.name for path in (tmp_path / "log").glob("*/config.toml")}
    first = "2031-05-02-120000-run"
    assert names == {first, *(f"{first}-{number}" for number in range(2, 13))}


def test_the_newest_run_is_chosen(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.time, "strftime", lambda _: "2031-05-02-120000")
    for name in ("zebra", "horse", "horse"):  # neither by name nor, as -10 < -2, by number
        newest = make_run(name)
    log_dir = tmp_path / "log"
    assert listing.open_run(log_dir).path == newest.path
    (log_dir / "2031-05-02-120000-zebra").rename(log_dir / "zebra")
    assert listing.open_run(log_dir).path == newest.path
    assert listing.open_run(log_dir, "zebra").path == log_dir / "zebra"
    assert listing.open_run("elsewhere", str(log_dir / "zebra")).path == log_dir / "zebra"


def test_a_run_that_fails(make_run):
    with pytest.raises(ZeroDivisionError), make_run(data="x") as run:
        logging.getLogger("fedgru.part").info("so far so good")
        1 / 0  # noqa: B018
    facts = run.facts()
    assert (facts["status"], facts["error"], facts["data"]) == ("failed", "division by zero", "x")
    first, second, *rest = (run.path / "run.log").read_text().splitlines()
    assert first.endswith(" INFO so far so good")
    assert second.endswith(" ERROR division by zero")
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "ZeroDivisionError: division by zero"
    logging.getLogger("fedgru").info("no longer")
    assert "no longer" not in (run.path / "run.log").read_text()


def test_a_failed_evaluation_leaves_the_run_done(make_run):
    run = make_run()
    run.write_facts({"status": "done"})
    with pytest.raises(KeyError), run:
        raise KeyError("x")
    assert run.facts()["status"] == "done" and "error" not in run.facts()
    assert (run.path / "run.log").read_text().endswith("\nKeyError: 'x'\n")


def test_weights_are_read_back(make_run):
    run = make_run()
    run.save_weights("best", FIRST_WEIGHTS, 7)
    weights, round_num = run.load_weights("best")
    assert round_num == 7
    assert {*weights} == {*FIRST_WEIGHTS}
    for name, array in FIRST_WEIGHTS.items():
        assert weights[name].dtype == np.float32 and np.array_equal(weights[name], array)
    assert message_of(run.load_weights, "last") == (
        f"run {run.path} has no last.npz: no round of it was finished. Details: {run.path}/run.log"
    )


def test_damaged_weights(make_run):
    run = make_run()
    run.save_weights("best", FIRST_WEIGHTS, 7)
    file = run.path / "best.npz"
    whole = file.read_bytes()
    at_data = whole.index(FIRST_WEIGHTS["bias"].tobytes())

    def expect(reason):
        assert message_of(run.load_weights) == (
            f"{file} is damaged: {reason}. Train again with: fedgru train --config "
            f"{run.path}/config.toml"
        )

    for damaged, reason in (
        (b"", "File is not a zip file"),
        (b"not weights", "File is not a zip file"),
        (whole[: len(whole) // 2], "File is not a zip file"),
        (whole[:at_data] + b"?" + whole[at_data + 1 :], "Bad CRC-32 for file 'bias.npy'"),
    ):
        file.write_bytes(damaged)
        expect(reason)
    np.savez(file, **FIRST_WEIGHTS)
    expect("it does not name its round")
    np.savez(file, round_num=np.int64(1), bias=np.array([{}], object))  # a pickle
    expect("bias.npy holds object, not numbers")
    np.savez_compressed(file, round_num=np.int64(1), bias=np.zeros(10**6))  # 1 kB becomes 8 MB
    expect("round_num.npy is compressed")
    with open(file, "wb") as stream:
        np.save(stream, FIRST_WEIGHTS["bias"])
    expect("File is not a zip file")


def test_weights_are_written_whole_or_not_at_all(make_run, monkeypatch):
    run = make_run()
    run.save_weights("best", FIRST_WEIGHTS, 1)
    whole = (run.path / "best.npz").read_bytes()

    def stop(stream, **arrays):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", stop)
    with pytest.raises(OSError, match="No space left"):
        run.save_weights("best", FIRST_WEIGHTS, 2)
    assert (run.path / "best.npz").read_bytes() == whole


def test_a_damaged_run_json(make_run, tmp_path):
    run = make_run()
    (run.path / "run.json").write_text('{"status": ')
    assert message_of(listing.open_run(tmp_path / "log").facts) == (
        f"{run.path}/run.json is damaged, it is not JSON: Expecting value: line 1 column 12 "
        "(char 11)."
    )
    (run.path / "run.json").write_text("[]")
    assert message_of(run.facts) == f"{run.path}/run.json is damaged, it is not a JSON object."


def test_what_a_killed_process_left_of_a_new_run_is_removed_by_the_next(make_run, tmp_path):
    left = tmp_path / "log/.run-abcdefgh.part/new"
    left.mkdir(parents=True)
    (left / "config.toml").touch()
    run = make_run()
    assert list((tmp_path / "log").iterdir()) == [run.path]


@pytest.mark.parametrize("kind", ["pooled", 3, ["federated"]])
def test_a_run_of_an_unknown_kind(make_run, kind):
    run = make_run()
    run.write_facts({"kind": kind})
    message = (
        f"{run.path}/run.json has the kind {kind!r}, expected one of federated, "
        "deployed, commonest, last, frequency, markov, global-markov, popular-nearby, "
        "running-user-markov, running-markov, running-by-hour, running-backoff, kernel, central, "
        "local. It is damaged, or a newer fedgru made the run."
    )
    assert message_of(lambda: run.kind) == message
    assert run.overview()["status"] == message  # and is listed all the same


def test_a_run_whose_run_json_does_not_say_its_kind_is_federated(make_run):
    run = make_run()
    assert "kind" not in run.facts()
    assert run.kind is FEDERATED


def test_a_damaged_run_is_skipped_with_a_warning(make_run, tmp_path, caplog):
    whole, damaged = make_run(), make_run()
    (damaged.path / "run.json").write_text("{")
    assert listing.open_run(tmp_path / "log").path == whole.path
    assert caplog.messages[0].startswith(f"skipped: {damaged.path}/run.json is damaged")


def test_who_reads_a_run_does_not_mark_it_failed(make_run):
    run = make_run()
    with pytest.raises(KeyError), run_folder.RunFolder(run.path):
        raise KeyError("x")
    assert run.facts()["status"] == "running"
    with pytest.raises(KeyError), run:
        raise KeyError("x")
    assert run.facts()["status"] == "failed"


def test_what_is_not_a_number_becomes_null(tmp_path):
    file = tmp_path / "x.json"
    tables.write_json(file, {"a": float("nan"), "b": [1.5, float("nan")], "c": np.float64("nan")})
    assert json.loads(file.read_text()) == {"a": None, "b": [1.5, None], "c": None}


def test_a_run_on_another_version_of_the_data(finished):
    finished.write_facts({"fingerprint": "0" * 64})
    now = json.loads(Path("data/hamlet/passport.json").read_text())["fingerprint"]
    assert message_of(reopen_workflow.reopen_task, finished, "data") == (
        f"{finished.path} was trained on another version of data set hamlet (fingerprint "
        f"000000000000, now {now[:12]}). Restore that version, or train again."
    )


def test_runs_and_data_sets_are_for_their_owner_alone(finished):
    for folder in (finished.path, Path("data/hamlet")):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert Path("data/hamlet/checkins.parquet").stat().st_mode & 0o777 == 0o600
