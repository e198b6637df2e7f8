"""`fedgru check` as typed: exit code, output, whole messages."""

import json

import pytest
from click.testing import CliRunner

from fedgru.cli.main import main
from fedgru.data import datasets, synthetic

CHECKS = [
    *("data", "splits", "time order", "vocabulary", "scaling", "training targets"),
    *("scored targets", "stop metric", "best round", "scored once", "test result", "reproduced"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """data/town, a made-up city of 6 people, and one run on it, the counting baseline `last`."""
    folder = tmp_path_factory.mktemp("work")
    city = synthetic.make_city(synthetic.CityConfig(num_users=6, checkins_per_user=40, seed=1))
    datasets.save_city("town", folder / "data", city)
    result = invoke(folder, "baseline", "last", "--data", "town")
    assert result.exit_code == 0, result.output
    return folder


def invoke(folder, *args):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(main, args)


def test_a_clean_run(folder):
    result = invoke(folder, "check")
    (run,) = (folder / "log").iterdir()
    assert result.exit_code == 0
    assert result.stderr == f"log/{run.name}\n"
    lines = result.stdout.splitlines()
    assert [line[16:34].strip() for line in lines[:-1]] == CHECKS
    assert lines[7] == (
        "not applicable  stop metric       the run is a counting baseline: no round is chosen"
    )
    assert lines[-1] == "12 checks: 9 ok, 3 not applicable."


def test_a_problem_is_exit_code_1(folder):
    (run,) = (folder / "log").iterdir()
    report = json.loads((run / "test.json").read_text())
    value = report["test/acc@1/macro"]
    try:
        (run / "test.json").write_text(json.dumps(report | {"test/acc@1/macro": 0.99}))
        result = invoke(folder, "check", run.name, "--json")
        found = json.loads(result.stdout)
        assert result.exit_code == 1
        assert found["run"] == f"log/{run.name}"
        assert found["counts"] == {"ok": 7, "problem": 2, "not applicable": 3}
        assert [check["name"] for check in found["checks"]] == CHECKS
        by_name = {check["name"]: check for check in found["checks"]}
        assert by_name["reproduced"] == {
            "name": "reproduced",
            "status": "problem",
            "why": f"test.json says test/acc@1/macro 0.99, the run's counts {value:.6g}",
        }
        assert by_name["test result"]["why"].startswith(
            "test.json says test/acc@1/macro 0.99, but "
        )
        result = invoke(folder, "check", run.name)
        assert (result.exit_code, result.stdout.splitlines()[-1]) == (
            1,
            "12 checks: 7 ok, 2 problem, 3 not applicable.",
        )
    finally:
        (run / "test.json").write_text(json.dumps(report))


def test_no_run(folder):
    result = invoke(folder, "check", "--log-dir", "nowhere")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: no run in nowhere/. Make one with: fedgru train --features big\n"
    )
