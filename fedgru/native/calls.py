"""The calls of the C code: a client's local steps, and a walk through check-ins for evaluation."""

import ctypes
import itertools
import math
from contextlib import contextmanager
from ctypes import POINTER, c_double, c_float, c_int64, c_uint32, c_void_p
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from fedgru.native import compiler
from fedgru.native.compiler import Unavailable

WEIGHTS = ("rows", "numbers", "recurrent", "bias", "head_kernel", "head_bias", "prior_scale")
DATA = {
    "rows": np.int32,
    "numbers": np.float32,
    "targets": np.int32,
    "mask": np.float32,
    "log_prior": np.float32,
}
WALKED = {"rows": np.int32, "numbers": np.float32, "starts": np.uint8, "places": np.int64}
LINE = 16  # floats in a cache line


class _Weights(ctypes.Structure):
    """`Weights` of space.h."""

    _fields_ = [(name, c_void_p) for name in WEIGHTS]


class _Job(ctypes.Structure):
    """`Job` of space.h, field by field."""

    _fields_ = [
        *((name, c_int64) for name in ("batch", "seq_len", "num_ids", "num_numbers", "hidden_dim")),
        *((name, c_int64) for name in ("num_classes", "num_table", "num_own", "steps_per_pass")),
        *((name, c_int64) for name in ("num_steps", "adam")),
        *((name, c_float) for name in ("client_lr", "kept")),
        ("key", c_uint32 * 2),
        ("row_ids", c_void_p),
        *((name, c_void_p) for name in DATA),
        ("weights", _Weights),
        ("update", _Weights),
        ("stop", c_void_p),
        *((name, c_double) for name in ("loss_sum", "num_correct")),
    ]


class _Walk(ctypes.Structure):
    """`Walk` of walk.h, field by field."""

    _fields_ = [
        *((name, c_int64) for name in ("num_rows", "length", "num_ids", "num_numbers")),
        ("hidden_dim", c_int64),
        *((name, c_void_p) for name in ("rows", "numbers", "starts", "places")),
        ("weights", _Weights),
        *((name, c_void_p) for name in ("state", "hidden")),
    ]


def load(task, device, clients_per_call):
    """Return the NativeCode of a task.

    Raises:
        Unavailable: if the C code does not know what the task asks for, or cannot be compiled here.
    """
    import jax

    spec = task.spec
    if device.platform != "cpu":
        raise Unavailable(f"it runs on a CPU alone, not on {device.platform}")
    if clients_per_call > 1:
        raise Unavailable("it trains one client in a call")
    if task.protection is not None:
        raise Unavailable("it knows no protected concept")
    if spec.cell != "gru":
        raise Unavailable(f"it knows no {spec.cell}")
    if spec.dropout > 0 and not jax.config.jax_threefry_partitionable:
        raise Unavailable(f"it does not draw dropout as JAX {jax.__version__} does")
    return NativeCode(spec, task.settings.client, compiler.load())


class Pointed(NamedTuple):
    """A structure of the C code, and the arrays that it points to, which must live as long."""

    struct: ctypes.Structure
    arrays: dict


