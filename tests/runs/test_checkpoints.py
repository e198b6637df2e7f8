"""fedgru/runs/checkpoints.py: what a resumed run stands on."""

import os

import numpy as np
import pytest

from fedgru.algorithms.fed_avg import ServerState
from fedgru.core.errors import RunError
from fedgru.runs.checkpoints import Checkpoints
from fedgru.training.early_stopping import EarlyStopping
from fedgru.training.loop import Checkpoint


def state(round_num, slots=True):
    weights = {name: np.full(3, round_num, np.float32) for name in ("rows", "bias")}
    optimizer = {"m": {n: w / 2 for n, w in weights.items()}, "step": round_num} if slots else {}
    return ServerState(weights, optimizer, round_num)


def point(round_num, best_round, slots=True):
    now = state(round_num, slots)
    best = now if best_round == round_num else state(best_round, slots)
    rows = tuple(
        ({"val/loss/micro": 1 / (i + 3), "train/loss/micro": None}, {"train": i / 7, "val": 0.1})
        for i in range(round_num + 1)
    )
    return Checkpoint(now, best, EarlyStopping(False, 5, 0.0, 1 / 3, best_round, 2), rows)


def same_state(found, expected):
    assert found.round_num == expected.round_num
    assert found.weights.keys() == expected.weights.keys()
    for name, array in expected.weights.items():
        assert found.weights[name].dtype == np.float32
        assert np.array_equal(found.weights[name], array)


@pytest.fixture
def make(tmp_path):
    """Write the checkpoints of rounds 0 to 4, of which round 2 is the best."""

    def make(slots=True):
        checkpoints = Checkpoints(tmp_path)
        for round_num, best_round in enumerate([0, 1, 2, 2, 2]):
            checkpoints.save(point(round_num, best_round, slots))
        checkpoints.wait()
        return Checkpoints(tmp_path)

    return make


def names(tmp_path):
    return sorted(file.name for file in (tmp_path / "checkpoints").iterdir())


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("slots", [True, False])
def test_what_is_written_comes_back(make, slots):
    found = make(slots).load(point(0, 0, slots))
    expected = point(4, 2, slots)
    same_state(found.state, expected.state)
    same_state(found.best, expected.best)
    assert (found.stopping, found.rows) == (expected.stopping, expected.rows)
    assert found.state.optimizer.keys() == expected.state.optimizer.keys()
    if slots:
        assert found.state.optimizer["step"] == 4
        assert found.state.optimizer["m"]["bias"].tolist() == [2.0, 2.0, 2.0]


def test_the_best_round_is_kept_and_shown(make, tmp_path):
    make()
    assert names(tmp_path) == [
        *("round-2.npz", "round-3.json", "round-3.npz", "round-3.slots.npz"),
        *("round-4.json", "round-4.npz", "round-4.slots.npz"),
    ]
    assert (tmp_path / "best.npz").samefile(tmp_path / "checkpoints/round-2.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.npz", "checkpoints"]


def test_round_0_is_not_shown_as_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(point(0, 0))
    checkpoints.wait()
    assert not (tmp_path / "best.npz").exists()
    assert checkpoints.last_round == 0
    assert Checkpoints(tmp_path).load(point(0, 0)).state.round_num == 0


def test_none_yet(tmp_path):
    (tmp_path / "best.npz").touch()  # of whoever was here before
    assert Checkpoints(tmp_path).load(point(0, 0)) is None
    assert not (tmp_path / "best.npz").exists()


