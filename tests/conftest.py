"""What several test modules share: a tiny city, its task, the real check-ins if they are here."""

import atexit
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# What is compiled is kept for this one run of the tests, so that the programs they start find it
# there. Each worker has a folder of its own: JAX reads what another has written only half.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["FEDGRU_CACHE"] += f"/{os.environ['PYTEST_XDIST_WORKER']}"
else:
    os.environ["FEDGRU_CACHE"] = tempfile.mkdtemp(prefix="fedgru-tests-")
    atexit.register(shutil.rmtree, os.environ["FEDGRU_CACHE"], ignore_errors=True)

from pathlib import Path

import numpy as np
import pytest

from fedgru import algorithms, config
from fedgru.agnostic import protection
from fedgru.core import jax_setup
from fedgru.data import datasets, synthetic
from fedgru.data.checkins import CheckIns, Coded
from fedgru.task.task import build_task


def _end_at_once(number, _):
    """What SIGTERM does by itself, but not SIG_DFL, in whose place a command puts its own."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def pytest_configure():
    """Let a SIGTERM end pytest also while a command runs in its process."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _end_at_once)


SHARED_NYC = Path(__file__).parents[2] / "shared/data/nyc/dataset_TSMC2014_NYC.partial.txt.gz"
HAS_TFF = importlib.util.find_spec("tensorflow_federated") is not None
needs_tff = pytest.mark.skipif(
    not HAS_TFF, reason="needs the environment that `make tff` creates (TensorFlow Federated)"
)
HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(
    not HAS_RAY, reason="needs the environment that `make dist` creates (Ray)"
)
needs_no_tff = pytest.mark.skipif(
    HAS_TFF, reason="needs an environment without TensorFlow Federated"
)

# Where these tests run in the background of a shell, a program they start would ignore Ctrl-C.
HEEDS_CTRL_C = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("fedgru", run_name="__main__")
"""


@contextlib.contextmanager
def training_for_long(log_dir, options):
    """A `fedgru train` of three users, as a Popen, whose first round would take hours."""
    always = ["--prior", "none", "--users", "3", "--hidden-dim", "8", "--local-epochs", "1000000"]
    with subprocess.Popen(
        [sys.executable, "-c", HEEDS_CTRL_C, "train", *always, *options.split()]
        + ["--log-dir", str(log_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            yield program
        finally:
            program.kill()


def slow_but(cases, *quick):
    """The cases for `parametrize`, by name: all are slow but some, which stand for their kind."""
    assert set(quick) <= set(cases)
    return [
        pytest.param(case, marks=[] if case in quick else pytest.mark.slow, id=case)
        for case in cases
    ]


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """Let JAX compile each program once in this process, however many engines ask for it."""
    folder = tmp_path_factory.mktemp("compiled")
    with contextlib.nullcontext() if HAS_TFF else jax_setup.compiled_in(folder):
        yield


@pytest.fixture
def nothing_kept(compiled_once):
    """JAX as a program finds it that begins now: nothing that was compiled is kept."""
    from jax.experimental.compilation_cache import compilation_cache

    config = jax_setup.import_jax().config
    folder = config.jax_compilation_cache_dir
    config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    yield
    config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def tiny_data_set():
    """A made-up city of 6 people with 40 check-ins each."""
    city = synthetic.make_city(synthetic.CityConfig(num_users=6, checkins_per_user=40, seed=1))
    return datasets.DataSet("tiny", city.check_ins, {"fingerprint": "tiny"}, city.best_prob)


@pytest.fixture(scope="session")
def make_task(tiny_data_set):
    """Build a small task: 8 units, 2 streams, 5 check-ins in a step, no dropout, plain counts."""
    small = {
        "hidden_dim": 8,
        "batch_size": 2,
        "seq_len": 5,
        "dropout": 0.0,
        "prior": "backoff",
        "threads": 1,
    }

    def make(data_set=tiny_data_set, **overrides):
        return build_task(data_set, config.load(small | overrides)).with_kernel()

    return make


@pytest.fixture(scope="session")
def nyc():
    """The real check-ins of New York as a DataSet; skips where they are not."""
    if not SHARED_NYC.exists():
        pytest.skip("needs ../shared/data/nyc, which is not here")
    from fedgru.data import categories
    from fedgru.data.reading import tsmc2014

    reading = tsmc2014.read_tsmc2014(SHARED_NYC)
    scheme = categories.load_scheme("coarse")
    check_ins = categories.apply_scheme(reading.check_ins, scheme, SHARED_NYC.name)
    return datasets.DataSet("nyc", check_ins, {"fingerprint": "nyc"})


@pytest.fixture(scope="session")
def ray_in_place():
    """Ray with 4 CPUs on this machine, which the Ray engines of all tests share."""
    from fedgru.engines.ray.connection import connect

    connection = connect(None, 4)
    yield connection
    connection.release()


def start(task):
    """The algorithm of a task's settings, and its ServerState before round 1."""
    algorithm = algorithms.from_settings(task.settings)
    return algorithm, algorithm.init(protection.init_weights(task))


def coded(values):
    """Return a Coded column of a list of texts; None is missing."""
    distinct = list(dict.fromkeys(value for value in values if value is not None))
    codes = [-1 if value is None else distinct.index(value) for value in values]
    return Coded(np.array(codes, np.int32), tuple(distinct))


def make_check_ins(users, categories, venues=None, time_s=None, lat_deg=None, offset_min=None):
    """Return small hand-made CheckIns; one check-in an hour unless times are given."""
    n = len(users)
    hours = 3600 * np.arange(n, dtype=np.int64)
    latitudes = np.full(n, 40.7) if lat_deg is None else np.array(lat_deg, float)
    return CheckIns(
        user=coded(users),
        venue=coded(venues or [f"v-{c}" for c in categories]),
        category=coded(categories),
        raw_category=coded([None if c is None else f"raw-{c}" for c in categories]),
        time_s=hours if time_s is None else np.array(time_s, np.int64),
        offset_min=np.zeros(n, np.int32) if offset_min is None else np.array(offset_min, np.int32),
        lat_deg=latitudes,
        lon_deg=np.full(n, -74.0),
    )
