"""Ray on this machine alone, for one run: a separate program, which ends when fedgru ends.

Its arguments are a folder and a number of CPUs. It prints the address that fedgru joins, and waits
until its standard input is closed. The kernel closes it when fedgru ends, even if it is killed.
Then this program ends Ray and removes the folder.
"""

import logging
import os
import shutil
import sys
import time

from fedgru.engines.ray.private import on_loopback


def main(folder: str, num_cpus: str) -> None:
    import ray

    try:
        with on_loopback():
            context = ray.init(
                address="local",
                num_cpus=int(num_cpus),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
        print(context.address_info["gcs_address"], flush=True)  # noqa: T201 - what fedgru reads
        sys.stdin.read()
    finally:
        ray.shutdown()
        _remove(folder)


def _remove(folder: str) -> None:
    """Remove a folder to which a process that is about to end can still write."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
