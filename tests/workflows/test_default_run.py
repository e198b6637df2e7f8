"""The default run, end to end: the kernel prior learnt, stored, read back, and the same report."""

import json

import pytest
from click.testing import CliRunner

from fedgru.cli.main import main
from fedgru.runs import listing
from fedgru.task.kernel_prior import Kernel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one default run on a small made-up city, but for its size."""
    folder = tmp_path_factory.mktemp("default")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (
            "data synth --name town --users 12 --checkins-per-user 80",
            "train --data town --features big --hidden-dim 8 --rounds 2",
        ):
            result = CliRunner().invoke(main, words.split())
            assert result.exit_code == 0, result.output
    return folder


def test_the_kernel_is_learnt_and_kept(folder):
    run = listing.open_run(folder / "log")
    kernel = run.facts()["kernel"]
    start = Kernel().to_dict()
    assert kernel.keys() == start.keys()
    assert max(abs(kernel[name] - start[name]) for name in kernel) > 0.3
    log = (run.path / "run.log").read_text()
    assert "kernel prior learnt in 80 rounds: train loss " in log


def test_the_report_beats_plain_counts_and_shows_the_prior_alone(folder):
    report = json.loads((listing.open_run(folder / "log").path / "test.json").read_text())
    counted = report["baselines"]["running_backoff"]["test/acc@1/micro"]
    assert report["test/acc@1/micro"] > counted + 0.05
    assert report["baselines"]["running_kernel"]["test/acc@1/micro"] > counted + 0.05
    assert set(report["gains"]) == set(report["baselines"])


def test_evaluating_again_gives_the_same(folder, monkeypatch):
    monkeypatch.chdir(folder)
    run = listing.open_run("log")
    before = json.loads((run.path / "test.json").read_text())
    result = CliRunner().invoke(main, ["eval", "--json", "--must-beat", "running_backoff"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == before


def test_the_written_config_repeats_the_run_to_the_byte(folder, monkeypatch):
    monkeypatch.chdir(folder)
    first = listing.open_run("log")
    words = ["train", "--config", str(first.path / "config.toml"), "--log-dir", "again"]
    assert CliRunner().invoke(main, words).exit_code == 0
    again = listing.open_run("again")
    for name in ("metrics.csv", "best.npz", "config.toml"):
        assert (again.path / name).read_bytes() == (first.path / name).read_bytes()
    assert again.facts()["kernel"] == first.facts()["kernel"]
