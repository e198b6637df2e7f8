"""The benchmarks leave no process behind, and name the machine that they ran on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

import bench  # noqa: E402
from peers import keeper  # noqa: E402

needs_proc = pytest.mark.skipif(
    sys.platform != "linux", reason="needs Linux: elsewhere only a row's own group is killed"
)

# A row with a child, a child in a session of its own, and a process whose parent has ended.
ROW = """
import os, subprocess, sys, time
sleep = ["sleep", "300"]
child = subprocess.Popen(sleep)
apart = subprocess.Popen(sleep, start_new_session=True)
code = f"import subprocess; print(subprocess.Popen({sleep}, stdout=2, start_new_session=True).pid)"
orphan = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True).stdout
with open(FOLDER + "/new", "w") as file:
    print(os.getpid(), child.pid, apart.pid, orphan, file=file)
os.rename(FOLDER + "/new", FOLDER + "/pids")
"""
# benchmarks/round.py with that row alone, and without the work
ROUND = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.path.insert(0, BENCHMARKS)
import round as benchmark
row = benchmark.Row("a row", Path(sys.executable), (FOLDER + "/row.py",), None, 1)
benchmark.rows = lambda args: [row]
benchmark.export = lambda args, work: {}
benchmark.main()
"""


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_round_that_is_ended_leaves_no_process(tmp_path, number):
    written(tmp_path / "row.py", ROW + "time.sleep(300)\n", FOLDER=tmp_path)
    program = written(tmp_path / "program.py", ROUND, FOLDER=tmp_path, BENCHMARKS=BENCHMARKS)
    running = subprocess.Popen([sys.executable, program], stderr=subprocess.DEVNULL)
    try:
        pids = pids_of_row(tmp_path)
        assert alive(pids) == pids
        running.send_signal(number)
        assert running.wait(5) == (-9 if number == signal.SIGKILL else 128 + number)
    finally:
        running.kill()
        running.wait()
    assert not alive_after_a_while(pids)


@needs_proc
def test_a_row_that_ends_leaves_no_process_and_its_exit_code_is_kept(tmp_path):
    row = written(tmp_path / "row.py", ROW + "sys.exit(3)\n", FOLDER=tmp_path)
    with keeper.started([sys.executable, row]) as running:
        assert running.wait(20) == 3
    assert not alive(pids_of_row(tmp_path))


@needs_proc
def test_a_row_that_is_killed_has_the_exit_code_of_a_shell(tmp_path):
    row = written(tmp_path / "row.py", ROW + "os.kill(os.getpid(), 9)\n", FOLDER=tmp_path)
    with keeper.started([sys.executable, row]) as running:
        assert running.wait(20) == 137
    assert not alive(pids_of_row(tmp_path))


@needs_proc
def test_a_block_that_fails_leaves_no_process(tmp_path):
    row = written(tmp_path / "row.py", ROW + "time.sleep(300)\n", FOLDER=tmp_path)
    with pytest.raises(RuntimeError), keeper.started([sys.executable, row]):
        pids = pids_of_row(tmp_path)
        raise RuntimeError
    assert not alive(pids)


@needs_proc
def test_what_is_ignored_stays_ignored(tmp_path):
    code = f"import sys; sys.path.append({str(BENCHMARKS)!r})\nfrom peers import keeper\n"
    code += "keeper.exit_on_signals(); import os, signal; os.kill(os.getpid(), signal.SIGHUP)"
    for command, expected in ([], 129), (["nohup"], 0):
        command = [*command, sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, preexec_fn=heed_hangups)
        assert done.returncode == expected


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [("Haswell", "AVX2"), ("Zen", "AVX2"), ("Cooperlake", "AVX-512"), ("neoversen1", "NEON")],
)
def test_a_kernel_of_openblas_names_its_instruction_set(kernel, expected):
    assert bench.kernel_instruction_set(kernel) == expected


def written(path, text, **names):
    """Write a program that begins with some names' values; return its path."""
    path.write_text("".join(f"{name} = {str(names[name])!r}\n" for name in names) + text)
    return path


def heed_hangups():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def no_process_outlives_a_failed_test(tmp_path):
    yield
    if (tmp_path / "pids").exists():
        for pid in alive(pids_of_row(tmp_path)):
            os.kill(pid, signal.SIGKILL)


def pids_of_row(folder):
    """Wait until ROW has started all its processes; return their ids."""
    end = time.monotonic() + 20
    while not (folder / "pids").exists():
        assert time.monotonic() < end, "the row has not started"
        time.sleep(0.02)
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    assert len(pids) == 4
    return pids


def alive_after_a_while(pids):
    end = time.monotonic() + 5
    while alive(pids) and time.monotonic() < end:
        time.sleep(0.02)
    return alive(pids)


def alive(pids):
    return [pid for pid in pids if state(pid) not in ("", "Z")]


def state(pid):
    """The letter of /proc/PID/stat behind the name in brackets; empty if there is none."""
    return keeper.read(Path(f"/proc/{pid}/stat")).rpartition(")")[2][1:2]
