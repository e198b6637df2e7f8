"""The calls of the C code: a client's local steps, and the forward pass of evaluation."""

import ctypes
import itertools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_int64, c_uint32, c_void_p
from threading import Event, Thread, main_thread
from typing import Any, NamedTuple, Self
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.client_start import ClientStart
from fedgru.core.types import Bools, Doubles, Floats, Int32s, Ints, KeyWords, Weights
from fedgru.engines.jax.forward_pass import Form
from fedgru.engines.jax.native import compiler
from fedgru.engines.jax.native.compiler import Unavailable
from fedgru.engines.jax.prepared import Prepared
from fedgru.models.candidate_head import KIND_DIM, CandidateRows, CandidateSpec
from fedgru.models.gru import ModelSpec
from fedgru.task.task import Task

_OF_HEAD = ("input", "state", "of_context", "kinds", "of_kind", "bias", "output", "linear")
WEIGHTS = (
    *("rows", "numbers", "recurrent", "bias", "head_kernel", "head_bias", "prior_scale"),
    *(f"candidate_{name}" for name in (*_OF_HEAD, "kind_bias")),
)
DATA = {
    "rows": np.int32,
    "numbers": np.float32,
    "targets": np.int32,
    "mask": np.float32,
    "log_prior": np.float32,
    "resets": np.uint8,
}
CANDIDATES = {  # what the head `candidates` reads, in the order of CandidateRows
    "first_row": np.int64,
    "features": np.float32,
    "candidate_log_prior": np.float32,
    "kinds": np.int32,
    "context": np.float32,
    "log_within": np.float32,
    "log_top": np.float32,
    "is_top": np.float32,
}
FEATURES_MULTIPLE = 8  # of the number of features: rows of a tile of a product, see products.h
FORWARD_DATA = {"rows": np.int32, "numbers": np.float32, "starts": np.uint8, "places": np.int64}
LINE = 16  # floats in a cache line
# Parts are long, because each call brings the weights into its own memory layout.
FORWARD_FORM = Form(16, fewest_rows=8, seq_len=512, whole=False)
QUEUED = 2  # clients for each thread beside the one that it trains
WAIT_MS = 100  # for a client to be trained, before Python checks for Ctrl-C
IDLE_MS = 1000  # for a client to train, before the thread checks whether the program has ended
_DONE = 1  # DONE of queue.h


class _Weights(ctypes.Structure):
    """`Weights` of space.h."""

    _fields_ = [(name, c_void_p) for name in WEIGHTS]


class _Job(ctypes.Structure):
    """`Job` of space.h, field by field."""

    _fields_ = [
        *((name, c_int64) for name in ("batch", "seq_len", "num_ids", "num_numbers", "hidden_dim")),
        *((name, c_int64) for name in ("num_classes", "num_table", "num_own", "steps_per_pass")),
        *((name, c_int64) for name in ("num_steps", "adam")),
        *((name, c_float) for name in ("client_lr", "kept", "prox_mu")),
        ("key", c_uint32 * 2),
        ("row_ids", c_void_p),
        *((name, c_void_p) for name in DATA),
        *((name, c_int64) for name in ("head_dim", "num_features", "num_context", "num_kinds")),
        *((name, c_int64) for name in ("kind_dim", "most_candidates", "most_rows")),
        ("head_kept", c_float),
        *((name, c_void_p) for name in CANDIDATES),
        ("weights", _Weights),
        ("update", _Weights),
        ("offset", _Weights),
        ("anchor", _Weights),
        ("stop", c_void_p),
        *((name, c_double) for name in ("loss_sum", "num_correct")),
        ("done", c_int32),
    ]


class _Forward(ctypes.Structure):
    """`Forward` of forward_pass.h, field by field."""

    _fields_ = [
        *((name, c_int64) for name in ("num_rows", "length", "num_ids", "num_numbers")),
        ("hidden_dim", c_int64),
        *((name, c_void_p) for name in ("rows", "numbers", "starts", "places")),
        ("weights", _Weights),
        *((name, c_void_p) for name in ("state", "hidden")),
    ]


