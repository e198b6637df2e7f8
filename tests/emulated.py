"""The C code as a library of another kind of processor, run by an emulator: a process a call."""

import ctypes
import shutil
import struct
import subprocess
from pathlib import Path

from fedgru.engines.jax.native.calls import CANDIDATES, DATA, FORWARD_DATA, WEIGHTS

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
MISSING = [program for program in (COMPILER, EMULATOR) if shutil.which(program) is None]
_OFFSET, _JOB, _FORWARD = range(3)
_DONE = 1


class Aarch64Library:
    """What ctypes.CDLL would be on such a machine; as much of it as NativeCode calls.

    Args:
        sources: folder of the C code.
        scratch: folder for the program.

    Attributes:
        calls: int, how often the program was run for a client or a forward pass.
    """

    def __init__(self, sources, scratch):
        self._program = str(scratch / "emulated")
        source = Path(__file__).with_name("emulated.c")
        flags = ["-std=gnu11", "-O1", "-static", "-pthread", "-fno-math-errno", f"-I{sources}"]
        subprocess.run([COMPILER, *flags, str(source), "-o", self._program, "-lm"], check=True)
        self.calls = 0
        for name in ("offset", "new_queue", "add_job", "wait_for", "work", "close_queue"):
            setattr(self, f"fedgru_{name}", _Function(getattr(self, f"_{name}")))
        for name, known in {"job": b"Job", "forward": b"Forward"}.items():
            asked = _Function(lambda known=known: self._offset(known))
            setattr(self, f"fedgru_{name}_struct_bytes", asked)
        self.fedgru_free_queue = _Function(lambda queue: None)
        self.fedgru_forward_bytes = _Function(lambda forward: 1)
        self.fedgru_forward = _Function(self._forward)

    def _run(self, kind, content):
        call = struct.pack("<q", kind) + content
        command = [EMULATOR, self._program]
        return subprocess.run(command, input=call, stdout=subprocess.PIPE, check=True).stdout

    def _offset(self, name):
        return struct.unpack("<q", self._run(_OFFSET, name))[0]

    def _new_queue(self, room):
        return 1

    def _close_queue(self, queue):
        pass

    def _work(self, queue, memory, size_bytes, milliseconds):
        return 0  # nothing is left to do: `_add_job` has done it

    def _wait_for(self, queue, job, most, milliseconds):
        return _DONE

    def _add_job(self, queue, job):
        self.calls += 1
        places = job.steps_per_pass * job.seq_len * job.batch
        sizes = {
            "resets": job.steps_per_pass * job.batch / 4,  # of one byte
            "row_ids": job.num_own,
            "rows": places * job.num_ids,
            "numbers": places * job.num_numbers,
            "targets": places,
            "mask": places,
            "log_prior": places * job.num_classes,
            **dict.fromkeys(("log_within", "log_top", "is_top"), places),
            "context": places * job.num_context,
            "first_row": 2 * (places + 1),  # of 8 bytes
        }
        if job.head_dim:
            rows = _read(job.first_row, ctypes.c_int64, places + 1)[-1]
            sizes |= {"features": rows * job.num_features, "candidate_log_prior": rows}
            sizes["kinds"] = rows
        content = [bytes(job)]
        for name in ("row_ids", *DATA, *CANDIDATES):
            content.append(_array(getattr(job, name), int(4 * sizes.get(name, 0))))
        table = 1 + max(_read(job.row_ids, ctypes.c_int32, job.num_own), default=-1)
        given = _weight_sizes(job, table)
        written = _weight_sizes(job, job.num_own)
        content += [_array(getattr(job.weights, name), given[name]) for name in WEIGHTS]
        content += [_array(getattr(job.update, name), written[name]) for name in WEIGHTS]
        came = self._run(_JOB, b"".join(content))
        done = type(job).from_buffer_copy(came)
        job.loss_sum, job.num_correct = done.loss_sum, done.num_correct
        at = ctypes.sizeof(job)
        for name in WEIGHTS:
            if getattr(job.update, name):
                ctypes.memmove(getattr(job.update, name), came[at:], written[name])
                at += written[name]
        assert at == len(came)

    def _forward(self, forward, memory):
        self.calls += 1
        rows = forward.num_rows * forward.length
        sizes = {
            "rows": 4 * forward.num_ids,
            "numbers": 4 * forward.num_numbers,
            "starts": 1,
            "places": 8,
        }
        content = [bytes(forward)]
        content += [_array(getattr(forward, name), rows * sizes[name]) for name in FORWARD_DATA]
        ids = _read(forward.rows, ctypes.c_int32, rows * forward.num_ids)
        places = _read(forward.places, ctypes.c_int64, rows)
        given = _weight_sizes(forward, 1 + max(ids, default=-1))
        content += [_array(getattr(forward.weights, name), given[name]) for name in WEIGHTS]
        written = {
            "state": 4 * forward.num_rows * forward.hidden_dim,
            "hidden": 4 * (1 + max(places)) * forward.hidden_dim,
        }
        content += [_array(getattr(forward, name), size) for name, size in written.items()]
        came = self._run(_FORWARD, b"".join(content))
        ctypes.memmove(forward.state, came, written["state"])
        ctypes.memmove(forward.hidden, came[written["state"] :], written["hidden"])
        assert len(came) == sum(written.values())


class _Function:
    """A function to which a result and arguments can be declared, as ctypes wants it."""

    def __init__(self, function):
        self._function = function

    def __call__(self, *args):
        return self._function(*args)


def _array(address, size_bytes):
    if not address:
        return struct.pack("<q", -1)
    return struct.pack("<q", size_bytes) + ctypes.string_at(address, size_bytes)


def _read(address, kind, count):
    return list((kind * count).from_address(address)) if count else []


def _weight_sizes(of, num_rows):
    """Bytes of each of the weights; a forward pass has no head, which is then not read."""
    width, classes = 3 * of.hidden_dim, getattr(of, "num_classes", 0)
    floats = {
        "rows": num_rows * width,
        "numbers": of.num_numbers * width,
        "recurrent": of.hidden_dim * width,
        "bias": 2 * width,
        "head_kernel": of.hidden_dim * classes,
        "head_bias": classes,
        "prior_scale": 1,
    }
    if units := getattr(of, "head_dim", 0):
        floats |= {
            "candidate_input": of.num_features * units,
            "candidate_state": of.hidden_dim * units,
            "candidate_of_context": of.num_context * units,
            "candidate_kinds": of.num_kinds * of.kind_dim,
            "candidate_of_kind": of.kind_dim * units,
            "candidate_bias": units,
            "candidate_output": units,
            "candidate_linear": of.num_features,
            "candidate_kind_bias": of.num_kinds,
        }
    floats |= dict.fromkeys(set(WEIGHTS) - set(floats), 0)
    return {name: 4 * size for name, size in floats.items()}
