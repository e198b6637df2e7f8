"""fedgru/cli/main.py: commands as typed, exit code and whole message."""

import csv
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tqdm import tqdm

from fedgru import config
from fedgru.cli.logging import AboveTheBar
from fedgru.cli.main import main
from fedgru.console import describe
from fedgru.core.errors import Terminated
from fedgru.runs import folder as run_folder
from fedgru.runs import listing
from fedgru.workflows import train as train_workflow
from tests.conftest import needs_no_tff

ROOT = Path(__file__).parents[2]
BROKEN = ROOT / "tests/data"
FEDGRU = [sys.executable, "-m", "fedgru"]
SMALL = ["--data", "hamlet", "--hidden-dim", "8", "--batch-size", "2", "--seq-len", "5"]
SMALL += ["--rounds", "2", "--threads", "1", "--prior", "backoff"]
BASELINES = (
    "commonest, last, global_markov, frequency, user_markov, running_user_markov, running_markov, "
    "running_backoff"
)


def invoke(*words, code=0):
    """Run a command in this process; stop the test unless it ends with the exit code."""
    result = CliRunner().invoke(main, [str(word) for word in words], prog_name="fedgru")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    assert not logging.getLogger("fedgru").handlers  # the next command would write to them too
    return result


def train(*words, code=0):
    return invoke("train", *SMALL, *words, code=code)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """A folder with data/hamlet and a finished run in log/, not to be changed; what was printed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        invoke("data", "synth", "--name", "hamlet", "--users", 6, "--checkins-per-user", 40)
        return folder, train("--name", "first")


@pytest.fixture
def here(first_run, tmp_path, monkeypatch):
    """The data set and the finished run copied to the current folder."""
    shutil.copytree(first_run[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run_dir(here):
    return next(here.glob("log/*-first"))


def test_train_prints_what_it_does(first_run, here, run_dir):
    _, result = first_run
    head, _, log = result.stderr.partition("run folder ")
    assert head == (
        "Data set hamlet\n"
        "Task: next check-in\n"
        "                                clients   check-ins\n"
        "  in the data set                     6         240\n"
        "  with 5 or more check-ins            6         240\n"
        "  train targets                       6         143\n"
        "    used for training                 6         143\n"
        "  val targets                         6          40\n"
        "  test targets                        6          51\n"
        "  unknown in val / test: venue 12.5 % / 27.5 %\n"
        "Model: gru of 8 units, head dense (since `prior` is backoff), 12 classes of category, "
        "prior backoff\n"
    )
    patterns = [
        re.escape(f"log/{run_dir.name}, engine jax on ") + r".+ \(\d+ threads?; local steps .+\)",
        r"round 1: loss \d\.\d{3}, val loss \d\.\d{3}, val acc \d\.\d{3}, train \d+\.\d s, "
        r"validation \d+\.\d s, best so far",
        r"round 2: .*",
        r"all rounds done; best is round [12] of 2, val/loss/micro \d\.\d{4}",
        r"On validation .+ the backoff prior alone: val/loss/micro is .+",
    ]
    for pattern, line in zip(patterns, log.splitlines(), strict=True):
        assert re.fullmatch(pattern, line), line
    assert result.stdout == (
        invoke("eval").stdout
        + f"Run folder:  log/{run_dir.name}\n"
        + "TensorBoard: fedgru tensorboard\n"
        + log.splitlines()[-1]
        + "\n"
    )


def test_the_default_head_from_the_shell(here):
    result = invoke(
        *("train", "--data", "hamlet", "--rounds", "3"),
        *("--features", "category,clock", "--name", "knows"),
    )
    assert "gru of 32 units, head candidates, 12 classes of category, prior kernel" in result.stderr
    (folder,) = here.glob("log/*-knows")
    kept = json.loads((folder / "run.json").read_text())["kept"]
    # the output's weights are zero at the start: before training the model is its prior
    first = next(csv.DictReader((folder / "metrics.csv").open()))
    assert first["round"] == "0"
    assert float(first["val/loss/micro"]) == pytest.approx(kept["alone"]["val/loss/micro"])
    assert "running kernel" in invoke("eval").stdout


def test_eval_prints_the_model_beside_the_baselines(here, run_dir):
    result = invoke("eval")
    report = json.loads((run_dir / "test.json").read_text())
    name = f"log/{run_dir.name}"
    assert result.stderr == f"{name}, data set hamlet\n"
    title, *said, header = result.stdout.split("  model ")[0].splitlines()
    lines = result.stdout.splitlines()[len(said) + 2 :]
    assert said == [
        report["verdict"]["headline"],
        *(f"  {x}" for x in report["verdict"]["more"]),
        "",
    ]
    assert title == (
        f"Test of {name}, round {report['round']}, next check-in: "
        "51 targets of 6 clients, each scored once"
    )
    assert " ".join(header.split()) == "acc@1 acc@5 acc@10 mrr ndcg loss acc@1 macro gain"
    assert [line[:22].strip() for line in lines[:12]] == [
        *("model", "cold state", "revisits", "first visits"),
        *(baseline.replace("_", " ") for baseline in BASELINES.split(", ")),
    ]
    row = [f"{report[f'test/{m}/micro']:.4f}" for m in header.split()[:6]]
    assert lines[0].split() == ["model", *row, f"{report['test/acc@1/macro']:.4f}"]
    assert lines[4].split()[6] == "-"  # static counts rank, they have no loss
    low, high = report["intervals"]["test/acc@1/micro"]
    gain = report["gains"]["running_backoff"]["test/acc@1/micro"]
    gain_low, gain_high = gain["interval"]
    star = "" if gain_low <= 0 <= gain_high else "*"
    (backoff,) = (line for line in lines[4:12] if line.startswith("  running backoff "))
    assert backoff.split()[-1] == f"{gain['difference']:+.4f}{star}"
    assert lines[12].startswith("  gain: acc@1 of this run less that of the row; * significant")
    assert lines[13].startswith(f"95 % interval of acc@1 over clients: {low:.4f} to {high:.4f} (")
    best = report["best_counting"]
    assert lines[14] == (
        "Best of 8 ways of counting, by acc@1 on validation (40 targets of 6 clients): "
        f"{best['name'].replace('_', ' ')}, "
        f"{max(row['val/acc@1/micro'] for row in report['baselines'].values()):.4f} there"
    )
    worst = report["worst_tenth"]
    assert lines[15] == (
        f"Worst tenth of clients by acc@1 (1 of 6): acc@1 {worst['acc@1']:.4f}, loss "
        f"{worst['loss']:.4f}"
    )
    assert lines[16] == (
        f"Best possible acc@1 in this made-up city: {report['best_possible']:.4f}; "
        f"the model reaches {100 * report['share_of_best']:.1f} % of it."
    )
    assert lines[17:] == describe.describe_leakage(report["leakage"]).splitlines()
    assert [line.split()[0] for line in lines[18:]] == ["client", "zone"]


def test_eval_json_is_one_object(here, run_dir):
    result = invoke("eval", run_dir, "--json")
    report = json.loads(result.stdout)
    assert report == json.loads((run_dir / "test.json").read_text()) | {"run": str(run_dir)}
    assert {"test/acc@1/micro", "test/acc@10/macro", "test/loss/micro", "baselines"} <= {*report}
    assert ", ".join(report["baselines"]) == BASELINES
    assert 0 < report["baselines"]["running_backoff"]["test/acc@1/micro"] < 1
    assert report["test/clients"] == 6
    assert sum(report[part]["test/targets"] for part in ("revisits", "first_visits")) == 51


def test_eval_with_another_engine(here, run_dir):
    expected = json.loads((run_dir / "test.json").read_text())
    assert expected["engine"] == "jax"
    result = invoke("eval", "--engine", "reference")
    assert result.stderr == (
        f"log/{run_dir.name}, data set hamlet, trained with jax, scored with reference\n"
    )
    report = json.loads((run_dir / "test.json").read_text())
    assert report["engine"] == "reference"
    for name in ("test/loss/micro", "test/acc@1/macro"):
        assert report[name] == pytest.approx(expected[name], abs=1e-5)
    # its own engine, said in so many words, is nothing to tell of
    assert invoke("eval", "--engine", "jax").stderr == f"log/{run_dir.name}, data set hamlet\n"


@needs_no_tff
def test_eval_of_a_run_whose_engine_is_elsewhere(here, run_dir):
    file = run_dir / "config.toml"
    text = file.read_text()
    # what only --engine tff knows does not keep another engine from scoring
    text = text.replace('engine = "jax"', 'engine = "tff"')
    text = text.replace('mean = "owners"', 'mean = "clients"')
    file.write_text(text.replace('tff_aggregator = "none"', 'tff_aggregator = "robust"'))
    result = invoke("eval", code=1)
    assert result.stdout == ""
    assert error_of(result) == (
        f"log/{run_dir.name}: --engine tff needs the environment that `make tff` creates (Python "
        "3.11, TensorFlow Federated 0.87): run .venv-tff/bin/fedgru in place of fedgru. Or score "
        "with an installed engine; all give the same numbers: "
        f"fedgru eval log/{run_dir.name} --engine jax\n"
    )
    result = invoke("eval", f"log/{run_dir.name}", "--engine", "jax")
    assert result.stderr == (
        f"log/{run_dir.name}, data set hamlet, trained with tff, scored with jax\n"
    )


def test_eval_shows_warnings(here, run_dir, monkeypatch):
    make_engine = train_workflow.make_engine

    def warn(*args, **kwargs):
        logging.getLogger("fedgru.engines").warning("an open port")
        return make_engine(*args, **kwargs)

    monkeypatch.setattr(train_workflow, "make_engine", warn)
    # run.log is open by then, which must not keep them from stderr
    assert invoke("eval").stderr == f"log/{run_dir.name}, data set hamlet\nan open port\n"


def test_a_warning_stands_above_the_progress_bar():
    screen = io.StringIO()
    warning = logging.LogRecord("fedgru", logging.WARNING, "", 0, "an open port", None, None)
    with tqdm(total=2, file=screen):
        AboveTheBar(screen).emit(warning)
    assert re.search(r"\| 0/2 \[.*\]\r +\ran open port\n", screen.getvalue())  # wiped off first


def usage(command):
    return f"Usage: fedgru {command}\nTry 'fedgru {command.split()[0]} --help' for help.\n\n"


def config_file(text):
    Path("own.toml").write_text(text)
    return ["train", "--config", "own.toml"]


# what is typed (or a function that makes it), exit code, message
BAD_COMMANDS = {
    "missing data set": (
        ["train", "--data", "nope"],
        1,
        "There is no data set 'nope' in data, only hamlet, embedded. Make one with "
        "`fedgru data import` or `fedgru data synth`.",
    ),
    "a data set outside the folder": (
        ["train", "--data", "../hamlet"],
        1,
        "'../hamlet' cannot name a data set: expected letters, digits, '.', '_' and '-', starting "
        "with a letter or digit.",
    ),
    "unknown feature": (
        ["train", *SMALL, "--features", "category,wether"],
        1,
        "unknown feature 'wether' in --features category,wether. Accepted: one of the sets big, "
        "small, category, or a comma-separated list of user, category, venue, raw_category, "
        "latitude, longitude, clock, day, month, weekday, gap, or MODULE:FUNCTION of your own.",
    ),
    "unknown metric": (
        ["train", *SMALL, "--stop-metric", "val/accuracy/micro"],
        1,
        "--stop-metric is val/accuracy/micro, expected val/METRIC/AVERAGE with METRIC one of "
        "acc@1, acc@5, acc@10, mrr, ndcg, loss and AVERAGE micro (each check-in once) or macro "
        "(each client once).",
    ),
    "0 rounds": (["train", "--rounds", "0"], 1, "--rounds is 0, expected at least 1."),
    "0 users": (
        ["train", "--users", "0"],
        1,
        "--users is 0, expected a whole number of at least 1, or all.",
    ),
    "more users than there are": (
        ["train", *SMALL, "--users", "7"],
        1,
        "--users is 7, but the data set has 6 users with 5 or more check-ins.",
    ),
    "nobody is active enough": (
        ["train", *SMALL, "--min-checkins", "1000"],
        1,
        "no user has 1000 check-ins; the most active one, '5', has 53. Lower --min-checkins (at "
        "least 3, so that train, val and test are not empty).",
    ),
    "more clients per round than there are": (
        ["train", *SMALL, "--clients-per-round", "7"],
        1,
        "--clients-per-round is 7, but the split has 6 clients with training data.",
    ),
    "unknown preset": (
        ["train", "--preset", "book"],
        2,
        usage("train [OPTIONS]") + "Error: Invalid value for '--preset': 'book' is not 'notebook'.",
    ),
    "missing config file": (
        ["train", "--config", "gone.toml"],
        1,
        "cannot read gone.toml: No such file or directory.",
    ),
    "garbled config file": (
        lambda: config_file("rounds 3"),
        1,
        "own.toml is not a TOML file: Expected '=' after a key in a key/value pair (at line 1, "
        "column 8).",
    ),
    "unknown config key": (
        lambda: config_file("[client]\nlr = 1"),
        1,
        "unknown key 'lr' in section [client]. Accepted: client_optimizer, client_lr, "
        "local_epochs, prox_mu.",
    ),
    "option without effect": (
        ["train", *SMALL, "--server-momentum", "0.5"],
        1,
        "--server-momentum has no effect with --server-optimizer sgd. Use --server-optimizer "
        "momentum, or leave it out.",
    ),
    "another option without effect": (
        ["train", *SMALL, "--features", "category", "--clock", "utc"],
        1,
        "--clock has no effect: --features category holds none of clock, day, month, weekday.",
    ),
    "misspelt option": (
        ["train", "--layoutt", "3"],
        2,
        usage("train [OPTIONS]") + "Error: No such option '--layoutt'. Did you mean '--layout'?",
    ),
    "not a number": (
        ["train", "--rounds", "many"],
        2,
        usage("train [OPTIONS]")
        + "Error: Invalid value for '--rounds': 'many' is not a valid integer.",
    ),
    "a log folder that is a file": (
        ["train", *SMALL, "--log-dir", "file"],
        2,
        usage("train [OPTIONS]")
        + "Error: Invalid value for '--log-dir' (env var: 'FEDGRU_LOG_DIR'): "
        "Directory 'file' is a file.",
    ),
    "a data folder that is a file": (
        ["eval", "--data-dir", "file"],
        2,
        usage("eval [OPTIONS] [RUN]")
        + "Error: Invalid value for '--data-dir' (env var: 'FEDGRU_DATA_DIR'): "
        "Directory 'file' is a file.",
    ),
    "a run that is not there": (
        ["eval", "gone"],
        1,
        "no run gone: neither gone nor log/gone is a folder with a run.json, and no run in log/ "
        "has that --name.",
    ),
    "no run at all": (
        ["eval", "--log-dir", "other"],
        1,
        "no run in other/. Make one with: fedgru train --features big",
    ),
    "unknown baseline": (
        ["eval", "--must-beat", "luck"],
        1,
        f"--must-beat is luck, expected one of {BASELINES}, best.",
    ),
}


@pytest.mark.parametrize(("words", "code", "message"), BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_bad_commands(words, code, message, here):
    Path("file").touch()
    words = words() if callable(words) else words
    before = sorted(here.rglob("*"))
    result = invoke(*words, code=code)
    assert result.stdout == ""
    assert result.stderr == ("Error: " if code == 1 else "") + message + "\n"
    assert sorted(here.rglob("*")) == before


def error_of(result):
    """The error, where other lines came before it on stderr."""
    return result.stderr.rpartition("\nError: ")[2]


def test_a_log_folder_that_cannot_be_written(here, monkeypatch):
    Path("file").touch()
    result = train("--log-dir", "file/log", code=1)
    assert error_of(result) == (
        "cannot write to file/log: Not a directory. Choose another folder with --log-dir.\n"
    )

    def refuse(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    result = train("--log-dir", "locked", code=1)
    assert error_of(result) == (
        "cannot write to locked: Permission denied. Choose another folder with --log-dir.\n"
    )
    assert not Path("locked").exists()


def test_a_run_folder_is_made_whole_or_not_at_all(here, monkeypatch):
    def disk_full(file, value):
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(run_folder, "write_json", disk_full)
    result = train("--log-dir", "full", code=1)
    message = re.sub(r"[-\d]{17}", "TIME", error_of(result))
    assert message == (
        "cannot write to full: No space left on device. Choose another folder with --log-dir.\n"
    )
    assert list(Path("full").iterdir()) == []


def test_training_that_diverges(here):
    result = train("--client-lr", "1e38", "--log-dir", "failed", code=1)
    (folder,) = Path("failed").iterdir()
    message = (
        "training loss became NaN in round 1 (client 5 first). Try a smaller --client-lr "
        f"(now 1e+38) or --server-lr (now 1). Details: {folder}/run.log"
    )
    assert error_of(result) == message + "\n"
    assert result.stdout == ""
    assert sorted(file.name for file in folder.iterdir()) == [
        *("checkpoints", "config.toml", "metrics.csv", "run.json", "run.log", "times.csv", "val")
    ]
    facts = json.loads((folder / "run.json").read_text())
    assert facts["status"] == "failed"
    kept = message.replace("--client-lr", "`client_lr`").replace("--server-lr", "`server_lr`")
    assert kept == f"{facts['error']}"
    log = (folder / "run.log").read_text()
    assert f" ERROR {kept}\nTraceback (most recent call last):\n" in log
    result = invoke("eval", "--log-dir", "failed", code=1)
    assert error_of(result) == (
        f"run {folder} has no best.npz: no round of it was finished. Details: {folder}/run.log\n"
    )
    assert json.loads((folder / "run.json").read_text()) == facts


def test_must_beat(here, run_dir):
    # the baselines' numbers are those of the data; two rounds are between these two
    report = json.loads((run_dir / "test.json").read_text())
    ours = f"test acc@1 is {report['test/acc@1/micro']:.4f}"
    result = invoke("eval", "--must-beat", "last")
    assert result.stderr == (
        f"log/{run_dir.name}, data set hamlet\n{ours}, above last with 0.0784.\n"
    )
    result = invoke("eval", "--must-beat", "user_markov", code=1)
    assert error_of(result) == f"{ours}, not above user_markov with 0.2745.\n"
    assert result.stdout.startswith(f"Test of log/{run_dir.name}, round ")


def test_another_version_of_the_data_set(here, run_dir):
    new = ["--users", 6, "--checkins-per-user", 40, "--seed", 9]
    was = json.loads(Path("data/hamlet/passport.json").read_text())["fingerprint"]
    invoke("data", "synth", "--name", "hamlet", "--overwrite", *new)
    now = json.loads(Path("data/hamlet/passport.json").read_text())["fingerprint"]
    result = invoke("eval", code=1)
    assert result.stderr == (
        f"Error: log/{run_dir.name} was trained on another version of data set hamlet (fingerprint "
        f"{was[:12]}, now {now[:12]}). Restore that version, or train again.\n"
    )
    shutil.rmtree("data/hamlet")
    result = invoke("eval", code=1)
    assert result.stderr == (
        "Error: There is no data set 'hamlet' in data, only embedded. Make one with "
        "`fedgru data import` or `fedgru data synth`.\n"
    )


def test_one_client(here):
    result = train("--users", 1, "--name", "one")
    assert "  the 1 most active                   1          53\n" in result.stderr
    title, verdict, *lines = result.stdout.splitlines()
    assert verdict.startswith("No verdict: acc@1 ") and verdict.endswith("there is no interval.")
    assert title.endswith(": 11 targets of 1 client, each scored once")
    assert "No interval of acc@1 over clients: there is one client." in lines
    (client,) = (line for line in lines if line.startswith("  client: "))
    (folder,) = (line for line in lines if line.startswith("Run folder: "))
    assert client == (
        "  client: not audited: concept client has 1 value in train, expected at least 2: there is "
        "nothing to hide."
    )
    assert (here / folder.split()[-1] / "clients.csv").read_text().count("\n") == 2


def import_visits(visits):
    """Import [(user, venue)] as the data set `visits`, one visit an hour."""
    lines = [
        f"{user},{venue},{1333476009 + 3600 * hour}" for hour, (user, venue) in enumerate(visits)
    ]
    Path("visits.csv").write_text("\n".join(["user,venue,time", *lines]))
    columns = [
        word for field in ("user", "venue", "time") for word in ("--column", f"{field}=" + field)
    ]
    invoke("data", "import", "csv", "visits.csv", "--name", "visits", *columns)
    return ["--data", "visits", "--target", "venue", "--features", "user,venue,clock"]


def test_a_user_with_one_check_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = import_visits([("ann", "ab"[i % 2]) for i in range(20)] + [("bob", "a")])
    result = train(*words, "--no-eval")
    assert "  in the data set                     2          21\n" in result.stderr
    assert "  with 5 or more check-ins            1          20\n" in result.stderr
    (file,) = Path("log").glob("*/run.json")
    assert json.loads(file.read_text())["coverage"][:2] == [
        {"step": "in the data set", "clients": 2, "checkins": 21},
        {"step": "with 5 or more check-ins", "clients": 1, "checkins": 20},
    ]


def test_only_a_user_with_one_check_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = import_visits([("bob", "a")])
    assert train(*words, code=1).stderr == (
        "Error: no user has 5 check-ins; the most active one, 'bob', has 1. Lower --min-checkins "
        "(at least 3, so that train, val and test are not empty).\n"
    )
    assert not Path("log").exists()


def test_nothing_that_could_be_scored(tmp_path, monkeypatch):
    # 20 check-ins: 4 of test, 4 of what is left (3.2, rounded up) of validation
    monkeypatch.chdir(tmp_path)
    words = import_visits([("ann", f"venue {i}") for i in range(20)])
    assert train(*words, code=1).stderr == (
        "Error: nothing to score: none of the 4 validation targets has a venue that occurs in "
        "train. Take more users or more check-ins.\n"
    )
    assert not Path("log").exists()


BAD_FILES = {
    "missing": ("gone.txt", "{path} does not exist."),
    "a directory": ("", "{path} is a folder, expected a file."),
    "empty": ("empty.txt", "empty.txt is empty."),
    "truncated gzip": (
        "truncated.txt.gz",
        "truncated.txt.gz ends too early: the gzip file is cut off. Download it again.",
    ),
    "wrong column count": (
        "visits.csv",
        "visits.csv, row 1: 1 field, expected 8 separated by tabs. For a table with a header use "
        "`fedgru data import csv`.\n"
        "4 bad rows in all; --skip-bad-rows drops and counts bad rows.",
    ),
    "swapped coordinates": (
        "swapped.txt",
        "swapped.txt, row 1: latitude -74.0 and longitude 40.7 contradict the time-zone offset of "
        "-240 minutes but would fit it exchanged. If they are swapped, exchange columns "
        "5 and 6 of the file.\n"
        "1 bad row in all; --skip-bad-rows drops and counts bad rows.",
    ),
}


@pytest.mark.parametrize(("name", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_cannot_be_imported(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = BROKEN / name
    result = invoke("data", "import", "tsmc2014", path, "--name", "bad", code=1)
    assert (result.stdout, result.stderr) == ("", f"Error: {message.format(path=path)}\n")
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_bytes(here, run_dir):
    def outcome(name, *words):
        train("--name", name, "--no-eval", *words)
        (folder,) = here.glob(f"log/*-{name}")
        return [(folder / file).read_bytes() for file in ("metrics.csv", "best.npz", "last.npz")]

    first = [(run_dir / file).read_bytes() for file in ("metrics.csv", "best.npz", "last.npz")]
    assert outcome("again") == first
    assert outcome("two-threads", "--threads", 2) == first
    other = outcome("other-seed", "--seed", 1)
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_an_error_shows_a_traceback_only_with_debug(tmp_path):
    def typed(*words):
        done = subprocess.run([*FEDGRU, *words], cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    message = "no run in log/. Make one with: fedgru train --features big"
    assert typed("eval") == (1, "", f"Error: {message}\n")
    code, _, stderr = typed("--debug", "eval")
    assert code == 1
    assert stderr.startswith("Traceback (most recent call last):\n")
    assert stderr.endswith(f"\nfedgru.core.errors.RunError: {message}\n")


def test_an_error_nobody_thought_of(here, run_dir, monkeypatch):
    monkeypatch.setattr(listing, "open_run", int)  # of what is no number
    assert invoke("eval", code=1).stderr == (
        "Error: TypeError: 'NoneType' object cannot be interpreted as an integer\n"
        "This is a defect of fedgru. Add --debug right after fedgru to see where it comes from.\n"
    )
    monkeypatch.setattr(listing, "open_run", lambda *_: {}["x"])
    assert re.fullmatch(
        r"Error: KeyError: 'x' \(test_main.py, line \d+\). That is code of your own. Add --debug "
        r"right after fedgru to see how it was called.\n",
        invoke("eval", code=1).stderr,
    )

    def refuse(*_):
        raise PermissionError(13, "Permission denied", "log/x/test.json")

    monkeypatch.setattr(listing, "open_run", refuse)
    assert invoke("eval", code=1).stderr == (
        "Error: cannot use log/x/test.json: Permission denied.\n"
    )


def test_help_and_version_import_nothing_heavy():
    heavy = {"tensorflow", "jax", "keras", "pandas", "numpy", "pyarrow", "sklearn", "pydantic"}
    code = (
        "import sys; from fedgru.cli.main import main; main(sys.argv[1:], standalone_mode=False); "
    )
    code += "print(*sys.modules)"
    for words in (["--help"], ["--version"], ["data", "--help"], ["eval", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
        )
        assert "click" in done.stdout.split()
        assert not heavy & {*done.stdout.split()}, words


def test_every_way_to_start_is_the_same_program():
    ways = [FEDGRU, [sys.executable, "cli.py"], [Path(sys.executable).with_name("fedgru")]]
    for words in (["--version"], ["--help"], ["data", "list", "--help"]):
        first, *others = (
            subprocess.run([*way, *words], cwd=ROOT, capture_output=True, text=True, check=True)
            for way in ways
        )
        for other in others:
            assert other.stdout.replace("Usage: cli.py", "Usage: fedgru") == first.stdout


def test_quiet_leaves_warnings_and_errors_alone_on_stderr(here):
    assert invoke("--quiet", "eval").stderr == invoke("eval", "-q").stderr == ""
    worse = ["--server-lr", "0.000001", "--patience", 0, "--rounds", 1, "--no-eval"]
    result = train(*worse, "--quiet", "--stop-metric", "val/acc@1/micro")
    assert re.fullmatch(
        r"no round was better than before training \(val/acc@1/micro 0\.\d{4}\): what counts is "
        r"the prior alone\n",
        result.stderr,
    )
    assert re.match(r"Run folder:  log/\S+\nTensorBoard: ", result.stdout)
    assert train("--quiet", "--rounds", 1, "--users", 99, code=1).stderr == (
        "Error: --users is 99, but the data set has 6 users with 5 or more check-ins.\n"
    )


def test_train_json_is_one_object(here):
    found = json.loads(train("--name", "as-json", "--json").stdout)
    folder = next(here.glob("log/*-as-json"))
    assert found["run"] == f"log/{folder.name}"
    assert found["test"] == json.loads((folder / "test.json").read_text())
    facts = json.loads((folder / "run.json").read_text())
    assert {key: found[key] for key in found if key not in ("run", "test")} == {
        key: facts[key] for key in ("why", "rounds", "best_round", "best_value", "kept")
    }


@pytest.mark.parametrize("code", [0, 143])
@pytest.mark.parametrize("before", [signal.SIG_DFL, signal.SIG_IGN, lambda *_: None])
def test_a_command_in_process_puts_sigterms_handler_back(monkeypatch, before, code):
    resolve, seen = config.resolve, []

    def look(*given):
        seen.append(signal.getsignal(signal.SIGTERM))
        if code:
            raise Terminated
        return resolve(*given)

    monkeypatch.setattr(config, "resolve", look)
    outside = signal.signal(signal.SIGTERM, before)
    try:
        invoke("config", "show", code=code)
        assert signal.getsignal(signal.SIGTERM) is before
    finally:
        signal.signal(signal.SIGTERM, outside)
    if before is signal.SIG_DFL:  # the command's own
        with pytest.raises(Terminated):
            seen[0]()
    else:
        assert seen == [before]


IN_PROCESS = """
import signal
from fedgru import config
from tests.cli.test_main import invoke

def test_a_command_that_is_stopped(monkeypatch):
    monkeypatch.setattr(config, "resolve", lambda *_: signal.raise_signal(signal.SIGTERM))
    invoke("config", "show", code=143)

def test_the_next_one():
    raise SystemExit("pytest has gone on")
"""


def test_a_sigterm_ends_pytest_while_a_command_runs_in_it(tmp_path):
    (tmp_path / "test_inner.py").write_text(IN_PROCESS)
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path]
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run(
        command, cwd=tmp_path, env=os.environ | path, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == -signal.SIGTERM, ended.stdout