@pytest.mark.parametrize(
    ("name", "at", "reason"),
    [
        ("round-4.npz", -200, "round-4.npz: "),
        ("round-4.npz", 300, "round-4.npz: Bad CRC-32 for file 'rows.npy'"),
        ("round-4.slots.npz", 140, "round-4.slots.npz: Bad CRC-32 for file 'm/rows.npy'"),
        ("round-4.json", 70, "its checksum does not match"),
        ("round-4.json", 0, "it is not JSON"),
    ],
)
def test_a_flipped_bit_falls_back_to_the_one_before(make, tmp_path, caplog, name, at, reason):
    checkpoints = make()
    flip(tmp_path / "checkpoints" / name, at)
    found = checkpoints.load(point(0, 0))
    same_state(found.state, state(3))
    same_state(found.best, state(2))
    (message,) = caplog.messages
    assert message.startswith(f"damaged checkpoint of round 4: {reason}")
    assert message.endswith("; going back to that of round 3")
    checkpoints.save(point(4, 4))  # and on: what was damaged is replaced, the good one kept
    checkpoints.wait()
    assert [name for name in names(tmp_path) if "slots" not in name] == [
        *("round-2.npz", "round-3.json", "round-3.npz", "round-4.json", "round-4.npz")
    ]
    assert Checkpoints(tmp_path).load(point(0, 0)).best.round_num == 4
    assert (tmp_path / "best.npz").samefile(tmp_path / "checkpoints/round-4.npz")


@pytest.mark.parametrize("name", ["round-4.json", "round-4.npz", "round-4.slots.npz"])
def test_every_cut_falls_back_to_the_one_before(make, tmp_path, name):
    make()
    file = tmp_path / "checkpoints" / name
    whole = file.read_bytes()
    for length in [*range(0, len(whole) - 2, 61), len(whole) - 2]:  # the last byte is a newline
        file.write_bytes(whole[:length])
        assert Checkpoints(tmp_path).load(point(0, 0)).state.round_num == 3, length
    file.unlink()
    assert Checkpoints(tmp_path).load(point(0, 0)).state.round_num == 3


def test_best_npz_goes_back_too(make, tmp_path):
    checkpoints = make()
    checkpoints.load(point(0, 0))
    checkpoints.save(point(5, 5))
    checkpoints.wait()
    flip(tmp_path / "checkpoints/round-5.npz", 300)
    Checkpoints(tmp_path).load(point(0, 0))
    assert (tmp_path / "best.npz").samefile(tmp_path / "checkpoints/round-2.npz")


def test_both_are_damaged(make, tmp_path):
    make()
    flip(tmp_path / "checkpoints/round-4.json", 70)
    flip(tmp_path / "checkpoints/round-2.npz", 300)  # the best round, which both stand on
    with pytest.raises(RunError) as error:
        Checkpoints(tmp_path).load(point(0, 0))
    assert str(error.value) == (
        f"all checkpoints in {tmp_path}/checkpoints are damaged (round 4: its checksum does not "
        "match; round 3: round-2.npz: Bad CRC-32 for file 'rows.npy'). Train again with: "
        f"fedgru train --config {tmp_path}/config.toml"
    )


@pytest.mark.parametrize(
    ("like", "reason"),
    [
        (point(0, 0, slots=False), "it has m/bias, m/rows, which this model does not have"),
        (
            Checkpoint(
                ServerState({"rows": np.zeros(4, np.float32)}, {}, 0),
                None,
                EarlyStopping(False, 5),
                (),
            ),
            "round-{}.npz: it has bias, which this model does not have",
        ),
    ],
)
def test_a_checkpoint_of_another_model(make, like, reason):
    with pytest.raises(RunError) as error:
        make().load(like)
    told = "; ".join(f"round {number}: {reason.format(number)}" for number in (4, 3))
    assert f"({told})" in str(error.value)


def test_a_full_disk_is_told_at_the_next_round_and_the_one_before_is_kept(
    make, tmp_path, monkeypatch
):
    checkpoints = make()
    checkpoints.load(point(0, 0))
    before = names(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", disk_full)
        checkpoints.save(point(5, 5))
        with pytest.raises(OSError) as error:
            checkpoints.save(point(6, 6))
    assert error.value.filename == str(tmp_path / "checkpoints/round-5.npz")
    assert checkpoints.last_round == 4
    assert names(tmp_path) == before
    same_state(Checkpoints(tmp_path).load(point(0, 0)).state, state(4))


def disk_full(*_):
    raise OSError(28, "No space left on device")


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(point(0, 0))
    checkpoints.save(point(1, 1))
    checkpoints.wait()
    content = (tmp_path / "checkpoints/round-1.npz").read_bytes()
    assert (tmp_path / "best.npz").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.npz", "checkpoints"]


def test_the_end_removes_them(make, tmp_path):
    checkpoints = make()
    checkpoints.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["best.npz"]
    checkpoints.remove()
