"""The compiled library is the one that was compiled.

What is damaged or may be somebody else's is not run, and nothing about the cache stops training.
"""

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import platformdirs
import pytest

from fedgru.algorithms import ClientRule
from fedgru.core import cache, jax_setup, seeding
from fedgru.engines.jax.engine import JaxEngine
from fedgru.engines.jax.native import compiler
from fedgru.engines.jax.native.calls import NativeCode, Unavailable
from fedgru.models import gru
from fedgru.storage.files import write_whole

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (cc)")
SOMEBODY_ELSE = 65534  # user id
NO_HOME = "the user has no home folder"
ANEW = "This run compiles again. FEDGRU_CACHE=FOLDER names another folder."


@pytest.fixture
def fresh(monkeypatch, nothing_kept):
    """Let the compiler be looked for anew in this test, and once more after it."""
    for found in (compiler.first_try, cache.scratch_folder):
        found.cache_clear()
    yield monkeypatch
    for found in (compiler.first_try, cache.scratch_folder):
        found.cache_clear()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The library, as its compiler makes it."""
    made = tmp_path_factory.mktemp("compiled") / "made.so"
    source = str(compiler.FOLDER / compiler.SOURCE)
    flags = [*compiler.FLAGS, "-O1"]  # compiles in half the time
    subprocess.run(["cc", *flags, source, "-o", str(made), "-lm"], check=True)
    return made


@pytest.fixture
def counting(fresh, compiled):
    """A compiler that is done at once, for every user; `calls()` is how often it was called."""
    folder = Path(tempfile.mkdtemp())  # all of tmp_path is for one user alone
    copy, log, path = folder / "made.so", folder / "calls", folder / "mycc"
    shutil.copy(compiled, copy)
    log.touch()
    copies = f'for last; do [ "$before" = -o ] && cp {copy} "$last"; before=$last; done'
    path.write_text(f"#!/bin/sh\necho >> {log}\n{copies}\n")
    for place, mode in ((folder, 0o755), (path, 0o755), (log, 0o666)):
        place.chmod(mode)
    fresh.setenv("CC", str(path))
    yield SimpleNamespace(calls=lambda: log.read_text().count("\n"))
    shutil.rmtree(folder)


@pytest.fixture
def kept(fresh, counting, tmp_path):
    """The path of a library that an earlier run has kept."""
    fresh.setenv("FEDGRU_CACHE", str(tmp_path / "kept"))
    load_and_use()
    (library,) = (tmp_path / "kept").glob("*/*.so")
    return library


@pytest.fixture
def home(counting, make_task):
    """An empty folder of a user whom permissions bind: the test runs as another one than root."""
    train(make_task)  # imports what it needs, which may lie where only root may read
    folder = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(folder, SOMEBODY_ELSE, -1)
        os.seteuid(SOMEBODY_ELSE)
    yield folder
    if is_root:
        os.seteuid(0)
    subprocess.run(["chmod", "-R", "u+rwX", str(folder)], check=True)
    shutil.rmtree(folder)


def train(make_task):
    """Train two clients by the C code, in a process that begins now."""
    compiler.first_try.cache_clear()
    engine = JaxEngine(make_task())
    assert engine.what_runs_steps == "local steps in C"
    weights = gru.init_weights(engine.task.spec, seeding.rng(0, "weights"))
    for update in engine.local_updates(weights, [0, 2], 1):
        assert np.abs(update.row_update).max() > 0 and np.isfinite(update.row_update).all()


def load_and_use():
    """Load the library as a process would that begins now; what it says the size of a Job is."""
    compiler.first_try.cache_clear()
    return compiler.load().fedgru_job_struct_bytes()


def folder_in(place):
    return place / f"compiled-{cache.processor()}"


def sum_line(library):
    return f"{hashlib.sha256(library.read_bytes()).hexdigest()}  {library.name}\n"


def test_no_compiler(fresh, make_task, tmp_path):
    fresh.delenv("CC", raising=False)
    fresh.setenv("PATH", str(tmp_path))
    engine = JaxEngine(make_task())
    assert engine.what_runs_steps == (
        "local steps by XLA: the C code cannot be used, no C compiler was found"
    )
    weights = gru.init_weights(engine.task.spec, seeding.rng(0, "weights"))
    assert len(list(engine.local_updates(weights, [0, 1], 1))) == 2
    assert engine.local_loops_compiled == 1


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'x.c:1: error: bad' >&2; exit 1", "CC could not compile it: x.c:1: error: bad"),
        ("exit 3", "CC could not compile it: it ended with status 3 and said nothing"),
        ("kill -9 $$", "CC could not compile it: it was ended by signal 9 and said nothing"),
        (
            "printf 'no licence\\n\\377\\n\\n' >&2; exit 3",
            "CC could not compile it: it ended with status 3: \N{REPLACEMENT CHARACTER}",
        ),
        (None, "CC cannot be run: No such file or directory"),
    ],
)
def test_a_compiler_that_fails(fresh, tmp_path, script, why):
    path = tmp_path / "mycc"
    if script is not None:
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    fresh.setenv("CC", str(path))
    with pytest.raises(Unavailable) as error:
        compiler.load()
    assert str(error.value) == why.replace("CC", str(path))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            shutil.which("false"),
            "{given} could not compile it: it ended with status 1 and said nothing",
        ),
        ("cc '-O3", "CC={given} cannot be read: No closing quotation"),
    ],
)
def test_a_command_that_is_no_compiler(fresh, given, why):
    fresh.setenv("CC", given)
    with pytest.raises(Unavailable) as error:
        compiler.load()
    assert str(error.value) == why.format(given=given)


def test_a_compiler_whose_work_cannot_be_loaded(fresh, tmp_path):
    fresh.setenv("FEDGRU_CACHE", str(tmp_path / "kept"))
    path = tmp_path / "mycc"
    script = 'for last; do [ "$before" = -o ] && echo text > "$last"; before=$last; done'
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    fresh.setenv("CC", str(path))
    with pytest.raises(Unavailable, match=f"^what {path} made cannot be loaded: "):
        compiler.load()
    assert not list(folder_in(tmp_path / "kept").iterdir())


def test_no_room_to_compile(fresh, tmp_path):
    fresh.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(Unavailable, match="^there is no room to compile it: .*nowhere"):
        compiler.load()


def test_the_library_is_kept_for_the_next_run(kept, counting, caplog):
    assert load_and_use() > 0
    assert counting.calls() == 1 and not caplog.messages
    assert sorted(file.name for file in kept.parent.iterdir()) == [kept.name, f"{kept.name}.sha256"]
    assert kept.with_name(f"{kept.name}.sha256").read_text() == sum_line(kept)


def test_other_sources_are_another_library(fresh, counting, tmp_path):
    fresh.setenv("FEDGRU_CACHE", str(tmp_path / "kept"))
    planted = tmp_path / "native"
    shutil.copytree(compiler.FOLDER, planted)
    compiler.load_from(planted)
    header = planted / "vectors.h"
    header.write_text(header.read_text() + "/* more */\n")
    compiler.load_from(planted)
    assert len(list((tmp_path / "kept").glob("*/*.so"))) == 2 == counting.calls()


def cut_in_half(library, _):
    os.truncate(library, library.stat().st_size // 2)


def change_a_byte(library, _):
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)


def lose_the_sum(_, sums):
    sums.unlink()


def change_the_sum(_, sums):
    sums.write_text(sums.read_text().replace("a", "b"))


def sum_up_another_file(library, sums):
    library.write_bytes(b"no library")
    sums.write_text(sum_line(library))


NOT_ITS_SUM = "its SHA-256 is not the one in {name}.sha256"
DAMAGES = {
    cut_in_half: NOT_ITS_SUM,
    change_a_byte: NOT_ITS_SUM,
    change_the_sum: NOT_ITS_SUM,
    lose_the_sum: "[Errno 2] No such file or directory: '{path}.sha256'",
    sum_up_another_file: None,  # the reason is the system's
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_library_that_is_damaged_is_made_anew(kept, counting, caplog, damage):
    as_made = kept.read_bytes()
    damage(kept, kept.with_name(f"{kept.name}.sha256"))
    assert load_and_use() > 0
    (message,) = caplog.messages
    start, why = f"{kept} cannot be used and is made anew: ", DAMAGES[damage]
    if why is None:
        assert message.startswith(start)
    else:
        assert message == start + why.format(name=kept.name, path=kept)
    assert kept.read_bytes() == as_made and counting.calls() == 2
    assert load_and_use() > 0  # and now all is well
    assert len(caplog.messages) == 1 and counting.calls() == 2


def test_a_library_that_cannot_be_read_nor_replaced(kept, counting, caplog):
    kept.unlink()
    kept.mkdir()
    assert load_and_use() > 0
    read, written = caplog.messages
    assert read == f"{kept} cannot be used and is made anew: [Errno 21] Is a directory: '{kept}'"
    assert written.startswith("the compiled local steps are not kept: [Errno 21] Is a directory: ")
    left = sorted(file.name for file in kept.parent.iterdir())
    assert left == [kept.name, f"{kept.name}.sha256"]


CUT_OFF_MEANWHILE = """
import os
from pathlib import Path
from fedgru.engines.jax.native import compiler

