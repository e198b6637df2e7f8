"""Differential privacy and attacks as typed: from training to the report."""

import json

from tests.cli.test_main import SMALL, invoke


def test_from_training_to_the_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    invoke("data", "synth", "--name", "hamlet", "--users", 6, "--checkins-per-user", 60)
    dp = ["--mean", "clients", "--client-weights", "equal", "--patience", 0]
    invoke("train", *SMALL, *dp, "--name", "plain")
    dp += ["--dp-clip", 0.5, "--dp-noise", 2, "--dp-setup-noise", 4, "--dp-delta", 1e-3]
    trained = invoke("train", *SMALL, *dp, "--name", "private")
    assert "it does not cover: classes, and the values that have rows; " in trained.stderr
    assert "the last round is kept: " in trained.stderr
    run = next(tmp_path.glob("log/*-private"))
    epsilon = json.loads((run / "test.json").read_text())["privacy"]["epsilon"]
    assert f"epsilon {epsilon:.3f}" in trained.stdout
    plain = next(tmp_path.glob("log/*-plain"))
    compared = invoke("compare", run, plain).stdout
    assert f"Differential privacy: private epsilon {epsilon:.3f}, delta 0.001." in compared
    assert "Megabytes to clients + from clients: private " in compared
    said = invoke("runs", "bytes", plain, "--output", "bytes.csv").stdout
    lines = (tmp_path / "bytes.csv").read_text().splitlines()
    assert lines[0].startswith("round,client_id,down_dense,down_rows,")
    assert said.endswith(f"; {len(lines) - 1} lines: bytes.csv\n")
    invoke("report", run, plain, "--output", "both.html")
    page = (tmp_path / "both.html").read_text()
    assert ">Privacy<" in page and "the whole table is sent, both ways" in page
    words = ("--attack", "reconstruction", "--attack", "membership", "--attack-rounds", 1, "--json")
    attacked = json.loads(invoke("audit", run, *words).stdout)
    assert attacked["membership"]["at_least"] < attacked["membership"]["at_most"]
    assert attacked == json.loads((run / "attacks.json").read_text())
    again = invoke("audit", plain, "--attack", "reconstruction").stdout
    assert "as sent" in again and "sum of 10, noised" in again


def test_what_goes_with_an_attack():
    wrong = invoke("audit", "--attack-rounds", 2, code=2)
    assert "no effect without --attack membership" in wrong.stderr
    wrong = invoke("audit", "--attack", "membership", "--probe", "knn", code=2)
    assert "have no effect with --attack" in wrong.stderr
