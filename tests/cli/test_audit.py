"""`fedgru train --agnostic-to`, `fedgru audit`, `fedgru agnostic pareto`: as typed."""

import csv
import json
import shutil

import pytest

from fedgru import config
from tests.cli.test_main import SMALL, invoke


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with an ordinary and an agnostic run, evaluated and audited; what was printed."""
    folder = tmp_path_factory.mktemp("agnostic")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        invoke("data", "synth", "--name", "hamlet", "--users", 6, "--checkins-per-user", 60)
        printed = [invoke("train", *SMALL, "--name", "ordinary")]
        agnostic = ["--agnostic-to", "client", "--alpha", 0.9, "--method", "leace+noise"]
        printed.append(invoke("train", *SMALL, *agnostic, "--name", "agnostic"))
        for name in ("ordinary", "agnostic"):
            words = ["--probe", "logistic", "--concept", "client"]
            printed.append(invoke("audit", _run(folder, name), *words))
    return folder, printed


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(here, name):
    return next(here.glob(f"log/*-{name}"))


def test_every_run_says_what_it_leaks(trained, here):
    _, printed = trained
    lines = printed[0].stdout.splitlines()
    at = lines.index(
        "Accuracy of a newly trained classifier that recovers a concept (trained on val weeks, "
        "tested on test weeks):"
    )
    leakage = json.loads((_run(here, "ordinary") / "test.json").read_text())["leakage"]
    client = leakage["client"]
    assert lines[at + 1] == (
        f"  client (6 values): representation {client['worst']['representation']:.3f}, logits "
        f"{client['worst']['logits']:.3f}; commonest {client['floor']:.3f}"
    )
    assert lines[at + 2].startswith("  zone (12 values): ") or "not audited" in lines[at + 2]


def test_an_agnostic_run_says_what_it_does(trained, here):
    _, printed = trained
    assert "Agnostic to client (6 values): leace+noise, alpha 0.9 (ganin)\n" in printed[1].stderr
    with open(_run(here, "agnostic") / "metrics.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    # two rounds: half of them is one, so alpha has risen in the first
    assert [row["train/alpha/micro"] for row in rows][0] == ""
    assert float(rows[1]["train/alpha/micro"]) == pytest.approx(0.9, abs=1e-3)


@pytest.mark.slow
def test_a_taught_head_is_said_to_be_a_simulation(here):
    words = ["--agnostic-to", "client", "--method", "reversal"]
    result = invoke("train", *SMALL, *words, "--no-eval")
    assert (
        "Agnostic to client (6 values): reversal, alpha 0.9 (ganin)\n  Simulation: the server "
        "trains the heads on the states of all clients, which it would not have in a deployment.\n"
    ) in result.stderr


def test_audit_prints_and_keeps_its_tables(trained, here):
    _, printed = trained
    run = _run(here, "ordinary")
    report = json.loads((run / "audit.json").read_text())
    found = report["concepts"]["client"]
    views = [r["view"] for r in found["readings"]]
    assert views == [
        *("representation", "logits", "raw input", "representation + leace", "raw window")
    ]
    worst = found["worst"]["representation"]
    assert (
        f"  best probe of the representation (logistic): accuracy {100 * worst:.1f} %; always the "
        f"commonest value: {100 * found['floor']:.1f} %\n"
    ) in printed[2].stdout
    again = json.loads(
        invoke("audit", run, "--probe", "knn", "--concept", "weekend", "--json").stdout
    )
    assert list(again["concepts"]) == ["weekend"]
    kept = json.loads((run / "audit.json").read_text())
    assert list(kept["concepts"]) == ["client", "weekend"]


def test_what_erasure_took_is_taken_from_what_is_served(here):
    found = {
        name: json.loads((_run(here, name) / "audit.json").read_text())["concepts"]["client"]
        for name in ("ordinary", "agnostic")
    }
    assert found["agnostic"]["worst"]["carried state"] > 0.5
    gap = found["ordinary"]["worst"]["representation"]
    assert found["agnostic"]["worst"]["representation"] < gap - 0.2


def test_pareto_draws_audited_runs(here):
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    names = [_run(here, name).name for name in ("ordinary", "agnostic")]
    result = invoke("agnostic", "pareto", *names, "--concept", "client")
    assert result.stdout.endswith("Figure and numbers: log/pareto/pareto.png, pareto.csv\n")
    with open(here / "log/pareto/pareto.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(r["method"], r["alpha"]) for r in rows] == [
        ("leace+noise", "0.9"),
        ("ordinary", "0.0"),
    ]
    assert (here / "log/pareto/pareto.png").read_bytes()[:4] == b"\x89PNG"
    missing = invoke("agnostic", "pareto", *names, "--concept", "zone", code=1)
    assert missing.stderr == (
        f"Error: log/{names[0]} has no audit of zone. Make it with: fedgru audit log/{names[0]} "
        "--concept zone\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--agnostic-to age",
            "unknown concept 'age'. Accepted: zone, weekend, client, category-group, "
            "category-group:NAME,NAME, or a column of the data set (category, raw_category, "
            "venue).",
        ),
        ("--agnostic-to zone --alpha 1.5", "--alpha is 1.5, expected at most 1."),
        (
            "--alpha 0.7",
            "--alpha has no effect without --agnostic-to, such as --agnostic-to zone.",
        ),
        (
            "--agnostic-to zone --alpha 0.7 --protected-weight 2",
            "--alpha has no effect with --protected-weight: give one of the two.",
        ),
        (
            "--agnostic-to zone --method magic",
            "unknown method 'magic'. Accepted: reversal, confusion, ensemble, bottleneck, noise, "
            "hsic, decorrelate, leace, or several joined by +, such as reversal+bottleneck.",
        ),
        (
            "--agnostic-to zone --method leace --protected-head server",
            "--protected-head has no effect with --method leace, which has no head.",
        ),
        (
            "--agnostic-to zone --method ensemble --protected-head local",
            "--method ensemble trains the heads ahead of the clients: use --protected-head "
            "server, or leave it out.",
        ),
        (
            "--agnostic-to zone --engine tff --mean clients",
            "--engine tff does not know --agnostic-to. Use --engine jax, reference or ray, or "
            "leave --agnostic-to out.",
        ),
        (
            "--agnostic-to weekend --method hsic --engine reference --threads 1",
            "--engine reference does not know --method hsic. Use --engine jax or ray, or --method "
            "reversal.",
        ),
    ],
)
def test_errors(here, words, message):
    small = [w for w in SMALL if w not in ("--threads", "1")] if "reference" in words else SMALL
    words = words.replace(" --threads 1", "").split()
    result = invoke("train", *small, *words, code=1)
    assert result.stderr.endswith(f"Error: {message}\n")


def test_a_concept_of_one_value_is_refused(here):
    result = invoke("audit", "--concept", "category-group:Gym", code=1)
    assert "no check-in has the category 'Gym'" in result.stderr


def test_settings_survive_the_run_folder(here):
    settings = config.load(config_file=_run(here, "agnostic") / "config.toml")
    assert settings.agnostic.agnostic_to == "client"
    assert settings.agnostic.method == "leace+noise"


@pytest.mark.slow
def test_a_kept_column_is_imported_protected_and_audited(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # three people with 20 visits each; the faith is a person's own and that of c is not known,
    # the mood is good at home, bad in a bar and not known in a gym
    rows = ["who,place,when,kind,faith,mood"]
    for i in range(60):
        who, faith = [("a", "sikh"), ("b", "sufi"), ("c", "")][i % 3]
        kind, mood = [("Home", "good"), ("Bar", "bad"), ("Gym", "")][i // 3 % 3]
        rows.append(f"{who},{kind}-{who},{1333476009 + 7200 * i},{kind},{faith},{mood}")
    (tmp_path / "visits.csv").write_text("\n".join(rows), encoding="utf-8")
    words = "--name hamlet --column user=who --column venue=place --column time=when"
    words += " --column category=kind --keep faith --keep mood"
    printed = invoke("data", "import", "csv", "visits.csv", *words.split()).stdout
    # visits 0 to 19 in turn at home, bar, gym: 7 of 20 at home, 7 in a bar
    assert "  kept faith      2 values: sikh 33.3%, sufi 33.3%\n" in printed
    assert "  kept mood       2 values: good 35.0%, bad 35.0%\n" in printed

    settings = [*SMALL, "--rounds", 1, "--features", "category", "--agnostic-to", "faith"]
    settings += ["--method", "reversal"]
    trained = invoke("train", *settings)
    # no person alone can learn to tell the faiths apart
    assert (
        "Agnostic to faith (2 values): reversal, alpha 0.9 (ganin)\n  Simulation: the server "
        "trains the heads on the states of all clients, which it would not have in a deployment.\n"
    ) in trained.stderr
    assert "\n  faith (2 values): representation " in trained.stdout

    words = "--concept faith --concept mood --probe logistic --json"
    found = json.loads(invoke("audit", *words.split()).stdout)["concepts"]
    # of each person visits 12 to 15 are in val, 16 to 18 in test with one after them
    counts = {
        name: [audit[key] for key in ("num_values", "num_fit", "num_test", "num_unknown")]
        for name, audit in found.items()
    }
    # the moods there: good, bad, -, good; and bad, -, good
    assert counts == {"faith": [2, 2 * 4, 2 * 3, 4 + 3], "mood": [2, 3 * 3, 3 * 2, 3 + 3]}
    assert found["faith"]["floor"] == found["mood"]["floor"] == 0.5
    assert found["mood"]["worst"]["raw input"] == 1.0  # the kind of place tells it
    assert found["faith"]["worst"]["raw input"] == 0.5  # and nothing of the faith

    unknown = invoke("audit", "--concept", "age", code=1)
    assert unknown.stderr.endswith(
        "Error: unknown concept 'age'. Accepted: zone, weekend, client, category-group, "
        "category-group:NAME,NAME, or a column of the data set (category, raw_category, venue, "
        "faith, mood).\n"
    )