class NativeCode:
    """The C code for one model; may be called from many threads at the same time.

    What a call is given is pointed to once, weights in a round (`weights`), a client's data while
    they live: between two calls of the C code a thread needs Python's lock, for which others wait
    as well.

    Args:
        spec: ModelSpec.
        settings: ClientSettings.
        library: from `compiler.load`.

    Attributes:
        clients_trained: int, a test reads it.
    """

    def __init__(self, spec, settings, library):
        self._spec, self._settings, self._library = spec, settings, library
        for struct, name in ((_Job, "local_steps"), (_Walk, "walk")):
            size, run = (getattr(library, f"fedgru_{name}{end}") for end in ("_bytes", ""))
            size.argtypes, size.restype = [POINTER(struct)], c_int64
            run.argtypes, run.restype = [POINTER(struct), c_void_p], None
            declared = getattr(library, f"fedgru_{name}_struct_bytes")
            declared.restype = c_int64
            if declared() != ctypes.sizeof(struct):
                raise AssertionError(f"{struct.__name__} is another one in C")
        self._clients = WeakKeyDictionary()  # data -> Pointed
        self._memory = []  # to work in; what is not in use
        self.clients_trained = 0

    def weights(self, weights):
        """Return the Pointed of weights, name -> float32 array; `rows` is the whole table."""
        return _point(_Weights(), weights, dict.fromkeys(weights, np.float32))

    def _client(self, data):
        """Return the Pointed of a client's data."""
        if data in self._clients:
            return self._clients[data]
        arrays = dict(zip(DATA, data.arrays, strict=False)) | {"row_ids": data.row_ids}
        pointed = _point(_Job(), arrays, DATA | {"row_ids": np.int32})
        job, spec = pointed.struct, self._spec
        _, job.seq_len, job.batch, job.num_ids = arrays["rows"].shape
        job.num_numbers = spec.num_numbers
        job.hidden_dim, job.num_classes = spec.hidden_dim, spec.num_classes
        job.num_table, job.num_own = data.num_table, len(data.row_ids)
        job.steps_per_pass, job.num_steps = data.steps, data.steps * data.passes
        job.adam = self._settings.client_optimizer == "adam"
        job.client_lr, job.kept = self._settings.client_lr, 1.0 - spec.dropout
        self._clients[data] = pointed
        return pointed

    def local_steps(self, weights, data, key, stop):
        """Train one client.

        Args:
            weights: Pointed, from `weights`.
            data: the jax engine's form of a client; the same object has the same contents.
            key: uint32 [2], words of the random key of its dropout.
            stop: int32 [1], set to 1 by another thread to end the work, whose result then is of no
                use.

        Returns:
            (update, sums): name -> float32 array, of `rows` the client's own alone, and float64 [5]
            as from `run_steps`.
        """
        pointed = self._client(data)
        job = _Job.from_buffer_copy(pointed.struct)
        job.weights, job.stop = weights.struct, stop.ctypes.data
        job.key[:] = key.tolist()
        update, job.update = _new_update(weights.arrays, job.num_own)
        with self._space(self._library.fedgru_local_steps_bytes(job)) as space:
            self._library.fedgru_local_steps(job, space)  # Python's lock is released meanwhile
        del pointed  # not before
        self.clients_trained += 1
        return update, np.array([job.loss_sum, job.num_correct, 0, 0, 0])

    def walk(self, weights, rows, numbers, starts, places, state, hidden):
        """Run the cell over rows in which one sequence follows another; keep states asked for.

        Args:
            weights: Pointed, from `weights`.
            rows: int32 [length, num_rows, num_id_features]; -1 is unknown and adds nothing.
            numbers: float32 [length, num_rows, num_numbers].
            starts: bool [length, num_rows], where a new sequence starts: the state before it is
                zero.
            places: int64 [length, num_rows], where in `hidden` the state after a check-in goes; -1
                is nowhere.
            state: float32 [num_rows, hidden_dim], changed to what it is after the last step.
            hidden: float32 [num_places, hidden_dim], written to.
        """
        arrays = {"rows": rows, "numbers": numbers, "starts": starts, "places": places}
        walk, _ = pointed = _point(_Walk(), arrays, WALKED)
        walk.weights = weights.struct
        walk.state, walk.hidden = state.ctypes.data, hidden.ctypes.data  # never copies of them
        walk.length, walk.num_rows, walk.num_ids = rows.shape
        walk.num_numbers, walk.hidden_dim = self._spec.num_numbers, self._spec.hidden_dim
        with self._space(self._library.fedgru_walk_bytes(walk)) as space:
            self._library.fedgru_walk(walk, space)
        del pointed  # not before

    @contextmanager
    def _space(self, size_bytes):
        """Lend the address of some memory to work in, and take it back."""
        try:
            memory = self._memory.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        if len(memory) < size_bytes:
            memory = np.empty(size_bytes, np.uint8)
        yield memory.ctypes.data
        self._memory.append(memory)


def _point(struct, arrays, dtypes):
    """Let fields point to arrays, or to copies in the type and order of C; return the Pointed."""
    kept = {
        name: np.asarray(array, dtypes[name], order="C")
        for name, array in arrays.items()
        if array is not None
    }
    for name, array in kept.items():
        setattr(struct, name, array.ctypes.data)
    return Pointed(struct, kept)


def _new_update(weights, num_own):
    """Return arrays for an update, all parts of one, name -> array, and the _Weights of them."""
    shapes = {
        name: (num_own, w.shape[1]) if name == "rows" else w.shape for name, w in weights.items()
    }
    sizes = [math.prod(shape) for shape in shapes.values()]
    ends = list(itertools.accumulate(-(-size // LINE) * LINE for size in sizes))
    memory = np.empty(ends[-1] + LINE, np.float32)
    address = memory.ctypes.data
    first = -address // 4 % LINE  # in whole cache lines, and each array from a new one
    update, struct = {}, _Weights()
    for (name, shape), size, begin in zip(shapes.items(), sizes, [0, *ends[:-1]], strict=True):
        begin += first
        update[name] = memory[begin : begin + size].reshape(shape)
        setattr(struct, name, address + 4 * begin)
    return update, struct
