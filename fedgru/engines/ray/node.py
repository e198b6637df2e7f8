"""Ray on this machine alone, for one run: a program of its own, which ends when fedgru does.

It is given a folder and a number of CPUs, prints the address that fedgru joins, and waits until its
standard input is closed. The kernel closes that when fedgru is gone, however it went: then this
program ends Ray in good order and removes the folder, which fedgru itself, killed, could not do.
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
    """Remove a folder in which something that is about to end may still write."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
