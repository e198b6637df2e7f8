"""Mean and spread over seeds of evaluated runs: one row per config, and the baselines once.

    for seed in 0 1 2; do
      fedgru train --config configs/nyc-kernel.toml --seed $seed --name nyc-kernel-$seed
    done
    python benchmarks/summarise_runs.py log

Runs whose names end in -0, -1, -2 ... are seeds of one config. Prints a Markdown table of
test metrics: mean over seeds, smallest to largest in brackets; `gain` is acc@1 above the running
back-off counts, with the widest of the seeds' paired 95 % intervals over clients.
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path

METRICS = {"acc@1": 4, "acc@5": 4, "mrr": 4, "loss": 3}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("log_dir", type=Path)
    by_config = defaultdict(list)
    for file in sorted(parser.parse_args().log_dir.glob("*/test.json")):
        report = json.loads(file.read_text("utf-8"))
        name = re.sub(r"^\d{4}-\d\d-\d\d-\d{6}-|-\d+(-\d+)?$", "", file.parent.name)
        by_config[name].append(report)

    print(f"| | seeds | {' | '.join(METRICS)} | gain | round |")
    print("| --- |" + " --- |" * (len(METRICS) + 3))
    for name, reports in by_config.items():
        cells = [spread([r[f"test/{m}/micro"] for r in reports], d) for m, d in METRICS.items()]
        gains = [r["gains"]["running_backoff"]["test/acc@1/micro"] for r in reports]
        low = min(gain["interval"][0] for gain in gains)
        high = max(gain["interval"][1] for gain in gains)
        mean = sum(gain["difference"] for gain in gains) / len(gains)
        rounds = ", ".join(str(r["round"]) for r in reports)
        gain = f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"
        print(f"| {name} | {len(reports)} | {' | '.join(cells)} | {gain} | {rounds} |")
    baselines = defaultdict(list)
    for report in (report for reports in by_config.values() for report in reports):
        for name, row in report["baselines"].items():
            baselines[name].append(row)
    for name, rows in baselines.items():
        cells = [
            spread([row[f"test/{m}/micro"] for row in rows], d)
            if f"test/{m}/micro" in rows[0]
            else "-"
            for m, d in METRICS.items()
        ]
        print(f"| {name.replace('_', ' ')} | | {' | '.join(cells)} | | |")


def spread(values, digits):
    mean = sum(values) / len(values)
    if max(values) == min(values):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
