"""task/stored.py, data/columns.py, storage/mapped.py: a large data set gives what a small one
gives."""

import json
import pickle
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from fedgru import config
from fedgru.algorithms import from_settings
from fedgru.core import seeding
from fedgru.core.errors import DataError
from fedgru.data import checkins, datasets, parquet_files, synthetic
from fedgru.data.ledger import Ledger
from fedgru.engines.jax.engine import JaxEngine
from fedgru.engines.ray.trainer import for_training
from fedgru.storage import mapped
from fedgru.task import features, stored
from fedgru.training import local_models
from fedgru.training import loop as round_loop
from fedgru.training.rounds import FederatedTraining
from fedgru.workflows import open as open_workflow
from fedgru.workflows.data_check import check_data_set

SMALL = {"hidden_dim": 8, "batch_size": 2, "seq_len": 5, "prior": "backoff", "rounds": 2}


@pytest.fixture
def city(tmp_path):
    """A made-up city of 9 people, saved while it counts as small."""
    config = synthetic.CityConfig(num_users=9, checkins_per_user=30, seed=3)
    datasets.save_city("town", tmp_path, synthetic.make_city(config))
    return tmp_path


@pytest.fixture
def all_large(monkeypatch):
    monkeypatch.setattr(datasets, "MAPPED_FROM", 1)
    monkeypatch.setattr(stored, "FEW_VALUES", 3)  # so that texts stay on the disk, too


def count_calls(monkeypatch, kind, name):
    """Return a list that gets longer with each call of a method of a class."""
    calls, method = [], getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda *args: calls.append(args) or method(*args))
    return calls


def open_task(data_dir, **overrides):
    return open_workflow.open_task(config.load(SMALL | {"data": "town"} | overrides), data_dir)


def assert_same(found, expected):
    """Whether two values hold the same arrays and texts, however they are held."""
    if hasattr(expected, "__dataclass_fields__"):
        for field in fields(expected):
            if field.name not in ("maps", "folder", "stored_parts", "known"):
                assert_same(getattr(found, field.name), getattr(expected, field.name))
    elif isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_same(found[name], value)
    else:
        assert found == expected


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"features": "user,gap,latitude", "target": "venue", "users": 5, "layout": "chunks"},
        {"vocabulary": "range", "scaling": "none", "eval_clients": 4, "clients_per_round": 2},
        {"target": "venue", "head": "candidates", "features": "gap"},
        {"session_gap": "48h", "eval_clients": 4},
    ],
)
@pytest.mark.parametrize("kept_bytes", [mapped.KEPT_BYTES, 0], ids=["in memory", "from the file"])
def test_a_large_task_is_the_task(city, monkeypatch, overrides, kept_bytes):
    small, small_facts = open_task(city, **overrides)
    monkeypatch.setattr(mapped, "KEPT_BYTES", kept_bytes)
    times_read = count_calls(monkeypatch, mapped.Records, "read")
    monkeypatch.setattr(datasets, "MAPPED_FROM", 1)
    monkeypatch.setattr(stored, "FEW_VALUES", 3)
    made, _ = open_task(city, **overrides)
    monkeypatch.setattr(parquet_files, "read", None)  # now all must come from the maps
    monkeypatch.setattr(features, "build_inputs", None)
    opened, facts = open_task(city, **overrides)
    assert facts == small_facts
    for task in (made, opened):
        assert_same(task, small)
        assert_same(task.shared, small.shared)
        assert isinstance(task.clients.client_ids, mapped.Texts)
        assert not task.inputs.rows.flags.writeable
    trained = [
        round_loop.train(
            FederatedTraining(JaxEngine(task), from_settings(task.settings)), lambda *_: None, id
        )
        for task in (small, opened)
    ]
    assert bool(times_read) == (kept_bytes == 0)
    assert_same(*(result.last.weights for result in trained))
    assert trained[0].best_value == trained[1].best_value


def test_what_is_laid_out_is_bound_to_what_it_was_made_from(city, all_large):
    open_task(city)
    open_task(city, rounds=7, seed=3, prior="none")  # change no part of the task
    tasks = city / "town/prepared"
    assert len(list(tasks.iterdir())) == 1
    open_task(city, users=5)
    assert len(list(tasks.iterdir())) == 2
    assert sorted(path.name for path in (city / "town").iterdir()) == [
        "checkins.parquet",
        "columns",
        "passport.json",
        "prepared",
    ]


