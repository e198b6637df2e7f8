"""Which local loop is faster on this machine: the C code, or what XLA compiles.

Both are timed once, on made-up clients of the run's own sizes. The result is kept beside the
compiled library. It depends on the processor, the compiler and the sizes, in ways that are hard to
predict.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import numpy as np

from fedgru.algorithms.client_rule import ClientRule
from fedgru.core import cache, seeding
from fedgru.core.types import Floats, KeyWords, Weights
from fedgru.engines.jax.native.calls import Cohort, NativeCode
from fedgru.engines.jax.prepared import Prepared
from fedgru.models.candidate_head import Candidates, CandidateSpec, Trained
from fedgru.storage.files import write_text
from fedgru.task.task import LocalData, Task

STEPS = 3  # of a made-up client: the first and the last local step do less than the others
OWN_ROWS = 100  # rows of the table that a made-up client has
CANDIDATES = 64  # of each of its check-ins, where there are as many classes
BUDGET_S = 0.4  # for each of the two, without the time to compile
WORTH_S = 10.0  # a training that takes less in C ends before a faster XLA loop would pay
FILE = "local-loops.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopSpeeds:
    """Seconds that the same local steps take on this machine.

    Attributes:
        native_s: by the C code.
        xla_s: by XLA.
    """

    native_s: float
    xla_s: float

    @property
    def native_is_faster(self) -> bool:
        return self.native_s <= self.xla_s

    def __str__(self) -> str:
        if self.native_is_faster:
            return f"{self.xla_s / self.native_s:.1f} times XLA's speed here"
        return f"{self.native_s / self.xla_s:.1f} times the C code's speed here"


def sizes(task: Task, rule: ClientRule, threads: int) -> str:
    """Return a text that names what the speeds depend on; sizes are rounded to a power of two.

    So similar settings of a sweep share one measurement.
    """
    spec, layout = task.spec, task.settings.layout
    rounded = {
        "hidden": spec.hidden_dim,
        "batch": layout.batch_size,
        "seq": layout.seq_len,
        "classes": spec.num_classes,
        "ids": task.inputs.rows.shape[1],
        "numbers": spec.num_numbers,
    }
    names = [f"{name} {1 << max(size - 1, 0).bit_length()}" for name, size in rounded.items()]
    names += [rule.optimizer, f"{threads} threads"]
    names += ["dropout"] * (spec.dropout > 0) + ["prior"] * spec.has_prior
    names += ["proximal"] * (rule.prox_mu > 0)
    if isinstance(spec, CandidateSpec):
        names += [f"candidates of {1 << max(spec.head_dim - 1, 0).bit_length()}"]
    return ", ".join(names)


def find_kept(digest: str, sizes: str) -> LoopSpeeds | None:
    """Return the LoopSpeeds kept from an earlier run; None if there are none."""
    kept = _read_kept()
    found = kept.get(_entry(digest, sizes))
    return None if found is None else LoopSpeeds(**found)


def all_kept(digest: str) -> list[LoopSpeeds]:
    """Return the LoopSpeeds of all sizes that were timed here, of one library and this JAX."""
    start = _entry(digest, "")
    return [LoopSpeeds(**found) for entry, found in _read_kept().items() if entry.startswith(start)]


def keep(digest: str, sizes: str, speeds: LoopSpeeds) -> None:
    """Keep LoopSpeeds for later runs; if that fails, a later run measures again."""
    folder = cache.compiled_folder()
    if folder is None:
        return
    try:
        kept = _read_kept() | {_entry(digest, sizes): asdict(speeds)}
        write_text(folder / FILE, json.dumps(kept, indent=1))
    except OSError as error:
        logger.warning("the speeds of the local loops are not kept: %s", error)


def _entry(digest: str, sizes: str) -> str:
    import jax

    return f"library {digest}, jax {jax.__version__}, {sizes}"


def _read_kept() -> dict[str, dict[str, float]]:
    """Return {entry: fields of LoopSpeeds}; empty, with a warning, if the file is damaged."""
    folder = cache.compiled_folder()
    file = None if folder is None else folder / FILE
    if file is None or not file.exists():
        return {}
    try:
        kept = json.loads(file.read_text())
        for fields in kept.values():
            speeds = LoopSpeeds(**fields)
            if not (0 < speeds.native_s < math.inf and 0 < speeds.xla_s < math.inf):
                raise ValueError(f"{speeds} is no speed")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be used, local loops are timed anew: %s", file, error)
        return {}
    return kept


def make_up_client(task: Task, own_rows: int, rng: np.random.Generator) -> LocalData:
    """Return the LocalData of a made-up client: random check-ins, STEPS full local steps."""
    layout, inputs = task.settings.layout, task.inputs
    shape = STEPS, layout.batch_size, layout.seq_len
    classes = task.num_classes
    beside: Floats | Trained | None = None
    if isinstance(task.spec, CandidateSpec):
        classes = min(classes, CANDIDATES)
        beside = _make_up_candidates(task.spec, (*shape, 1 + classes), rng)
    elif task.spec.has_prior:
        beside = _make_up_log_prior((*shape, classes), rng)
    return LocalData(
        rows=rng.integers(0, own_rows, (*shape, inputs.rows.shape[1])).astype(np.int32),
        numbers=rng.random((*shape, inputs.numbers.shape[1]), np.float32),
        targets=rng.integers(0, classes, shape),
        mask=np.ones(shape, np.float32),
        beside=beside,
        protected=None,
        passes=1,
        num_examples=math.prod(shape),
    )


def _make_up_log_prior(shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    return np.log(rng.dirichlet(np.ones(shape[-1]), shape[:-1]) + 1e-6).astype(np.float32)


def _make_up_candidates(
    spec: CandidateSpec, shape: tuple[int, ...], rng: np.random.Generator
) -> Trained:
    """Return a Trained of random numbers; its candidates' log priors have the given shape."""
    return Trained(
        Candidates(
            features=rng.random((*shape, spec.num_features), np.float32),
            context=rng.random((*shape[:-1], spec.num_context), np.float32),
            log_prior=_make_up_log_prior(shape, rng),
            kinds=rng.integers(0, spec.num_kinds, shape).astype(np.int32),
        ),
        *(np.zeros(shape[:-1], np.float32) for _ in range(3)),
    )