compiler.load()
compiler.first_try.cache_clear()
library = compiler.load()
(kept,) = Path(os.environ["FEDGRU_CACHE"]).glob("*/*.so")
os.truncate(kept, 0)
print(library.fedgru_forward_struct_bytes() > 0)
"""


def test_a_library_that_is_cut_off_while_it_is_in_use(fresh, counting, tmp_path):
    fresh.setenv("FEDGRU_CACHE", str(tmp_path / "kept"))
    done = subprocess.run([sys.executable, "-c", CUT_OFF_MEANWHILE], capture_output=True, text=True)
    assert (done.stdout, done.returncode, done.stderr) == ("True\n", 0, "")
    assert counting.calls() == 1


@pytest.fixture
def shared(fresh, counting, tmp_path):
    """A folder for the cache, in which a library that is not ours lies with its right sum."""
    place = tmp_path / "above" / "shared"
    fresh.setenv("FEDGRU_CACHE", str(place))
    load_and_use()
    (library,) = folder_in(place).glob("*.so")
    foreign = tmp_path / "foreign.c"
    foreign.write_text("long fedgru_job_struct_bytes(void) { return -1; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", str(foreign), "-o", str(library)], check=True)
    library.with_name(f"{library.name}.sha256").write_text(sum_line(library))
    assert load_and_use() == -1  # as long as nobody else could have put it there
    return place


def check_refused(caplog, why):
    """The library that lies there is not run, one warning says why, and nothing is lost by it."""
    caplog.clear()
    assert load_and_use() > 0
    folder = cache.compiled_folder()
    assert caplog.messages == [f"compiled code is not kept: {why}. {ANEW}"]
    assert folder.parent == Path(tempfile.gettempdir()) and folder == cache.compiled_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert load_and_use() > 0
    assert len(caplog.messages) == 1
    with jax_setup.kept_between_runs():  # what JAX keeps is run as well
        assert jax_setup.import_jax().config.jax_compilation_cache_dir == str(folder)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o1777], ids=oct)
def test_a_folder_that_others_may_write_to_is_refused(shared, caplog, mode):
    folder_in(shared).chmod(mode)
    check_refused(caplog, f"others can write to {folder_in(shared)}")


@pytest.mark.parametrize("mode", [0o777, 0o770], ids=oct)
@pytest.mark.parametrize("levels", [1, 2])
def test_a_folder_that_others_may_put_another_in_place_of_is_refused(shared, caplog, levels, mode):
    place = folder_in(shared).parents[levels - 1]
    place.chmod(mode)
    check_refused(caplog, f"others can write to {place}")


def test_a_link_is_no_way_around(shared, fresh, tmp_path, caplog):
    (tmp_path / "link").symlink_to(shared)
    fresh.setenv("FEDGRU_CACHE", str(tmp_path / "link"))
    shared.chmod(0o777)
    check_refused(caplog, f"others can write to {shared}")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder to somebody else")
@pytest.mark.parametrize("levels", [0, 1, 2])
def test_a_folder_of_somebody_else_is_refused(shared, caplog, levels):
    place = [folder_in(shared), *folder_in(shared).parents][levels]
    os.chown(place, SOMEBODY_ELSE, -1)
    check_refused(caplog, f"{place} belongs to another user")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be root and somebody else")
def test_a_folder_of_root_is_refused_to_others(home, fresh, caplog):
    os.seteuid(0)
    folder_in(home).mkdir()
    os.seteuid(SOMEBODY_ELSE)
    fresh.setenv("FEDGRU_CACHE", str(home))
    assert load_and_use() > 0
    why = f"{folder_in(home)} belongs to another user"
    assert caplog.messages == [f"compiled code is not kept: {why}. {ANEW}"]


def test_a_folder_in_one_as_tmp_is_used(fresh, counting, tmp_path, caplog):
    place = tmp_path / "like-tmp"
    place.mkdir()
    place.chmod(0o1777)
    fresh.setenv("FEDGRU_CACHE", str(place))
    assert load_and_use() > 0 < load_and_use()
    assert counting.calls() == 1 and not caplog.messages


def test_folders_are_made_for_the_user_alone(fresh, counting, tmp_path):
    fresh.delenv("FEDGRU_CACHE")
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path / "a" / "b"))
    before = os.umask(0)
    try:
        load_and_use()
    finally:
        os.umask(before)
    made = folder_in(tmp_path / "a" / "b" / "fedgru")
    assert cache.compiled_folder() == made
    places = [made, *made.parents[:3]]
    assert [stat.S_IMODE(place.stat().st_mode) for place in places] == [0o700] * 4


def test_what_windows_does_not_have_is_not_asked_for(fresh, tmp_path, caplog):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept").chmod(0o777)
    fresh.setenv("FEDGRU_CACHE", str(tmp_path / "kept"))
    fresh.delattr(os, "geteuid")
    assert cache.compiled_folder() == folder_in(tmp_path / "kept") and not caplog.messages


@pytest.mark.parametrize("levels", [0, 1])
def test_a_file_in_place_of_the_folder(fresh, counting, make_task, tmp_path, caplog, levels):
    fresh.setenv("FEDGRU_CACHE", str(tmp_path / "kept"))
    file = [folder_in(tmp_path / "kept"), tmp_path / "kept"][levels]
    file.parent.mkdir(exist_ok=True)
    file.write_text("a file")
    train(make_task)
    assert caplog.messages == [f"compiled code is not kept: {file} is not a folder. {ANEW}"]
    assert file.read_text() == "a file"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a disk that is full")
def test_a_disk_that_is_full(fresh, counting, make_task, tmp_path, caplog):
    fresh.setenv("FEDGRU_CACHE", str(tmp_path / "kept"))
    fresh.setattr(tempfile, "TemporaryFile", lambda **_: io.FileIO("/dev/full", "w"))
    why = f"cannot use {folder_in(tmp_path / 'kept')}: No space left on device"
    train(make_task)
    assert caplog.messages == [f"compiled code is not kept: {why}. {ANEW}"]


@pytest.mark.parametrize("too_large", [".so.sha256-", ".so-"])
def test_a_disk_that_fills_up(fresh, counting, make_task, tmp_path, caplog, too_large):
    def write(file, content):
        if too_large in file.name:
            file.write_bytes(b"half")
            raise OSError(28, "No space left on device", "a file")
        write_whole(file, content)

    fresh.setenv("FEDGRU_CACHE", str(tmp_path / "kept"))
    fresh.setattr(compiler, "write_whole", write)
    why = "[Errno 28] No space left on device: 'a file'"
    train(make_task)
    assert caplog.messages == [f"the compiled local steps are not kept: {why}"]
    left = {file.suffix for file in folder_in(tmp_path / "kept").iterdir()}
    assert left <= {".sha256"}  # a library without its sum would be a warning in the next run


@pytest.mark.parametrize("mode", [0o000, 0o500, 0o300], ids=oct)
def test_a_folder_without_permission(home, fresh, make_task, caplog, mode):
    fresh.setenv("FEDGRU_CACHE", str(home))
    folder = cache.compiled_folder()
    folder.chmod(mode)
    why = f"cannot use {folder}: Permission denied"
    train(make_task)
    assert caplog.messages == [f"compiled code is not kept: {why}. {ANEW}"]


@pytest.mark.parametrize("mode", [0o000, 0o500], ids=oct)
def test_a_home_without_permission(home, fresh, make_task, caplog, mode):
    fresh.delenv("FEDGRU_CACHE")
    fresh.delenv("XDG_CACHE_HOME", raising=False)
    fresh.setenv("HOME", str(home))
    home.chmod(mode)
    why = f"cannot use {folder_in(home / '.cache/fedgru')}: Permission denied"
    train(make_task)
    assert caplog.messages == [f"compiled code is not kept: {why}. {ANEW}"]


def test_a_library_without_permission(home, counting, fresh, caplog):
    fresh.setenv("FEDGRU_CACHE", str(home))
    before = counting.calls()
    assert load_and_use() > 0
    (library,) = home.glob("*/*.so")
    library.chmod(0)
    assert load_and_use() > 0 < load_and_use()
    why = f"[Errno 13] Permission denied: '{library}'"
    assert caplog.messages == [f"{library} cannot be used and is made anew: {why}"]
    assert counting.calls() - before == 2


# No user has this process's number, and no variable says where home is.
HOMELESS = """
import os, pwd
from fedgru.core import cache, jax_setup
from fedgru import config
from fedgru.data import datasets, synthetic
from fedgru.agnostic import protection
from fedgru.engines.jax.engine import JaxEngine
from fedgru.task.task import build_task