def test_a_changed_parquet_file_is_seen_by_its_time(city, all_large):
    open_task(city)
    file = city / "town/checkins.parquet"
    broken = bytearray(file.read_bytes())
    broken[len(broken) // 2] ^= 1
    file.write_bytes(broken)
    with pytest.raises(DataError, match=r"checkins\.parquet"):
        open_task(city)


def test_a_cut_off_column_is_made_again(city, all_large, caplog):
    open_task(city)
    caplog.set_level("INFO", "fedgru")
    caplog.clear()  # an earlier test may have left the level there
    column = city / "town/columns/time_s.npy"
    whole = column.read_bytes()
    column.write_bytes(whole[:-8])
    open_task(city)
    assert column.read_bytes() == whole
    assert caplog.messages == [
        f"{city / 'town'} is large: storing its columns, so that it opens faster next time"
    ]


def test_a_folder_that_cannot_be_written_is_said_and_does_without(
    city, all_large, caplog, monkeypatch
):
    small, _ = open_task(city)
    mapped.remove(city / "town/columns")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped, "save", full)
    task, _ = open_task(city)
    assert_same(task.inputs, small.inputs)
    assert task.stored_parts is None
    told = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert told == [
        f"the columns of {city / 'town'} cannot be stored (No space left on device): all "
        "check-ins are held in memory"
    ]


@pytest.mark.parametrize(
    "kind, message",
    [
        ("columns", "the columns of {town} have changed since they were stored."),
        ("prepared", "{found} has changed since it was written. Start again."),
    ],
)
def test_what_another_program_removes_at_once_is_an_error(
    city, all_large, monkeypatch, kind, message
):
    load, asked = mapped.load, []

    def gone(folder, made_from):
        if kind not in Path(folder).relative_to(city).parts:
            return load(folder, made_from)
        asked.append(folder)
        return None

    monkeypatch.setattr(mapped, "load", gone)
    with pytest.raises(DataError) as error:
        open_task(city)
    assert str(error.value) == message.format(town=city / "town", found=asked[0])
    assert len(asked) == 2  # before it is written, and after


def test_check_reads_every_byte(city, all_large):
    open_task(city)
    data_set, folders = check_data_set("town", city)
    assert len(data_set.check_ins) == len(datasets.open_data_set("town", city).check_ins)
    assert [path.parent.name for path in folders] == ["town", "prepared"]
    column = folders[0] / "lat_deg.npy"
    flipped = bytearray(column.read_bytes())
    flipped[-1] ^= 1
    column.write_bytes(flipped)
    datasets.open_data_set("town", city)  # this is what is not seen without the check
    with pytest.raises(DataError) as error:
        check_data_set("town", city)
    assert str(error.value) == (
        f"{folders[0]} is damaged (lat_deg.npy); checkins.parquet is not. Delete "
        f"{folders[0]}: it is made again when it is needed."
    )


def test_columns_are_laid_out_with_the_import(tmp_path, monkeypatch, all_large):
    columns = {name: checkins.Coded(np.array([0, 1, -1], np.int32), ("é", "b")) for name in "xy"}
    base = synthetic.make_city(synthetic.CityConfig(num_users=1, checkins_per_user=3)).check_ins
    rows = slice(0, 3)
    check_ins = checkins.CheckIns(
        **{
            name: checkins.Coded(np.array([0, 1, 1], np.int32), ("a", "b"))
            for name in ("user", "venue", "category", "raw_category")
        },
        time_s=base.time_s[rows],
        offset_min=base.offset_min[rows],
        lat_deg=np.array([1.0, np.nan, 2.0]),
        lon_deg=np.array([1.0, np.nan, 2.0]),
        own=columns,
    )
    saved = datasets.save_data_set(
        "kept",
        tmp_path,
        check_ins,
        source={"kind": "hand"},
        settings={},
        categories={"scheme": "raw", "sha256": None},
        ledger=Ledger(),
    )
    monkeypatch.setattr(parquet_files, "read", None)
    opened = datasets.open_data_set("kept", tmp_path)
    assert_same(opened.check_ins, saved.check_ins)
    assert opened.check_ins.own["x"].values == ("é", "b")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"made_from": 1}', "[" * 100_000])
def test_a_damaged_manifest_is_none(tmp_path, content):
    mapped.save(tmp_path / "a", {"x": np.arange(3)}, {}, 1)
    assert mapped.load(tmp_path / "a", 1).arrays["x"].tolist() == [0, 1, 2]
    assert mapped.load(tmp_path / "a", 2) is None
    (tmp_path / "a" / mapped.MANIFEST).write_text(content)
    assert mapped.load(tmp_path / "a", 1) is None


