"""The limit: how fast this machine multiplies float32 matrices, by NumPy's BLAS and by XLA.

OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE, where set, can choose what is slow on this processor: they
are taken out before NumPy loads.
"""

import os

os.environ.pop("OPENBLAS_CORETYPE", None)
os.environ.pop("OPENBLAS_L2_SIZE", None)

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

SIZE = 2048


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    import jax
    import threadpoolctl

    a = np.random.default_rng(0).random((SIZE, SIZE), np.float32)
    found = {"blas": rate(lambda: a @ a, args.repeats)}
    a = jax.numpy.asarray(a)
    product = jax.jit(lambda a: a @ a)
    found["xla"] = rate(lambda: product(a).block_until_ready(), args.repeats)
    pools = threadpoolctl.threadpool_info()
    found["kernel"] = next(x["architecture"] for x in pools if x["user_api"] == "blas")
    args.out.write_text(json.dumps(found))


def rate(product, repeats):
    """Return the median GFLOP/s of products of two [SIZE, SIZE] matrices."""
    product()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - started)
    return 2 * SIZE**3 / statistics.median(seconds) / 1e9


if __name__ == "__main__":
    main()