def unknown(user_id):
    raise KeyError(user_id)

pwd.getpwuid = unknown
city = synthetic.make_city(synthetic.CityConfig(num_users=3, checkins_per_user=30))
data = datasets.DataSet("town", city.check_ins, {"fingerprint": "town"}, city.best_prob)
given = {"prior": "none", "hidden_dim": 8, "threads": 1, "local_loop": "native"}
with jax_setup.kept_between_runs():
    task = build_task(data, config.load(given))
    assert len(list(JaxEngine(task).local_updates(protection.init_weights(task), [0, 1], 1))) == 2
    jax_setup.import_jax().numpy.ones(4).sum()
assert list(cache.compiled_folder().glob("*-cache"))
print(cache.compiled_folder())
"""


def test_a_user_without_a_home(fresh, counting, tmp_path):
    for name in ("HOME", "XDG_CACHE_HOME", "FEDGRU_CACHE"):
        fresh.delenv(name, raising=False)
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS], capture_output=True, text=True, cwd=tmp_path
    )
    told = f"compiled code is not kept: {NO_HOME}. {ANEW}\n"
    assert (done.returncode, done.stderr) == (0, told)
    scratch = Path(done.stdout.strip())
    assert scratch.parent == Path(tempfile.gettempdir()) and not scratch.exists()
    assert not (tmp_path / "~").exists()


def test_a_home_of_an_older_platformdirs(fresh, caplog):
    """Which gives a relative path, where the newer one raises an error."""
    fresh.delenv("FEDGRU_CACHE")
    fresh.setattr(platformdirs, "user_cache_path", lambda *_, **__: Path("~/.cache/fedgru"))
    assert cache.compiled_folder() == cache.scratch_folder()
    assert set(caplog.messages) <= {f"compiled code is not kept: {NO_HOME}. {ANEW}"}
    assert not Path("~").exists()


# Three programs for JAX, and a folder to keep them in; no file may be larger than so many bytes.
THREE = """
import json, resource, sys
from fedgru.core import jax_setup

