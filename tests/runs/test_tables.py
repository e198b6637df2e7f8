"""fedgru/runs/tables.py: the CSV tables of a run, read back as they were written, or refused."""

import numpy as np
import pytest

from fedgru import config
from fedgru.core.errors import RunError
from fedgru.runs.folder import RunFolder
from fedgru.runs.kinds import CENTRAL
from fedgru.runs.tables import read_clients
from fedgru.training.early_stopping import EarlyStopping
from fedgru.training.loop import Checkpoint

ROUNDS = (
    ({"train/loss/micro": None, "val/loss/micro": 1.5}, {"train": 0.0, "val": 0.25}),
    ({"train/loss/micro": 2.25, "val/loss/micro": 1.25}, {"train": 0.75, "val": 0.5}),
)


@pytest.fixture
def run(tmp_path):
    """A run of two rounds."""
    run = RunFolder.create(tmp_path, config.load({"name": "try"}), {"kind": CENTRAL.name})
    for round_num, written in enumerate(ROUNDS):
        run.record_round(round_num, *written)
    return run


def message(call):
    with pytest.raises(RunError) as error:
        call()
    return str(error.value)


def test_rounds_come_back_as_numbers_and_as_texts(run):
    found = run.rounds()
    assert list(found) == ["round", "train/loss/micro", "val/loss/micro"]
    assert [column.dtype for column in found.values()] == [np.float64] * 3
    np.testing.assert_array_equal(found["train/loss/micro"], [np.nan, 2.25])
    assert found["val/loss/micro"].tolist() == [1.5, 1.25]
    assert run.round_texts() == {
        "round": ["0", "1"],
        "train/loss/micro": ["", "2.25"],
        "val/loss/micro": ["1.5", "1.25"],
    }
    times = {name: column.tolist() for name, column in run.times().items()}
    assert times == {"round": [0, 1], "train_s": [0, 0.75], "val_s": [0.25, 0.5]}


def test_a_run_without_rounds_has_none(tmp_path):
    run = RunFolder.create(tmp_path, config.load({"name": "try"}), {})
    assert (run.rounds(), run.round_texts(), run.times()) == ({}, {}, {})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is no table"),
        (b"round,x\n0,\xff\n", "it is no table"),
        (b'round,x\n0,"1', "it is no table"),
        (b"round,x\n0,1\n1\n", "it is no table"),
        (b"round,x\n0,1,2\n", "it is no table"),
        (b"round,x,x\n0,1,2\n", "it is no table"),
        (b"epoch,x\n0,1\n", "it has no column round"),
        (b"round,x\n0,1\n2,1\n", "its 2 rows are not rounds 0, 1, 2 ..."),
        (b"round,x\n0,1\n1,1\n1,1\n", "its 3 rows are not rounds 0, 1, 2 ..."),
    ],
)
@pytest.mark.parametrize("name", ["metrics.csv", "times.csv"])
def test_a_damaged_table_of_rounds(run, name, content, why):
    file = run.path / name
    file.write_bytes(content)
    read = {"metrics.csv": (run.rounds, run.round_texts), "times.csv": (run.times,)}[name]
    for call in read:
        assert message(call) == f"{file} is damaged: {why}."


def test_a_cell_that_is_no_number(run):
    file = run.path / "metrics.csv"
    file.write_text("round,x\n0,many\n")
    assert message(run.rounds) == f"{file} is damaged: it is no table of numbers."
    assert run.round_texts() == {"round": ["0"], "x": ["many"]}


def test_rounds_are_written_again_as_they_were(run):
    before = [(run.path / name).read_bytes() for name in ("metrics.csv", "times.csv")]
    run.begin_again(Checkpoint(None, None, EarlyStopping(False, 1, 0.0), ROUNDS))
    assert [(run.path / name).read_bytes() for name in ("metrics.csv", "times.csv")] == before


def test_clients_have_ids_and_numbers(tmp_path):
    file = tmp_path / "clients.csv"
    file.write_text('client_id,targets,loss\n007,4,0.5\n"b,""c",2,\n')
    found = read_clients(file)
    assert found["client_id"].tolist() == ["007", 'b,"c']  # an id is never a number
    assert found["targets"].tolist() == [4, 2]
    np.testing.assert_array_equal(found["loss"], [0.5, np.nan])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("targets\n4\n", "it has no column client_id"),
        ("client_id,targets\nann,many\n", "it is no table of numbers"),
        ("client_id,targets\nann\n", "it is no table"),
    ],
)
def test_a_damaged_table_of_clients(tmp_path, content, why):
    file = tmp_path / "clients.csv"
    file.write_text(content)
    with pytest.raises(ValueError, match=f"^{why}$"):
        read_clients(file)