def seconds_in_c(
    native: NativeCode, weights: Weights, clients: Sequence[Prepared], keys: Sequence[KeyWords]
) -> float:
    """Return the seconds that the C code takes to train made-up clients, one on each thread."""
    pointed = native.weights(weights)

    def train() -> None:
        with Cohort(native, pointed, len(clients), len(clients)) as cohort:
            trained = [cohort.train(*client) for client in zip(clients, keys, strict=True)]
            for one in trained:
                cohort.wait_for(one)

    return _least_seconds(train)


def seconds_by_xla(
    train_client: Callable[[Prepared, KeyWords], object],
    clients: Sequence[Prepared],
    keys: Sequence[KeyWords],
) -> float:
    """As `seconds_in_c`; `train_client(client, key)` trains one, and compiles at first."""
    with ThreadPoolExecutor(len(clients)) as pool:
        return _least_seconds(lambda: list(pool.map(train_client, clients, keys)))


def _least_seconds(train: Callable[[], object]) -> float:
    """Return the least of several times, without the first: other processes only ever add time."""
    train()
    least, until = math.inf, time.perf_counter() + BUDGET_S
    for at in range(50):
        started = time.perf_counter()
        train()
        now = time.perf_counter()
        least = min(least, now - started)
        if now > until and at:
            break
    return least


def start_weights(task: Task, own_rows: int) -> Weights:
    """Return initial weights, whose table has only the rows of the made-up client."""
    return replace(task.spec, num_rows=own_rows).init_weights(seeding.rng(0, "loop speed"))


def run_seconds(task: Task, local_epochs: int, threads: int, seconds: float) -> float:
    """Return the most seconds that all rounds take, given those of STEPS local steps."""
    layout, loop = task.settings.layout, task.settings.loop
    cohort = task.training_clients
    pairs = (task.clients.train_ends - task.clients.starts[:-1] - 1)[cohort].clip(0)
    steps = pairs.sum() * local_epochs / layout.batch_size / layout.seq_len
    share = (loop.clients_per_round or len(cohort)) / len(cohort)
    return loop.rounds * share * steps / STEPS / threads * seconds
