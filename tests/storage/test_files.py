"""fedgru/storage/files.py: whole files, and arrays that cannot lie."""

import ast
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fedgru.storage import files

SOURCES = Path(files.__file__).parents[1]
RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "runpy"}

ARRAYS = {"rows": np.arange(6, dtype=np.float32).reshape(2, 3), "scale": np.float32(1.5)}


@pytest.fixture
def file(tmp_path):
    files.write_arrays(tmp_path / "arrays.npz", ARRAYS)
    return tmp_path / "arrays.npz"


def test_arrays_come_back_as_they_were(file):
    found = files.read_arrays(file)
    assert list(found) == ["rows", "scale"]
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (np.float32, array.shape)
        assert np.array_equal(found[name], array)
        found[name] += 1  # they are the caller's


def test_the_same_arrays_give_the_same_bytes(file):
    before = file.read_bytes()
    files.write_arrays(file, ARRAYS)
    assert file.read_bytes() == before


def test_every_flipped_bit_is_found_or_changes_nothing(file):
    # what may be flipped unseen: zip's dates, versions, attributes; never a number or a name
    whole, found = file.read_bytes(), 0
    for at in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[at // 8] ^= 1 << at % 8
        try:
            arrays = files.read_arrays(io.BytesIO(damaged))
        except ValueError:
            found += 1
            continue
        assert arrays.keys() == ARRAYS.keys()
        assert all(np.array_equal(arrays[name], array) for name, array in ARRAYS.items())
    assert found > 0.7 * 8 * len(whole)


def test_every_cut_is_found(file):
    whole = file.read_bytes()
    for length in range(len(whole)):
        with pytest.raises(ValueError):
            files.read_arrays(io.BytesIO(whole[:length]))


def test_no_more_is_read_than_the_file_holds(file):
    header = np.lib.format
    with zipfile.ZipFile(file, "w") as archive, archive.open("rows.npy", "w") as member:
        described = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
        header.write_array_header_1_0(member, described)
    with pytest.raises(ValueError, match=r"^rows.npy holds 0 bytes, not 4000000000000$"):
        files.read_arrays(file)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.npy", b"\0" * 10**7)
    assert file.stat().st_size < 20_000
    with pytest.raises(ValueError, match=r"^rows.npy is compressed$"):
        files.read_arrays(file)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_one_name_twice(file):
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("rows.npy", b"")
    with pytest.raises(ValueError, match=r"^it holds two arrays with the same name$"):
        files.read_arrays(file)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"rows": None}, "it has no rows"),
        ({"more": ARRAYS["rows"]}, "it has more, which this model does not have"),
        ({"rows": ARRAYS["rows"].T}, "its rows is float32 [3, 2], expected float32 [2, 3]"),
        (
            {"rows": ARRAYS["rows"].astype(float)},
            "its rows is float64 [2, 3], expected float32 [2, 3]",
        ),
        (
            {"rows": ARRAYS["rows"] + np.float32("inf")},
            "its rows holds numbers that are not finite",
        ),
    ],
)
def test_arrays_of_another_model(changed, reason):
    files.check_like(ARRAYS, ARRAYS)
    arrays = {name: a for name, a in (ARRAYS | changed).items() if a is not None}
    with pytest.raises(ValueError) as error:
        files.check_like(arrays, ARRAYS)
    assert str(error.value) == reason


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_is_written_whole_or_not_at_all(file, monkeypatch, call):
    whole = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError) as error:
        files.write_text(file, "new")
    assert error.value.filename == str(file)
    assert [path.name for path in file.parent.iterdir()] == ["arrays.npz"]
    assert file.read_bytes() == whole


def test_json_that_is_none(tmp_path):
    file = tmp_path / "x.json"
    assert files.read_json_object(file) == {}
    for text, reason in (
        (b"\xff", "it is not JSON: 'utf-8' codec can't decode byte 0xff in position 0"),
        (b"[" * 100_000, "it is not JSON: "),  # deeper than Python goes
        (b"[]", "it is not a JSON object"),
    ):
        file.write_bytes(text)
        with pytest.raises(ValueError) as error:
            files.read_json_object(file)
        assert str(error.value).startswith(reason)


@pytest.mark.parametrize("source", sorted(SOURCES.rglob("*.py")), ids=lambda source: source.stem)
def test_nothing_that_is_read_can_run(source):
    assert not list(dangers(source.read_text("utf-8")))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "x = eval(text)",
        "np.load(file)",
        "np.load(file, allow_pickle=True)",
        "pd.read_pickle(file)",
        "torch.load(file)",
        "yaml.load(text)",
        "YAML()",
        "YAML(typ='unsafe')",
        "keras.models.load_model(file)",
    ],
)
def test_what_could_run_is_found(line):
    assert list(dangers(line)) == [1]


def dangers(text):
    """Yield the lines that import or call what may run code from a file."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                bad = any(name.name.split(".")[0] in RUNS_CODE for name in names)
            case ast.ImportFrom(module=module):
                bad = (module or "").split(".")[0] in RUNS_CODE
            case ast.Call(func=ast.Name(id="YAML"), keywords=keywords):
                given = {word.arg: ast.unparse(word.value) for word in keywords}
                bad = given.get("typ") != "'safe'"
            case ast.Call(func=ast.Name(id=name)):
                bad = name in ("eval", "exec", "compile")
            case ast.Call(func=ast.Attribute(value=of, attr=name), keywords=keywords):
                given = {word.arg: ast.unparse(word.value) for word in keywords}
                of = ast.unparse(of)
                bad = name == "read_pickle" or of in ("torch", "joblib", "keras.models")
                if name == "load" and of in ("np", "numpy"):
                    bad = given.get("allow_pickle") != "False"
                bad |= name == "load" and of == "yaml"
            case _:
                bad = False
        if bad:
            yield node.lineno
