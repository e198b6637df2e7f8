"""A client's local steps through local_steps.c: what it can run, and the call."""

import ctypes
from ctypes import POINTER, c_float, c_int64, c_uint32, c_void_p

import numpy as np

from fedgru.native import compiler
from fedgru.native.compiler import Unavailable

WEIGHTS = ("rows", "numbers", "recurrent", "bias", "head_kernel", "head_bias", "prior_scale")
DATA = ("rows", "numbers", "targets", "mask", "log_prior")


class _Weights(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in WEIGHTS]


class _Job(ctypes.Structure):
    """`Job` of local_steps.c, field by field."""

    _fields_ = [
        *((name, c_int64) for name in ("batch", "seq_len", "num_ids", "num_numbers", "hidden_dim")),
        *((name, c_int64) for name in ("num_classes", "num_table", "num_own", "steps_per_pass")),
        *((name, c_int64) for name in ("num_steps", "adam")),
        *((name, c_float) for name in ("client_lr", "dropout")),
        ("key", c_uint32 * 2),
        ("row_ids", c_void_p),
        *((name, c_void_p) for name in DATA),
        ("weights", _Weights),
        ("update", _Weights),
        *((name, c_float) for name in ("loss_sum", "num_correct")),
    ]


def load(task, device, clients_per_call):
    """Return the NativeSteps of a task.

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
    return NativeSteps(spec, task.settings.client, compiler.load())


class NativeSteps:
    """Trains clients of one task; may be called from many threads at the same time.

    Args:
        spec: ModelSpec.
        client: ClientSettings.
        library: from `compiler.load`.
    """

    def __init__(self, spec, client, library):
        self._spec, self._client, self._library = spec, client, library
        library.fedgru_job_bytes.restype = c_int64
        if library.fedgru_job_bytes() != ctypes.sizeof(_Job):
            raise AssertionError("Job differs between local_steps.c and local_steps.py")
        library.fedgru_local_steps_bytes.argtypes = [POINTER(_Job)]
        library.fedgru_local_steps_bytes.restype = c_int64
        library.fedgru_local_steps.argtypes = [POINTER(_Job), c_void_p]
        library.fedgru_local_steps.restype = None
        self._memory = []  # to work in; what is not in use
        self.clients_trained = 0  # a test reads it

    def __call__(self, weights, data, key):
        """Train one client.

        Args:
            weights: name -> float32 array; `rows` is the whole table.
            data: the jax engine's form of a client.
            key: uint32 [2], words of the random key of its dropout.

        Returns:
            (update, sums): name -> float32 array, of `rows` the client's own alone, and float32 [5]
            as from `run_steps`.
        """
        job, kept = _Job(), []  # kept: arrays that the job points to

        def point(to, name, array, dtype):
            array = np.ascontiguousarray(array, dtype)
            kept.append(array)
            setattr(to, name, array.ctypes.data)

        for name, array in zip(DATA, data.arrays, strict=False):
            if array is not None:
                integers = name in ("rows", "targets")
                point(job, name, array, np.int32 if integers else np.float32)
        point(job, "row_ids", data.row_ids, np.int32)
        update = {}
        for name, array in weights.items():
            shape = (len(data.row_ids), array.shape[1]) if name == "rows" else array.shape
            update[name] = np.empty(shape, np.float32)
            point(job.weights, name, array, np.float32)
            point(job.update, name, update[name], np.float32)
        _, job.seq_len, job.batch, job.num_ids = data.arrays[0].shape
        job.num_numbers = data.arrays[1].shape[-1]
        job.hidden_dim, job.num_classes = self._spec.hidden_dim, self._spec.num_classes
        job.num_table, job.num_own = data.num_table, len(data.row_ids)
        job.steps_per_pass, job.num_steps = data.steps, data.steps * data.passes
        job.adam = self._client.client_optimizer == "adam"
        job.client_lr, job.dropout = self._client.client_lr, self._spec.dropout
        job.key[:] = [int(word) for word in key]

        memory = self._take_memory(self._library.fedgru_local_steps_bytes(job))
        self._library.fedgru_local_steps(job, memory.ctypes.data)  # the lock of Python is released
        self._memory.append(memory)
        self.clients_trained += 1
        return update, np.array([job.loss_sum, job.num_correct, 0, 0, 0], np.float32)

    def _take_memory(self, size_bytes):
        try:
            memory = self._memory.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        return memory if len(memory) >= size_bytes else np.empty(size_bytes, np.uint8)