_QUEUE = c_void_p
_FUNCTIONS = {  # fedgru_NAME of native.c: its result, and its arguments
    "job_struct_bytes": (c_int64,),
    "new_queue": (_QUEUE, c_int64),
    "add_job": (None, _QUEUE, POINTER(_Job)),
    "wait_for": (c_int32, _QUEUE, POINTER(_Job), c_int64, c_int64),
    "work": (c_int64, _QUEUE, c_void_p, c_int64, c_int64),
    "close_queue": (None, _QUEUE),
    "free_queue": (None, _QUEUE),
    "forward_struct_bytes": (c_int64,),
    "offset": (c_int64, c_char_p),
    "forward_bytes": (c_int64, POINTER(_Forward)),
    "forward": (None, POINTER(_Forward), c_void_p),
}


def load(task: Task, rule: ClientRule, device: Any, clients_per_call: int) -> "NativeCode":
    """Return the NativeCode of a task.

    Raises:
        Unavailable: if the C code cannot do what the task asks for, or cannot be compiled here.
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
    if isinstance(spec, CandidateSpec) and spec.num_features % FEATURES_MULTIPLE:
        raise Unavailable(f"the number of features is no multiple of {FEATURES_MULTIPLE}")
    if rule.correction is not None:
        raise Unavailable("it knows no correction of the gradient but FedProx's")
    if rule.at_received:
        raise Unavailable("it takes gradients only where the weights are")
    # JAX gives its config these attributes when it is imported
    partitionable = jax.config.jax_threefry_partitionable  # type: ignore[attr-defined]
    if spec.dropout > 0 and not partitionable:
        raise Unavailable(f"it does not draw dropout as JAX {jax.__version__} does")
    return NativeCode(spec, rule, compiler.load())


class Pointed(NamedTuple):
    """A structure of the C code, and the arrays that it points to: both must live equally long."""

    struct: Any
    arrays: dict[str, npt.NDArray[Any]]


class NativeCode:
    """The C code for one model and client rule; many threads can call it at the same time.

    Pointers are made once: to the weights in each round (`weights`), to a client's data for as long
    as the data exists. Clients are many, and most take little time to train.

    Args:
        spec: ModelSpec.
        rule: ClientRule; its number of epochs is not used.
        library: from `compiler.load`.

    Attributes:
        clients_trained: int, for tests.
    """

    def __init__(self, spec: ModelSpec, rule: ClientRule, library: Any) -> None:
        self._spec, self._rule, self.library = spec, rule, library
        for name, (result, *arguments) in _FUNCTIONS.items():
            function = getattr(library, f"fedgru_{name}")
            function.restype, function.argtypes = result, arguments
        _check_structures(library)
        self._clients: WeakKeyDictionary[Prepared, Pointed] = WeakKeyDictionary()
        self._memory: list[npt.NDArray[np.uint8]] = []  # to work in; what is not in use
        self.clients_trained = 0

    def weights(self, weights: Weights) -> Pointed:
        """Return the Pointed of weights, name -> float32 array; `rows` is the whole table."""
        return _point(_Weights(), weights, dict.fromkeys(weights, np.float32))

    def _client(self, data: Prepared) -> Pointed:
        """Return the Pointed of a client's data."""
        if data in self._clients:
            return self._clients[data]
        *arrays_of_all, beside, _ = data.arrays
        arrays = dict(zip(DATA, arrays_of_all, strict=False)) | {"row_ids": data.row_ids}
        if isinstance(beside, CandidateRows):
            arrays |= dict(zip(CANDIDATES, beside, strict=True))
        else:
            arrays["log_prior"] = beside
        arrays["resets"] = data.resets
        pointed = _point(_Job(), arrays, DATA | CANDIDATES | {"row_ids": np.int32})
        job, spec = pointed.struct, self._spec
        _, job.seq_len, job.batch, job.num_ids = arrays["rows"].shape
        job.num_numbers = spec.num_numbers
        job.hidden_dim, job.num_classes = spec.hidden_dim, spec.num_classes
        job.num_table, job.num_own = data.num_table, len(data.row_ids)
        job.steps_per_pass, job.num_steps = data.steps, data.steps * data.passes
        job.adam = self._rule.optimizer == "adam"
        job.client_lr, job.prox_mu = self._rule.client_lr, self._rule.prox_mu
        job.kept = 1.0 - spec.dropout
        if isinstance(spec, CandidateSpec):
            job.num_classes = 0  # there is no dense head
            job.head_dim, job.head_kept = spec.head_dim, 1.0 - spec.head_dropout
            job.num_features, job.num_context = spec.num_features, spec.num_context
            job.num_kinds, job.kind_dim = spec.num_kinds, KIND_DIM
            first_row = beside.first_row[:: job.seq_len * job.batch]  # of each local step
            job.most_candidates = beside.most_candidates
            job.most_rows = int(np.diff(first_row).max(initial=0))
        self._clients[data] = pointed
        return pointed

    def job(
        self,
        weights: Pointed,
        data: Prepared,
        key: KeyWords,
        stop: Int32s,
        start: ClientStart | None = None,
    ) -> "Training":
        """Return the Training of a client, before it begins.

        Args:
            weights: Pointed, from `weights`; not used with a `start`.
            data, key, start: as for `Cohort.train`.
            stop: int32 [1]; another thread sets it to 1 to end the work, whose result is then not
                to be used.
        """
        pointed = self._client(data)
        job = _Job.from_buffer_copy(pointed.struct)
        kept: list[Any] = [pointed]
        if start is not None:  # its table has the client's rows alone
            parts = {"offset": start.offset, "anchor": start.anchor}
            for name, arrays in parts.items():
                if arrays is not None:
                    kept.append(self.weights(arrays))
                    setattr(job, name, kept[-1].struct)
            own_ids = np.arange(job.num_own, dtype=np.int32)
            weights = self.weights(start.weights)
            kept += [weights, own_ids]
            job.row_ids = own_ids.ctypes.data
        job.weights, job.stop = weights.struct, stop.ctypes.data
        job.key[:] = key.tolist()
        update, job.update = _new_update(weights.arrays, job.num_own)
        return Training(job, update, kept)

    def forward(
        self,
        weights: Pointed,
        rows: Int32s,
        numbers: Floats,
        starts: Bools,
        places: Ints,
        state: Floats,
        hidden: Floats,
    ) -> None:
        """Run the cell over rows in which one sequence follows another; write the wanted states.

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
        forward, _ = pointed = _point(_Forward(), arrays, FORWARD_DATA)
        forward.weights = weights.struct
        forward.state, forward.hidden = (
            state.ctypes.data,
            hidden.ctypes.data,
        )  # never copies of them
        forward.length, forward.num_rows, forward.num_ids = rows.shape
        forward.num_numbers, forward.hidden_dim = self._spec.num_numbers, self._spec.hidden_dim
        with self.space(self.library.fedgru_forward_bytes(forward)) as space:
            self.library.fedgru_forward(forward, space.ctypes.data)
        del pointed  # its arrays must live until here

    @contextmanager
    def space(self, size_bytes: int) -> Iterator[npt.NDArray[np.uint8]]:
        """Lend memory to work in, uint8 of at least this many bytes, in a context."""
        try:
            memory = self._memory.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        if len(memory) < size_bytes:
            memory = np.empty(size_bytes, np.uint8)
        yield memory
        self._memory.append(memory)


def _check_structures(library: Any) -> None:
    """Raise an AssertionError unless each field here is where the C code has it."""
    sizes = {
        "Job": library.fedgru_job_struct_bytes(),
        "Forward": library.fedgru_forward_struct_bytes(),
    }
    for name, struct in {"Weights": _Weights, "Job": _Job, "Forward": _Forward}.items():
        for field, *_ in struct._fields_:
            in_c, here = library.fedgru_offset(f"{name}.{field}".encode()), getattr(struct, field)
            if in_c != here.offset:
                raise AssertionError(
                    f"{name}.{field} is at byte {in_c} in the C code, but at byte {here.offset} in "
                    "calls.py"
                )
        size = ctypes.sizeof(struct)
        if sizes.get(name, size) != size:
            raise AssertionError(
                f"{name} has {sizes[name]} bytes in the C code, but {size} in calls.py"
            )


class Training(NamedTuple):
    """A client that is queued or trained: what the C code reads, and what it writes.

    Attributes:
        job: _Job.
        update: name -> float32 array; `rows` has only the client's own.
        kept: what it points to, which must live as long.
    """

    job: _Job
    update: Weights
    kept: list[Any]

    @property
    def sums(self) -> Doubles:
        """float64 [5], as from `run_steps`."""
        return np.array([self.job.loss_sum, self.job.num_correct, 0, 0, 0])


class Cohort:
    """Clients that threads train while the next ones are being prepared.

    The threads are Python's, but each stays in C from client to client. While they train they do
    not need Python's lock, and no holder of the lock waits for them.

    It is a context manager: at its end the threads stop before their next local step.

    Args:
        native: NativeCode.
        weights: Pointed, from `NativeCode.weights`.
        threads: how many.
        room: the most clients that will be queued.
    """

    def __init__(self, native: NativeCode, weights: Pointed, threads: int, room: int) -> None:
        self._native, self._library, self._weights = native, native.library, weights
        self._stop = np.zeros(1, np.int32)
        self._queue = self._library.fedgru_new_queue(room)
        if not self._queue:
            raise MemoryError(f"for a queue of {room} clients")
        self._error: BaseException | None = None  # of a thread; `wait_for` raises it
        self._ended = [Event() for _ in range(threads)]
        self._threads = [Thread(target=self._work, args=(ended,)) for ended in self._ended]

    def __enter__(self) -> Self:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop[0] = 1
        interrupted = None
        for thread, ended in zip(self._threads, self._ended, strict=True):
            # No array may be freed while a thread writes to it. Thread.join is no proof that the
            # thread has ended: after one interruption it returns at once.
            while thread.ident is not None and not ended.is_set():
                try:
                    self._library.fedgru_close_queue(self._queue)
                    ended.wait()
                except KeyboardInterrupt as error:
                    interrupted = error
        self._library.fedgru_free_queue(self._queue)
        if interrupted is not None:
            raise interrupted

    def _work(self, ended: Event) -> None:
        try:
            wanted = 1
            while wanted:
                with self._native.space(max(wanted, 1)) as space:
                    wanted = self._library.fedgru_work(
                        self._queue, space.ctypes.data, len(space), IDLE_MS
                    )
                if wanted < 0 and not main_thread().is_alive():
                    return  # the main thread is gone: nobody will close the queue
        except BaseException as error:
            self._error = error
            self._library.fedgru_close_queue(self._queue)
        finally:
            ended.set()

    def train(self, data: Prepared, key: KeyWords, start: ClientStart | None = None) -> Training:
        """Queue a client; return its Training, whose results are there after `wait_for`.

        Args:
            data: the jax engine's form of a client; the same object has the same contents.
            key: uint32 [2], words of the random key of its dropout.
            start: ClientStart, or None for the cohort's weights.
        """
        training = self._native.job(self._weights, data, key, self._stop, start)
        self._library.fedgru_add_job(self._queue, training.job)
        self._native.clients_trained += 1
        return training

    def wait_for(self, training: Training, or_room: bool = False) -> bool:
        """Wait until a client is trained, and return True.

        With `or_room` return False as soon as the threads are about to run out of clients. So no
        more clients are queued than needed: each of them takes memory for its update.
        """
        most = QUEUED * len(self._threads) if or_room else 0
        found = 0
        while not found:
            if self._error is not None:
                raise self._error
            found = self._library.fedgru_wait_for(self._queue, training.job, most, WAIT_MS)
        return bool(found & _DONE)


def _point(
    struct: ctypes.Structure,
    arrays: Mapping[str, npt.NDArray[Any] | None],
    dtypes: Mapping[str, type[Any]],
) -> Pointed:
    """Point fields to arrays, or to copies in the type and order of C; return the Pointed."""
    kept = {
        name: np.asarray(array, dtypes[name], order="C")
        for name, array in arrays.items()
        if array is not None
    }
    for name, array in kept.items():
        setattr(struct, name, array.ctypes.data)
    return Pointed(struct, kept)


def _new_update(weights: Mapping[str, npt.NDArray[Any]], num_own: int) -> tuple[Weights, _Weights]:
    """Return name -> array for an update, all of them parts of one array, and their _Weights."""
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
