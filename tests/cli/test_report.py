"""`fedgru report`, `fedgru tensorboard`: as typed."""

import html
import json
import os
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from markupsafe import escape

from fedgru.report import build
from fedgru.report.runs import read_runs
from fedgru.runs import listing
from tests.cli.test_main import SMALL, invoke

HOSTILE = "<script>alert(1)</script> & \"$x_1$'"
SECTIONS = [
    *("Settings", "Data used", "Learning curves", "Test result"),
    *("Accuracy over clients", "When and for whom", "What goes wrong", "Leakage", "Cost"),
]


def make_runs(folder, hostile=True):
    """Make data sets and evaluated runs: two that are comparable, and one of hostile names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        invoke("data", "synth", "--name", "hamlet", "--users", 6, "--checkins-per-user", 100)
        invoke("train", *SMALL, "--name", "first")
        invoke("train", *SMALL, "--name", "second", "--clients-per-round", 3, "--prior", "markov")
        if hostile:
            import_hostile(folder)
            words = [*SMALL[2:], "--data", "hostile", "--features", "category,clock"]
            invoke("train", *words, "--prior", "none", "--name", "hostile")
    return folder


def import_hostile(folder):
    """Import check-ins of users and categories whose names are not harmless in HTML."""
    text = HOSTILE.replace('"', '""')
    lines = [
        f'"{user}{text}",v{i % 3},{1333476009 + 3600 * (5 * i + user)},"{"ab"[i % 2]}{text}",,'
        for i in range(30)
        for user in range(3)
    ]
    (folder / "visits.csv").write_text("user,venue,time,kind,lat,lon\n" + "\n".join(lines))
    columns = {"user": "user", "venue": "venue", "time": "time", "category": "kind"}
    columns |= {"latitude": "lat", "longitude": "lon"}
    words = [word for pair in columns.items() for word in ("--column", "=".join(pair))]
    invoke("data", "import", "csv", "visits.csv", "--name", "hostile", *words)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("reported"))


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_of(name):
    return next(Path().glob(f"log/*-{name}"))


def report(*words):
    """Write a report; return its text."""
    invoke("report", *words, "--output", "out.html", "--names")
    return Path("out.html").read_text("utf-8")


def test_report_says_where_how_large_and_how_long(here):
    shutil.rmtree(run_of("hostile"))
    result = invoke("report")  # the newest run
    file = run_of("second") / "report.html"
    assert re.fullmatch(rf"Report: {file} \(\d\.\d MB, made in \d+\.\d s\)\n", result.stdout), (
        result.stdout
    )
    text = file.read_text("utf-8")
    assert "<h1>Report of second</h1>" in text
    assert re.findall(r"<h2>(.*?)</h2>", text) == SECTIONS
    assert result.stderr == ""
    # several runs: none of their folders is the place for it
    invoke("report", run_of("first"), run_of("second"))
    assert "<h1>Report of first, second</h1>" in Path("report.html").read_text("utf-8")


def test_report_needs_nothing_else_and_its_links_lead_somewhere(here):
    text = report(run_of("first"), run_of("second"))
    assert "<script" not in text
    assert "@import" not in text
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    links = re.findall(r'(?:\bhref|\bsrc)="([^"]*)"|url\(([^)]*)\)', text)
    targets = {a or b for a, b in links}
    targets = {target for target in targets if not target.startswith("data:")}  # in the file
    assert {target[0] for target in targets} == {"#"}
    assert {target[1:] for target in targets} <= {*ids}


def test_report_shows_the_numbers_of_the_evaluation(here):
    text = report(run_of("first"))
    test = json.loads((run_of("first") / "test.json").read_text())
    for name, result in [("model", test), *test["baselines"].items()]:
        cells = [f"{result[f'test/{metric}/micro']:.4f}" for metric in ("acc@1", "acc@5")]
        row = f"<td>{name.replace('_', ' ')}</td>" + "".join(
            f'<td class="n">{c}</td>' for c in cells
        )
        assert row in text
    gain = test["gains"]["frequency"]["test/acc@1/micro"]
    low, high = gain["interval"]
    verdict = "not significant" if low <= 0 <= high else "significant"
    assert (
        f'<td>first</td><td>frequency</td><td class="n">{gain["difference"]:+.4f}</td>'
        f'<td class="n">{low:+.4f} to {high:+.4f}</td><td>{verdict}</td>'
    ) in text
    fingerprint = json.loads(Path("data/hamlet/passport.json").read_text())["fingerprint"]
    assert f"<code>{fingerprint}</code>" in text
    assert (
        "<code>fedgru train --data hamlet --prior backoff --batch-size 2 --seq-len 5 "
        "--hidden-dim 8 --rounds 2 --threads 1 --name first\n"
    ) in text


def test_predictions_agree_with_the_evaluation(here):
    (run,) = read_runs([listing.open_run("log", run_of("first"))], "data")
    sums, counts = run.client_sums()
    assert run.test["test/acc@1/micro"] == pytest.approx(sums.sum() / counts.sum())
    assert run.test["test/acc@1/macro"] == pytest.approx(np.mean(sums / counts))
    first = run.outcomes.first_visit
    assert run.test["first_visits"]["test/targets"] == first.sum()
    found = run.outcomes.correct[first].mean()
    assert run.test["first_visits"]["test/acc@1/micro"] == pytest.approx(found)


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(here):
    assert report(run_of("first")) == report(run_of("first"))


def test_names_are_data(here):
    text = report(run_of("hostile"))
    assert "<script" not in text
    assert escape(f"0{HOSTILE}") in text  # a client
    assert "<b>" not in text
    assert f"{html.escape(HOSTILE[:17], quote=False)}" in text  # a category, on an axis
    assert "The check-ins have no coordinates, or all the same: there is no map." in text
    assert "Where predictions fail" not in text


def test_runs_beside_each_other(here):
    text = report(run_of("first"), run_of("second"))
    tests = [json.loads((run_of(n) / "test.json").read_text()) for n in ("first", "second")]
    difference = tests[1]["test/acc@1/micro"] - tests[0]["test/acc@1/micro"]
    assert f'<td>second</td><td>first</td><td class="n">{difference:+.4f}</td>' in text
    assert "<td>--prior</td><td>kernel</td><td>backoff</td><td>markov</td>" in text
    assert text.count("Confusion of categories (") >= 2
    # one counting for both, chosen on validation
    on_val = {}
    for name in set().union(*(test["baselines"] for test in tests)):
        found = [t["baselines"][name]["val/acc@1/micro"] for t in tests if name in t["baselines"]]
        on_val.setdefault(sum(found) / len(found), []).append(name)
    best = [name.replace("_", " ") for name in on_val[max(on_val)]]
    (said,) = set(re.findall(r"The best counting, ([a-z ]+), was chosen by acc@1 on val", text))
    assert said in best
    found = re.findall(r"best counting baseline \(([a-z ]+?)(?:, its own prior)?\)", text)
    assert len(found) == 2 and set(found) == {said}  # a verdict for each, on the same baseline
    assert "which was kept for the best validation loss (hollow marker)" in text
    assert "comes closest" not in text
    # the data is the same, so it is told once
    assert text.count("What each step kept</p>") == 1


@pytest.mark.slow
def test_an_audit_is_reported(here):
    invoke("audit", run_of("first"), "--concept", "client", "--probe", "logistic")
    found = json.loads((run_of("first") / "audit.json").read_text())["concepts"]["client"]
    text = report(run_of("first"))
    reading = found["readings"][0]
    assert (
        f"<td>client</td><td>{reading['view']}</td><td>{reading['probe']}</td>"
        f'<td class="n">{reading["accuracy"]:.4f}</td>'
    ) in text


def refuse(*words):
    """The message of a report that is refused; nothing is written."""
    result = invoke("report", *words, code=1)
    assert result.stdout == ""
    assert not [*Path().rglob("*report.html*"), *Path().rglob("*out.html*")]
    return result.stderr


def test_runs_that_were_not_evaluated(here):
    first, second = run_of("first"), run_of("second")
    (first / "test.json").unlink()
    (second / "predictions.parquet").unlink()
    assert refuse(first, second) == (
        f"Error: {first}, {second}: there are no predictions to report, because the run was not "
        f"evaluated, or by an older fedgru. Evaluate first:\n"
        f"  fedgru eval {first}\n  fedgru eval {second}\n"
    )


def test_runs_that_cannot_stand_beside_each_other(here):
    first = run_of("first")
    assert refuse(first, first) == f"Error: {first} is given twice.\n"
    copies = [shutil.copytree(first, f"log/copy-{i}") for i in range(7)]
    assert refuse(*copies) == "Error: 7 runs are given, but a report shows at most 6 of them.\n"
    prints = [
        json.loads(Path(f"data/{n}/passport.json").read_text()) for n in ("hamlet", "hostile")
    ]
    hamlet, hostile = (found["fingerprint"][:12] for found in prints)
    assert refuse(first, run_of("hostile")) == (
        f"Error: {first} and {run_of('hostile')} cannot be in one report: the data sets differ "
        f"(hamlet {hamlet}, hostile {hostile}). Make a report of each.\n"
    )


def test_runs_with_other_targets(here):
    # as if trained with --users 5: the least active client's targets are gone
    first, fewer = run_of("first"), Path("log/fewer")
    shutil.copytree(first, fewer)
    config = (fewer / "config.toml").read_text()
    (fewer / "config.toml").write_text(config.replace("[data]\n", "[data]\nusers = 5\n"))
    table = pq.read_table(fewer / "predictions.parquet")
    (client,) = set(table["client_id"].to_pylist()[-1:])
    kept = table.filter(pc.not_equal(pc.cast(table["client_id"], "string"), client))
    pq.write_table(kept, fewer / "predictions.parquet")
    assert refuse(first, fewer) == (
        f"Error: {first} and {fewer} cannot be in one report: the test targets differ "
        f"({len(table)} of 6 clients, {len(kept)} of 5). Make a report of each.\n"
    )


def test_predictions_that_are_not_the_runs(here):
    first = run_of("first")
    file = first / "predictions.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    assert refuse(first) == (
        f"Error: {file} does not hold the test targets of the run. Write it again with: fedgru "
        f"eval {first}\n"
    )
    file.write_bytes(b"PAR1")
    assert re.fullmatch(
        rf"Error: {file} is damaged \(.*\)\. Write it again with: fedgru eval {first}\n",
        refuse(first),
    )


def test_a_data_set_that_is_gone(here):
    shutil.rmtree("data/hamlet")
    first = run_of("first")
    assert refuse(first) == (
        f"Error: {first}: its data set cannot be opened. There is no data set 'hamlet' in data, "
        "only hostile, embedded. Make one with `fedgru data import` or `fedgru data synth`.\n"
    )


def test_where_a_report_cannot_go(here, monkeypatch):
    first = run_of("first")
    assert refuse(first, "--output", "out.txt") == (
        "Error: --output is out.txt, expected a name that ends in .html.\n"
    )
    Path("dir.html").mkdir()
    assert refuse(first, "--output", "dir.html") == (
        "Error: --output is dir.html, which is a folder.\n"
    )
    assert refuse(first, "--output", "no/out.html") == (
        "Error: --output is no/out.html, but there is no folder no.\n"
    )


def test_a_report_is_written_whole_or_not_at_all(here, monkeypatch):
    def disk_full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "make_report", lambda *_: "text")
    monkeypatch.setattr(os, "fsync", disk_full)
    assert refuse(run_of("first"), "--output", "out.html") == (
        "Error: cannot write out.html: No space left on device.\n"
    )


def test_tensorboard_without_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke("tensorboard", code=1).stderr == (
        "Error: no run in log/. Make one with: fedgru train --features big\n"
    )
    assert invoke("tensorboard", "gone", code=1).stderr == (
        "Error: no run gone: neither gone nor log/gone is a folder with a run.json, and no run in "
        "log/ has that --name.\n"
    )


def test_tensorboard_on_a_port_that_is_taken(here):
    family, *_, address = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)[0]
    with socket.create_server(address, family=family) as taken:
        port = taken.getsockname()[1]
        result = invoke("tensorboard", "--port", port, code=1)
    assert result.stdout == ""
    assert result.stderr == (
        f"Error: --port is {port}, which another program uses, perhaps another TensorBoard. Take "
        f"another, such as --port {port + 1}, or --port 0 for any free one.\n"
    )


def test_a_model_card(here):
    run = run_of("first")
    test = json.loads((run / "test.json").read_text())
    text = invoke("card", run).stdout
    title, _, verdict, *_ = text.splitlines()
    assert title == "# first: the next category of a person"
    assert verdict.startswith(f"**{test['verdict']['headline']}** ")
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        *("## Data", "## Method", "## Results", "## What it reveals", "## Privacy", "## Limits"),
    ]
    low, high = test["intervals"]["test/acc@1/micro"]
    assert f"| **this run** | {test['test/acc@1/micro']:.4f} ({low:.4f} to {high:.4f}) | " in text
    row = test["baselines"]["running_backoff"]
    assert f"| running backoff | {row['test/acc@1/micro']:.4f} | " in text
    assert f"| client | {test['leakage']['client']['worst']['representation']:.3f} | " in text
    assert "No differential privacy" in text
    facts = json.loads((run / "run.json").read_text())
    assert f"`{facts['fingerprint']}`" in text
    # without the data set it says so
    shutil.move("data/hamlet", "elsewhere")
    try:
        text = invoke("card", run).stdout
    finally:
        shutil.move("elsewhere", "data/hamlet")
    assert "The data set is not here, so its origin is not known: " in text


def test_a_card_of_hostile_names_has_no_ids(here):
    text = invoke("card", run_of("hostile")).stdout
    assert HOSTILE[:17] not in text
