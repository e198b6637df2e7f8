"""Damaged check-in files, tables, configs and data sets: how many are accepted, how many refused.

    python benchmarks/damaged_files.py --scale 5

Ends in a traceback if a file does, or leaves anything behind. `tests/data/test_fuzz_files.py` reads
the same files at scale 1.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fedgru.data.reading import sources
from tests import mutated_files
from tests.data.test_fuzz_files import NUMBERS


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=1, help="times the files of the tests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", action="store_true", help="a line per kind of damage too")
    options = parser.parse_args()
    sources.MAX_TEXT_BYTES = 1 << 21  # so that the bombs can be small
    print("| read as | files | accepted | refused | ways | slowest, s | all, s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for kind, number in NUMBERS.items():
        number *= options.scale
        started = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            outcomes, slowest_s = mutated_files.run(kind, number, Path(folder), options.seed)
        spent_s = time.process_time() - started
        accepted = sum(found["accepted"] for found in outcomes.values())
        print(
            f"| {kind} | {number:,} | {accepted:,} | {number - accepted:,} | {len(outcomes)} | "
            f"{slowest_s:.2f} | {spent_s:.1f} |"
        )
        if options.ways:
            for way, found in outcomes.items():
                print(f"|   {way} | | {found['accepted']:,} | {found['refused']:,} | | | |")


if __name__ == "__main__":
    main()
