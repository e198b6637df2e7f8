"""fedgru predict and fedgru export as typed, and docs/predict.md as written."""

import csv
import json
import re
import shutil
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from fedgru.data import datasets
from fedgru.evaluation import evaluate
from fedgru.runs import listing
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows import train as train_workflow
from tests.cli.test_main import SMALL, invoke

DOCS = Path(__file__).parents[2] / "docs/predict.md"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with data/hamlet and log/*-first, whose prior is the kernel; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        invoke("data", "synth", "--name", "hamlet", "--users", 6, "--checkins-per-user", 40)
        words = ("--prior", "kernel", "--head", "dense", "--name", "first", "--no-eval")
        invoke("train", *SMALL, *words)
    return folder


@pytest.fixture
def here(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_history(path, clients, rename=lambda column: column, leave_out=(), change=None):
    """Write check-ins of some clients of hamlet as a table."""
    columns = ("user", "venue", "time", "latitude", "longitude", "category", "raw_category")
    check_ins = datasets.open_data_set("hamlet").check_ins
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        kept = [name for name in (*columns, "offset") if name not in leave_out]
        writer.writerow([rename(name) for name in kept])
        for row in range(len(check_ins)):
            values = {
                "time": str(check_ins.time_s[row]),
                "latitude": repr(float(check_ins.lat_deg[row])),
                "longitude": repr(float(check_ins.lon_deg[row])),
                "offset": str(check_ins.offset_min[row]),
            }
            for name in ("user", "venue", "category", "raw_category"):
                column = getattr(check_ins, name)
                values[name] = column.values[column.codes[row]]
            if values["user"] in clients:
                writer.writerow([(change or {}).get(values[n], values[n]) for n in kept])


def test_predict_is_the_evaluation_at_that_check_in(here):
    found = json.loads(
        invoke("predict", "--client", 2, "--until", 40, "--top", 12, "--json").stdout
    )
    run = listing.open_run("log")
    task = reopen_workflow.reopen_task(run, "data")
    client = task.clients.client_ids.index("2")
    weights, round_num = run.load_weights()
    engine = train_workflow.make_engine(task)
    targets, log_probs = evaluate.model_log_probs(engine, weights, "test")
    position = task.clients.starts[client] + 40
    assert position in targets
    own = slice(*np.searchsorted(task.clients.client_of[targets], [client, client + 1]))
    expected = np.exp(log_probs(client, own)[list(targets[own]).index(position)])
    values = task.target_vocabulary.values
    assert [row["value"] for row in found["top"]] == [values[i] for i in np.argsort(-expected)]
    probabilities = [row["probability"] for row in found["top"]]
    np.testing.assert_allclose(probabilities, np.sort(expected)[::-1], atol=1e-5)
    truth = task.classes[position]
    assert found["came"]["value"] == values[truth]
    assert found["came"]["rank"] == 1 + (expected > expected[truth]).sum()
    assert found["came"]["probability"] == pytest.approx(expected[truth], abs=1e-5)
    assert (found["run"], found["round"]) == (str(run.path), round_num)
    assert (found["user"], found["check_ins"], found["cold_start"]) == ("2", 40, False)


def test_predict_prints_the_check_ins_and_the_places(here):
    result = invoke("predict", "--client", 2, "--until", 37, "--top", 2)
    assert re.fullmatch(
        r"2 after 37 check-ins, the last at v0123, Restaurant \(2012-11-22 16:25 UTC-05:00\)\n"
        r"    1  \w+ +0\.\d{4}\n"
        r"    2  \w+ +0\.\d{4}\n"
        r"What came: Home \(rank \d+, 0\.\d{4}\)\n",
        result.stdout,
    )
    assert re.fullmatch(r"log/.*-first, data set hamlet\n", result.stderr)
    assert invoke("--quiet", "predict", "--client", 2).stderr == ""
    cold = invoke("predict", "--client", 2, "--until", 0).stdout.splitlines()
    assert cold[:2] == [
        "2 after 0 check-ins",
        "Cold start: no check-in yet. These are the frequencies of all clients.",
    ]
    cold = invoke("predict", "--client", 2, "--until", 4).stdout.splitlines()
    assert cold[1] == "Cold start: fewer check-ins than any client of the run had."


def test_a_history_predicts_as_the_client_it_is_of(here):
    write_history("history.csv", ["2"])
    expected = json.loads(invoke("predict", "--client", 2, "--json").stdout)
    result = invoke("predict", "--history", "history.csv", "--json")
    assert json.loads(result.stdout) == expected
    write_history("both.csv", ["2", "5"], rename=lambda name: f"my {name}")
    columns = ("user", "venue", "time", "latitude", "longitude", "category", "raw_category")
    options = [f"--column={name}=my {name}" for name in (*columns, "offset")]
    result = invoke("predict", "--history", "both.csv", "--client", 2, *options, "--json")
    assert json.loads(result.stdout) == expected
    message = "Error: both.csv has check-ins of 2 users. Choose one with --client: 2, 5.\n"
    assert invoke("predict", "--history", "both.csv", *options, code=1).stderr == message


def test_what_the_model_does_not_know_is_counted(here):
    write_history("x.csv", ["2"], leave_out=["offset", "raw_category"], change={"2": "me"})
    with open("x.csv") as stream:
        rows = list(csv.DictReader(stream))
    home = sum(row["category"] == "Home" for row in rows)
    assert 0 < home < len(rows)
    write_history(
        "x.csv", ["2"], leave_out=["offset", "raw_category"], change={"2": "me", "Home": "Moon"}
    )
    result = invoke("predict", "--history", "x.csv")
    task = reopen_workflow.reopen_task(listing.open_run("log"), "data")
    trained_on = task.clients.rows[task.clients.in_split("train")]
    seen = {
        name: {column.values[code] for code in column.codes[trained_on]}
        for name in ("venue", "raw_category")
        for column in [getattr(task.check_ins, name)]
    }
    venue = sum(row["venue"] not in seen["venue"] for row in rows)
    # without a column for it, the category's name stands in for raw_category
    raw = sum(
        row["category"] not in seen["raw_category"] or row["category"] == "Home" for row in rows
    )
    assert 0 < venue < raw < len(rows)
    assert result.stdout.splitlines()[1] == (
        f"Not seen in training: this user, the category of {home} of {len(rows)} check-ins, the "
        f"venue of {venue} of {len(rows)} check-ins, the raw category of {raw} of {len(rows)} "
        "check-ins."
    )
    assert result.stderr.splitlines()[1] == (
        "Note: no row of x.csv has an offset from UTC, so local time is UTC. If it is not, give "
        "--offset MINUTES or --column offset=NAME."
    )
    assert "Note" not in invoke("predict", "--history", "x.csv", "--offset", -240).stderr


def test_predict_refuses(here):
    def error(*words, code=1):
        return invoke("predict", *words, code=code).stderr.split("Error: ")[1].removesuffix("\n")

    assert error(code=2) == "Give --client ID, or --history FILE."
    assert error("--client", 2, "--offset", 60, code=2) == (
        "--offset has no effect without --history FILE."
    )
    assert error("--client", 22) == "data set hamlet has no user '22'. Did you mean 2?"
    assert error("--client", "ann") == (
        "data set hamlet has no user 'ann'. The run's clients are 5, 2, 4, 3, 1, 6."
    )
    assert error("--client", 2, "--until", 999) == (
        "--until is 999, but client 2 has 48 check-ins."
    )
    write_history("one.csv", ["2"])
    assert error("--history", "one.csv", "--client", 4) == (
        "one.csv has no user '4'. Its users are 2."
    )
    assert error("--history", "one.csv", "--categories", "mine.csv") == (
        "--categories mine.csv has no effect: the run's data set has the names as they are."
    )
    Path("bad.csv").write_text("user,venue,time\nme,v1,yesterday\n")
    assert error("--history", "bad.csv") == (
        "bad.csv, row 2: time is 'yesterday', expected a date and time like 'Tue Apr 03 18:00:09 "
        "+0000 2012' or ISO 8601 ('2012-04-03T18:00:09Z') or Unix seconds ('1333476009').\n"
        "1 bad row in all; --skip-bad-rows drops and counts bad rows."
    )
    Path("bad.csv").write_text("user,venue,time\nme,v1,1333476009\nme,v1,yesterday\n")
    result = invoke("predict", "--history", "bad.csv", "--skip-bad-rows")
    assert (
        result.stderr.splitlines()[1] == "Note: 1 row of bad.csv was dropped: time is not readable."
    )
    assert result.stdout.startswith("me after 1 check-in, the last at v1 (2012-04-03 18:00 UTC)\n")
    result = invoke("predict", "--history", "bad.csv", "--skip-bad-rows", "--offset", -210)
    assert "the last at v1 (2012-04-03 14:30 UTC-03:30)\n" in result.stdout
    Path("naive.csv").write_text(
        "user,venue,time\nme,v1,2012-04-03 18:00\nme,v1,2012-04-03T19:00Z\n"
    )
    assert error("--history", "naive.csv") == (
        "naive.csv, row 2: 1 time has no zone, but 1 have one. Give --times-without-zone utc, or "
        "an offset from UTC if they are local time."
    )
    result = invoke("predict", "--history", "naive.csv", "--times-without-zone", "utc")
    note = "Note: 1 row of naive.csv: time has no zone, read as UTC."
    assert note in result.stderr.splitlines()
    Path("bad.csv").write_text("who,venue,time\nme,v1,3\n")
    assert error("--history", "bad.csv") == (
        "--column user=NAME is missing: user, venue and time are needed."
    )


def test_category_names_become_categories_by_the_table_of_the_import(here, tmp_path):
    Path("mine.csv").write_text("name,category\nCafé,Eat\nPub,Drink\nFlat,Home\n")
    Path("other.csv").write_text("name,category\nCafé,Eat\nPub,Drink\nFlat,Dwelling\n")
    rows = ["user,venue,time,category"]
    rows += [
        f"u{u},{n},{10**9 + 3600 * i + u},{n}"
        for i in range(30)
        for u in (1, 2)
        for n in [["Café", "Pub", "Flat"][i % 3]]
    ]
    Path("visits.csv").write_text("\n".join(rows) + "\n")
    columns = [f"--column={name}={name}" for name in ("user", "venue", "time", "category")]
    invoke(
        "data", "import", "csv", "visits.csv", "--name", "v", *columns, "--categories", "mine.csv"
    )
    small = [*SMALL, "--data", "v", "--features", "category,clock", "--rounds", 1, "--no-eval"]
    invoke("train", *small, "--name", "v")
    expected = json.loads(invoke("predict", "--client", "u1", "--json").stdout)
    assert {row["value"] for row in expected["top"]} == {"Eat", "Drink", "Home"}
    assert expected["last"]["category"] == "Home"
    Path("u1.csv").write_text("\n".join(r for r in rows if not r.startswith("u2")) + "\n")
    found = invoke("predict", "--history", "u1.csv", "--categories", "mine.csv", "--json").stdout
    assert json.loads(found) == expected
    Path("u1.csv").write_text(Path("u1.csv").read_text().replace("Pub\n", "Drink\n"))  # as it is
    found = invoke("predict", "--history", "u1.csv", "--categories", "mine.csv", "--json").stdout
    assert json.loads(found)["unknown"] == {"category": 0, "target": 0}
    assert invoke("predict", "--history", "u1.csv", code=1).stderr == (
        "Error: the categories of the run's data set were made by the table mine.csv: give it with "
        "--categories mine.csv.\n"
    )
    stderr = invoke("predict", "--history", "u1.csv", "--categories", "other.csv", code=1).stderr
    assert re.fullmatch(
        r"Error: other\.csv is not the table that the categories of the run's data set were made "
        r"by \(mine\.csv, SHA-256 [0-9a-f]{12}\.\.\.\)\.\n",
        stderr,
    )


def test_a_run_without_a_model_of_all_clients_is_refused(here):
    small = ["--data", "hamlet", "--name", "counts", "--no-eval"]
    invoke("baseline", "markov", *small)
    folder = next(here.glob("log/*-counts"))
    message = (
        f"Error: log/{folder.name} is the baseline markov: it has no model that all clients share. "
        "Take a run of fedgru train, or of fedgru baseline central.\n"
    )
    assert invoke("predict", "--client", 2, code=1).stderr == message
    result = invoke("export", "--to", "weights", "--output", "out", code=1)
    assert result.stderr == f"log/{folder.name}, data set hamlet\n{message}"
    assert not Path("out").exists()


def test_export_says_what_the_model_is_called_with(here):
    result = invoke("export", "--to", "weights", "--output", "out/model")
    round_num = json.loads(Path("out/model/model.json").read_text())["round"]
    head, inputs, output, prior = result.stdout.splitlines()
    assert head == f"out/model: gru of 8 units, round {round_num}, as weights"
    assert inputs.startswith("Inputs: user (int32), category (int32), venue (int32), ")
    assert inputs.endswith("weekday_cos (float32), log_prior (float32)")
    assert output == "Output: probabilities of 12 classes of category"
    assert prior == (
        "log_prior is the prior kernel over the person's own past: fedgru.predict.predictor.Stream "
        "computes it, see docs/predict.md."
    )
    again = invoke("export", "--to", "weights", "--output", "out/model", "--overwrite", "--json")
    described = json.loads(again.stdout)
    assert described.pop("folder") == "out/model"
    assert described == json.loads(Path("out/model/model.json").read_text())
    assert described["classes"][0] in described["vocabularies"]["category"]["ids"]
    assert described["scales"]["latitude"]["mean"] == pytest.approx(40.7, abs=0.1)


def test_the_programs_in_the_docs_run(here, capsys):
    with_weights, with_keras = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.S)
    invoke("export", "--to", "weights", "--output", "exported")
    exec(compile(with_weights, str(DOCS), "exec"), {})
    invoke("export", "--to", "keras", "--output", "exported", "--overwrite")
    exec(compile(with_keras, str(DOCS), "exec"), {})
    by_weights, by_keras = capsys.readouterr().out.splitlines()
    assert eval(by_weights)[0][0] == by_keras  # the most probable of both


def test_predict_at_a_moment(here):
    invoke("train", *SMALL, "--asked-at", "--prior", "kernel", "--name", "asked", "--no-eval")
    needed = invoke("predict", "--client", 2, code=1).stderr.splitlines()[-1]
    assert needed == (
        "Error: the run was trained with --asked-at: its model needs the moment of the next "
        "check-in. Give it with --at, such as --at 2012-04-10T18:30."
    )
    # as the evaluation does, at the moment of the check-in that came
    check_ins = datasets.open_data_set("hamlet").check_ins
    row = np.flatnonzero(check_ins.user.codes == check_ins.user.values.index("2"))[37]
    time_s, offset_min = int(check_ins.time_s[row]), int(check_ins.offset_min[row])
    came = json.loads(invoke("predict", "--client", 2, "--until", 37, "--json").stdout)
    assert came["asked"] == {"time_s": time_s, "offset_min": offset_min}
    assert came["task"] == "next check-in, its time known"
    zone = timezone(timedelta(minutes=offset_min))
    text = datetime.fromtimestamp(time_s, zone).isoformat()
    asked = ("predict", "--client", 2, "--until", 37, "--json", "--at")
    assert json.loads(invoke(*asked, text).stdout) == came
    # without an offset it is the local clock of the last check-in; in UTC the same moment, but
    # another hour of the day
    assert json.loads(invoke(*asked, text[:19]).stdout) == came
    utc = datetime.fromtimestamp(time_s, UTC).isoformat()
    other = json.loads(invoke(*asked, utc).stdout)
    assert other["asked"] == {"time_s": time_s, "offset_min": 0}
    assert other["top"] != came["top"]
    day = f"{datetime.fromtimestamp(time_s, zone):%Y-%m-%d %H:%M}"
    shown = invoke("predict", "--client", 2, "--until", 37).stdout.splitlines()[0]
    assert f"; asked at {day} " in shown
    for wrong in ("2012-11-08", "at noon"):
        assert invoke(*asked, wrong, code=1).stderr.splitlines()[-1] == (
            f"Error: --at is {wrong!r}, expected a day and a time, such as 2012-04-10T18:30 or "
            "2012-04-10T18:30-04:00."
        )
    early = invoke(*asked, "2001-01-01T00:00", code=1).stderr.splitlines()[-1]
    assert early.endswith("give a later one.")
    first = listing.open_run("log", next(here.glob("log/*-first")).name)
    assert invoke("predict", first.path.name, "--client", 2, "--at", text, code=1).stderr.endswith(
        "Error: --at has no effect: the run was trained without --asked-at, so its model does not "
        "read when the next check-in is. Leave it out.\n"
    )
    listed = invoke("runs", "list").stdout
    assert "next check-in, its time known" in listed
