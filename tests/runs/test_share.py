"""What is made to be given away has no user's id in it: reports, exports, shared runs."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedgru.cli.main import main
from fedgru.predict.export import open_export
from fedgru.runs.listing import open_run

SMALL = ["--hidden-dim", 4, "--batch-size", 2, "--seq-len", 5, "--threads", 1, "--rounds", 2]
PEOPLE = ["ann-of-street-7", "ben-of-street-8", "cem-of-street-9"]
COLUMNS = "--column user=who --column venue=place --column time=when --column category=kind"


def typed(*words, expect=0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == expect, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run of three people with telling names, evaluated and audited."""
    folder = tmp_path_factory.mktemp("people")
    lines = ["who,place,when,kind"]
    for number, who in enumerate(PEOPLE):
        for visit in range(60):
            kind = ("Cafe", "Home", "Office")[(visit * (number + 1)) % 3]
            lines.append(f"{who},{kind}-{number},{1346536889 + visit * 7200 + number},{kind}")
    (folder / "them.csv").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["--name", "them", *COLUMNS.split(), "--categories", "raw"]
        typed("data", "import", "csv", "them.csv", *words)
        typed("train", "--data", "them", "--features", "category,user", "--name", "u", *SMALL)
        typed("train", "--data", "them", "--features", "category,clock", "--name", "it", *SMALL)
        typed("audit", "it", "--concept", "client", "--probe", "logistic")
    return folder


@pytest.fixture(autouse=True)
def there(folder, monkeypatch):
    monkeypatch.chdir(folder)


def ids_in(path):
    """The users' ids that are in a file, or in the files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    content = b"".join(file.read_bytes() for file in files)
    return [who for who in PEOPLE if who.encode() in content]


def test_a_report_has_pseudonyms_unless_names_are_wanted(tmp_path):
    typed("report", "it", "--output", tmp_path / "a.html")
    typed("report", "it", "--output", tmp_path / "b.html")
    typed("report", "it", "--output", tmp_path / "names.html", "--names")
    assert ids_in(tmp_path / "a.html") == []
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    worst = ids_in(tmp_path / "names.html")
    assert len(worst) == 1  # the table of the worst tenth
    (shown,) = open_run("log", "it").pseudonyms(worst)
    assert (tmp_path / "a.html").read_text().count(shown) == 1
    # another run, another name; two runs in one report share the first one's
    assert shown != open_run("log", "u").pseudonyms(worst)[0]
    typed("report", "it", "u", "--output", tmp_path / "two.html")
    assert ids_in(tmp_path / "two.html") == []
    two = (tmp_path / "two.html").read_text()
    assert shown in two
    assert not any(name in two for name in open_run("log", "u").pseudonyms(PEOPLE))


def test_an_export_has_pseudonyms_unless_names_are_wanted(tmp_path):
    typed("export", "u", "--to", "weights", "--output", tmp_path / "out")
    assert ids_in(tmp_path / "out") == []
    users = open_export(tmp_path / "out").vocabularies["user"]
    assert [*users] == open_run("log", "u").pseudonyms(PEOPLE)
    typed("export", "u", "--to", "weights", "--output", tmp_path / "named", "--names")
    named = open_export(tmp_path / "named").vocabularies["user"]
    assert {*named} == {*PEOPLE} and [*named.values()] == [*users.values()]


def test_a_shared_run_tells_of_no_single_person(tmp_path):
    run = open_run("log", "it")
    for name in ("faults.csv", "notes.txt"):
        (run.path / name).write_text(f"round,client_id,why\n1,{PEOPLE[0]},dropped out\n")
    (run.path / "run.log").open("a").write(f"{PEOPLE[1]} at {run.path.resolve()}\n")
    assert ids_in(run.path) == PEOPLE
    told = typed("runs", "share", "it", "--output", tmp_path / "out").stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("SHARED.md", "audit.json", "best.npz", "config.toml", "eval", "metrics.csv", "run.json"),
        *("test.json", "times.csv", "train", "val"),
    ]
    assert ids_in(tmp_path / "out") == []
    facts = json.loads((tmp_path / "out/run.json").read_text())
    assert not {"salt", "data_dir", "members", "error"} & {*facts} and facts["status"] == "done"
    page = (tmp_path / "out/SHARED.md").read_text()
    for name in ("predictions.parquet", "clients.csv", "faults.csv", "run.log", "notes.txt"):
        assert f"| `{name}` |" in page and name in told
    assert str(Path.cwd()) not in page
    # it is a run that can be looked at
    assert "it" in typed("runs", "show", tmp_path / "out").stdout
    typed("runs", "share", "it", "--output", tmp_path / "out", expect=1)
    typed("runs", "share", "it", "--output", tmp_path / "out", "--overwrite")


def test_weights_with_a_row_for_each_person_are_left_out(tmp_path):
    typed("runs", "share", "u", "--output", tmp_path / "out")
    assert not (tmp_path / "out/best.npz").exists()
    assert "a row of weights for each person" in (tmp_path / "out/SHARED.md").read_text()
    typed("baseline", "local", "--data", "them", "--features", "category", "--name", "own", *SMALL)
    typed("runs", "share", "own", "--output", tmp_path / "own")
    assert "| `best.npz` | a model for each person |" in (tmp_path / "own/SHARED.md").read_text()
    (tmp_path / "mine").mkdir()
    said = typed("runs", "share", "it", "--output", tmp_path / "mine", "--overwrite", expect=1)
    assert "is there already: choose another --output, it is no shared run." in said.stderr