jax, most, counts = jax_setup.import_jax(), int(sys.argv[1]), {"hits": 0, "misses": 0}

def count(event, **_):
    for name in counts:
        counts[name] += event == f"/jax/compilation_cache/cache_{name}"

jax.monitoring.register_event_listener(count)
if most:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
with jax_setup.kept_between_runs():
    for name in ("one", "two", "three"):
        program = lambda x: (x * 3 + len(name)).sum()
        program.__name__ = name
        counts[name] = float(jax.jit(program)(jax.numpy.ones(4)))
print(json.dumps(counts))
"""


@pytest.mark.slow
def test_jax_says_once_that_it_cannot_keep_what_it_compiles(fresh, tmp_path):
    fresh.setenv("FEDGRU_CACHE", str(tmp_path / "kept"))
    folder = folder_in(tmp_path / "kept")

    def run(most_bytes=0):
        done = subprocess.run(
            [sys.executable, "-c", THREE, str(most_bytes)], capture_output=True, text=True
        )
        counts = json.loads(done.stdout)
        # 4 * (3 + the letters of the name)
        assert [counts[name] for name in ("one", "two", "three")] == [24, 24, 32]
        return counts, done.stderr.splitlines()

    start = f"JAX cannot keep all compiled code in {folder}: Error"
    _, (warning,) = run(most_bytes=100)
    assert warning.startswith(f"{start} writing persistent compilation cache entry for 'jit_")
    assert not list(folder.iterdir())  # no half a file for the next run to stumble over
    first, warnings = run()
    assert first["hits"] == 0 < first["misses"] and not warnings
    for entry in folder.iterdir():
        os.truncate(entry, 50)
    again, (warning,) = run()
    assert warning.startswith(f"{start} reading persistent compilation cache entry for 'jit_")
    assert again == first
    last, warnings = run()
    assert last["hits"] == first["misses"] and last["misses"] == 0 and not warnings


@pytest.mark.parametrize(
    ("file", "right", "wrong", "message"),
    [
        (
            "space.h",
            "num_ids, num_numbers,",
            "num_numbers, num_ids,",
            "Job.num_ids is at byte 24 in the C code, but at byte 16 in calls.py",
        ),
        (
            "space.h",
            "*head_kernel, *head_bias",
            "*head_bias, *head_kernel",
            "Weights.head_kernel is at byte 40 in the C code, but at byte 32 in calls.py",
        ),
        (
            "forward_pass.h",
            "num_rows, length,",
            "length, num_rows,",
            "Forward.num_rows is at byte 8 in the C code, but at byte 0 in calls.py",
        ),
        (
            "forward_pass.h",
            "} Forward;",
            "int64_t more; } Forward;",
            "Forward has 224 bytes in the C code, but 216 in calls.py",
        ),
    ],
    ids=["Job", "Weights", "Forward", "size"],
)
def test_fields_are_where_the_c_code_has_them(
    monkeypatch, make_task, tmp_path, file, right, wrong, message
):
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-O0"))
    planted = tmp_path / "native"
    shutil.copytree(compiler.FOLDER, planted)
    header = planted / file
    assert header.read_text().count(right) == 1
    header.write_text(header.read_text().replace(right, wrong))
    task = make_task()
    with pytest.raises(AssertionError) as error:
        NativeCode(task.spec, ClientRule(), compiler.load_from(planted))
    assert str(error.value) == message
