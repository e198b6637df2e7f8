"""`fedgru agnostic ...` as typed: what it prints, what it writes, what it refuses."""

import csv
import json

import pytest
from click.testing import CliRunner

from fedgru.cli.main import main
from tests.images.test_data import save_image

TINY = ["--channels", "4", "--representation-dim", "4", "--head", "4", "--draws", "2"]
TINY += ["--epochs", "1"]


@pytest.fixture
def fedgru(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        return CliRunner().invoke(main, ["agnostic", *words])

    return run


@pytest.mark.slow
def test_the_sweep_writes_its_table_and_figure_and_goes_on(fedgru, tmp_path):
    words = ["sweep", *TINY, "--alpha", "0.5", "--alpha", "0", "--repeats", "1"]
    result = fedgru(*words)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert " ".join(lines[0].split()) == (
        "method alpha target head counter-examples context head best fresh probe"
    )
    assert [line.split()[:2] for line in lines[1:3]] == [
        ["hsic+decorrelate", "0"],
        ["hsic+decorrelate", "0.5"],
    ]
    assert lines[3].startswith("Commonest context 50.0, best probe of the raw images ")
    assert lines[4].startswith("Alpha that validation prefers with hsic+decorrelate: 0")
    assert lines[5] == "Figure and numbers: log/sweep/sweep.png, summary.csv, results.csv"
    folder = tmp_path / "log/sweep"
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    with open(folder / "results.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["method"], r["alpha"], r["seed"]) for r in rows] == [
        ("ordinary", "0.0", "0"),
        ("hsic+decorrelate", "0.5", "0"),
    ]
    before = (folder / "results.jsonl").read_bytes()
    again = fedgru(*words)
    assert again.stdout == result.stdout
    assert (folder / "results.jsonl").read_bytes() == before
    other = fedgru(*words, "--lr", "0.1")
    assert other.exit_code == 1
    assert other.stderr == (
        "Error: log/sweep was made with --lr 0.002, now it is 0.1. Give another --name, or the "
        "same settings to continue it.\n"
    )


def test_cross_domain(fedgru, tmp_path):
    result = fedgru("cross-domain", *TINY)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "trained on  tested on targets  tested on contexts"
    assert [line.split()[0] for line in lines[1:3]] == ["targets", "contexts"]
    assert lines[3] == ("Figure and numbers: log/cross-domain/cross_domain.png, cross_domain.csv")
    assert (tmp_path / "log/cross-domain/cross_domain.png").exists()
    assert json.loads((tmp_path / "log/cross-domain/settings.json").read_text())["epochs"] == 1


@pytest.mark.slow
def test_maps(fedgru, tmp_path):
    result = fedgru("maps", *TINY, "--method", "hsic", "--examples", "2")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].endswith(" of 100 hold-out images.")  # 50 digits, twice
    with open(tmp_path / "log/maps/maps.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 100
    assert {row["class"] for row in rows} == {"digit 3", "digit 8"}
    assert (tmp_path / "log/maps/maps.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sweep --alpha 1.2", "--alpha is 1.2, expected 0 to 1."),
        ("maps --alpha -1", "--alpha is -1, expected 0 to 1."),
        (
            "sweep --method magic",
            "unknown method 'magic'. Accepted: reversal, confusion, ensemble, bottleneck, noise, "
            "hsic, decorrelate, leace, or several joined by +, such as reversal+bottleneck.",
        ),
        (
            "sweep --method decorrelate --correlation 1",
            "--method decorrelate draws each target equally often with each context, but with "
            "--correlation 1 it has only one context. Use --method hsic.",
        ),
        ("sweep --target x", "--target also needs --context: a folder of context images."),
        (
            "cross-domain --context missing",
            "missing is not a folder. --context takes a folder with one sub-folder for each class "
            "of the context.",
        ),
        (
            "maps --context photos",
            "photos has 1 class folder (coast), expected at least 2: one sub-folder for each class "
            "of the context.",
        ),
        (
            "sweep --preset paper",
            "--preset paper needs --target and --context: folders of images, one sub-folder per "
            "class.",
        ),
    ],
)
def test_what_is_refused(fedgru, tmp_path, words, message):
    (tmp_path / "photos/coast").mkdir(parents=True)
    result = fedgru(*words.split())
    assert result.exit_code == 1
    assert result.stderr == f"Error: {message}\n"
    assert not (tmp_path / "log").exists()


def test_what_was_passed_over_is_said(fedgru, tmp_path):
    for value, name in enumerate(("coast", "forest")):
        for i in range(20):
            save_image(tmp_path / "photos" / name / f"{i}.png", 60 + 100 * value)
    (tmp_path / "photos/coast/list.txt").write_text("x")
    result = fedgru("cross-domain", "--context", "photos", *TINY)
    assert result.exit_code == 0, result.output
    assert result.stderr == "Note: photos: skipped files that are not images: 1 x .txt.\n"


@pytest.mark.parametrize("command", ["sweep", "maps", "cross-domain"])
def test_help_ends_with_an_example(fedgru, command):
    result = fedgru(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].strip().startswith(f"fedgru agnostic {command} ")