def test_what_is_let_go_can_be_read_again(tmp_path):
    array = np.arange(100_000)
    mapped.save(tmp_path / "a", {"x": array, "same": array, "none": np.zeros((3, 0))}, {}, 1)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        mapped.MANIFEST,
        "none.npy",
        "x.npy",
    ]
    found = mapped.load(tmp_path / "a", 1)
    assert json.loads((tmp_path / "a" / mapped.MANIFEST).read_text())["arrays"]["same"] == "x.npy"
    for _ in range(2):
        assert found.arrays["same"].sum() == array.sum()
        found.release()
    assert found.arrays["none"].shape == (3, 0)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_what_is_let_go_is_not_resident(tmp_path):
    def mapped_mib():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssFile"))

    mapped.save(tmp_path / "a", {"x": np.ones(5 << 20)}, {}, 1)  # 40 MiB
    found, before = mapped.load(tmp_path / "a", 1), mapped_mib()
    assert found.arrays["x"].sum() == 5 << 20
    assert mapped_mib() - before > 35
    found.release()
    assert abs(mapped_mib() - before) < 5


def resident_kib(folder):
    """How much of a folder's files this process has mapped and in memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:  # addresses, and what lies there
            inside = line.endswith(".npy") and str(folder) in line
        elif inside and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_rounds_of_a_large_data_set_read_no_map(city, monkeypatch):
    monkeypatch.setattr(datasets, "MAPPED_FROM", 1)
    monkeypatch.setattr(mapped, "KEPT_BYTES", 0)
    task, _ = open_task(city, clients_per_round=4, eval_clients=3)
    task.release()
    task.clients.starts.sum()
    assert resident_kib(city) == 4  # the page of that file
    resident, release = [], mapped.Mapped.release
    monkeypatch.setattr(
        mapped.Mapped,
        "release",
        lambda found: resident.append(resident_kib(city)) or release(found),
    )
    round_loop.train(
        FederatedTraining(JaxEngine(task), from_settings(task.settings)), lambda *_: None, id
    )
    # in each of three validations, and at the end of each of two rounds
    assert resident == [4, 0, 0, 0, 0]


@pytest.fixture
def records(tmp_path):
    """100 records of three kinds, one array under two names; and another array beside them."""
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.integers(0, 99, 100, np.int32),
        "b": rng.random((100, 3)),
        "c": rng.random(100) < 0.5,
        "other": np.arange(7),
    }
    arrays["same"] = arrays["b"]
    mapped.save(tmp_path / "a", arrays, {}, 1, ["a", "b", "same", "c"])
    return arrays, mapped.load(tmp_path / "a", 1), tmp_path / "a"


@pytest.mark.parametrize("at_once", [7, 1 << 18])
def test_records_hold_the_arrays(tmp_path, monkeypatch, at_once, request):
    monkeypatch.setattr(mapped, "RECORDS_AT_ONCE", at_once)
    arrays, found, folder = request.getfixturevalue("records")
    assert_same(found.arrays, arrays)
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "other.npy", "records.npy"]
    assert mapped.check(folder) == []
    assert found.arrays["a"].strides == (40,)  # 4, 24 and 1 bytes; each 8 from a multiple of 8 on
    assert found.arrays["a"].base is found.arrays["c"].base


@pytest.mark.parametrize("gap", [0, 200, 1 << 13])
@pytest.mark.parametrize(
    "places",
    [
        slice(3, 9),
        slice(98, 200),
        slice(5, 5),
        np.array([], int),
        np.array([99, 0, 0, 50, 51, 57]),
        np.array([[7, 8], [90, 7]]),
        np.array(12),
    ],
)
def test_records_are_read_at_any_places(records, monkeypatch, places, gap):
    monkeypatch.setattr(mapped, "MAX_GAP_BYTES", gap)
    arrays, found, _ = records
    names = ["b", "c", "a", "same"]
    for name, array in zip(names, found.records.read(names, places), strict=True):
        np.testing.assert_array_equal(array, arrays[name][places], strict=True)


def test_places_and_files_that_are_not_there(records):
    _, found, folder = records
    for place in (-1, 100):
        with pytest.raises(IndexError, match="of 100"):
            found.records.read(["a"], np.array([3, place]))
    with open(folder / "records.npy", "r+b") as stream:
        stream.truncate(1000)
    assert mapped.load(folder, 1) is None
    with pytest.raises(DataError, match=r"records\.npy has become shorter"):
        found.records.read(["a"], np.array([99]))


@pytest.mark.parametrize(
    "place",
    [
        ["other.npy", "a"],
        ["records.npy", "z"],
        ["records.npy", 0],
        ["records.npy", 10**9],
        ["records.npy", None],
        ["records.npy", ["a", "b"]],
        ["records.npy"],
        [],
        None,
        "records",
    ],
)
def test_a_manifest_with_another_place_is_none(records, place):
    _, _, folder = records
    manifest = json.loads((folder / mapped.MANIFEST).read_text())
    assert manifest["arrays"]["c"] == ["records.npy", "c"]
    manifest["arrays"]["c"] = place
    (folder / mapped.MANIFEST).write_text(json.dumps(manifest))
    assert mapped.load(folder, 1) is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a damaged type may be an old one
def test_a_damaged_header_is_none_or_harmless(records):
    arrays, _, folder = records
    whole = (folder / "records.npy").read_bytes()
    for at in range(len(whole) - 4000):
        for flip in (1, 2, 8, 64):
            (folder / "records.npy").write_bytes(
                whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
            )
            found = mapped.load(folder, 1)
            assert found is None or at >= 8  # before that stand what it is and its version
            if found is not None:
                assert found.arrays["b"].shape == arrays["b"].shape
                found.records.read(["a", "b"], slice(0, 100))
    (folder / "records.npy").write_bytes(whole)
    assert mapped.load(folder, 1) is not None


def test_a_folder_of_an_earlier_fedgru_is_laid_out_anew(city, all_large):
    task, _ = open_task(city)
    (folder,) = (city / "town/prepared").iterdir()
    found = task.stored_parts.folder
    newer = {stored.ENDS, stored.DRAWN_FROM}
    arrays = {name: np.array(a) for name, a in found.arrays.items() if name not in newer}
    made_from = json.loads((folder / mapped.MANIFEST).read_text())["made_from"]
    mapped.save(folder, arrays, found.facts, made_from)
    assert mapped.load(folder, made_from) is not None
    again, _ = open_task(city)
    assert newer <= again.stored_parts.folder.arrays.keys()
    assert_same(again, task)


def test_a_task_of_one_client_reads_its_own(city, all_large, monkeypatch):
    monkeypatch.setattr(mapped, "KEPT_BYTES", 0)
    opened, _ = open_task(city)
    monkeypatch.setattr(datasets, "MAPPED_FROM", 1 << 40)
    small, _ = open_task(city)
    assert opened._large is not None and small._large is None
    for client in (0, 4, 8):
        one, expected = (local_models.alone(task, client) for task in (opened, small))
        assert_same(one.local_data(0), expected.local_data(0))
        assert_same(one.client_prior(0, "backoff"), expected.client_prior(0, "backoff"))


@pytest.mark.parametrize("prior", ["none", "backoff"])
def test_clients_are_read_together_as_one_by_one(city, all_large, monkeypatch, prior):
    small_enough, _ = open_task(city, prior=prior)
    assert small_enough.read_clients([0, 1]) == {}
    monkeypatch.setattr(mapped, "KEPT_BYTES", 0)
    task, _ = open_task(city, prior=prior)
    assert task.read_clients([]) == {}
    own_of = task.read_clients([7, 0, 3, 7])
    assert own_of.keys() == {7, 0, 3}
    for client, own in own_of.items():
        expected = small_enough.local_data(client)
        assert_same(task.local_data(client, own), expected)
        assert_same(task.local_data(client), expected)
        assert all(array.flags.c_contiguous for array in own)


def test_cohorts_are_drawn_as_from_an_array(city, all_large, monkeypatch):
    monkeypatch.setattr(mapped, "KEPT_BYTES", 0)
    task, _ = open_task(city, clients_per_round=4)
    for round_num in range(5):
        generator = seeding.rng(0, "cohort", round_num)
        expected = np.sort(generator.choice(task.training_clients, 4, replace=False))
        np.testing.assert_array_equal(round_loop.draw_cohort(task, round_num), expected)


def test_what_goes_to_other_processes_goes_as_whole_arrays(city, all_large):
    task, _ = open_task(city)
    assert not task.classes.flags.c_contiguous
    buffers = []
    sent = pickle.dumps(for_training(task), protocol=5, buffer_callback=buffers.append)
    raw = sum(len(buffer.raw()) for buffer in buffers)
    arrays = {id(a): a for a in stored.arrays_of_a_client(task).values()}
    assert raw >= sum(a.nbytes for a in arrays.values()) > 5000
    assert len(sent) < 20_000
    received = pickle.loads(sent, buffers=buffers)
    assert_same(received.local_data(3), task.local_data(3))
    with pytest.raises(TypeError, match="open file"):
        pickle.dumps(task.stored_parts.folder.records)
