"""Mean and spread over seeds of evaluated runs: a row per config, and a row per baseline.

    for seed in 0 1 2; do
      fedgru train --config configs/nyc-kernel.toml --seed $seed
    done
    python benchmarks/summarise_runs.py log

Runs whose settings differ in nothing but seed, name and threads are seeds of one config; all must
be of one data set. Prints a Markdown table of test metrics: mean over seeds, smallest to largest in
brackets. The gains are in acc@1, above the running back-off counts and above the run's own prior
alone, each with the outer ends of the seeds' paired 95 % intervals over clients.
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

from fedgru.runs import RunFolder

METRICS = {"acc@1": 4, "acc@5": 4, "mrr": 4, "loss": 3}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("log_dir", type=Path)
    log_dir = parser.parse_args().log_dir
    by_config, fingerprints = defaultdict(dict), set()
    for file in sorted(log_dir.glob("*/test.json")):
        run = RunFolder(file.parent)
        settings = run.settings()
        fingerprints.add(run.facts()["fingerprint"])
        loop = settings.loop.model_copy(update={"seed": 0, "name": "", "threads": None})
        key = settings.model_copy(update={"loop": loop}).model_dump_json()
        by_config[key][settings.loop.seed] = settings, json.loads(file.read_text("utf-8"))
    if len(fingerprints) != 1:
        sys.exit(f"{log_dir} holds evaluated runs on {len(fingerprints)} data sets, expected one.")

    titles = [*METRICS, "above back-off counts", "above its own prior", "rounds"]
    print(f"| config | seeds | {' | '.join(titles)} |")
    print("| --- |" + " --- |" * (len(titles) + 1))
    for runs in by_config.values():
        settings, reports = next(iter(runs.values()))[0], [report for _, report in runs.values()]
        cells = [spread([r[f"test/{m}/micro"] for r in reports], d) for m, d in METRICS.items()]
        cells.append(gain(reports, "running_backoff"))
        prior = settings.inputs.prior
        cells.append("-" if prior == "none" else gain(reports, f"running_{prior}"))
        cells.append(", ".join(str(r["round"]) for r in reports))
        what = f"prior {prior}, {settings.model.cell} {settings.model.hidden_dim}"
        print(f"| {what} | {len(reports)} | {' | '.join(cells)} |")
    baselines = defaultdict(list)
    for report in (report for runs in by_config.values() for _, report in runs.values()):
        for name, row in report["baselines"].items():
            baselines[name].append(row)
    for name, rows in baselines.items():
        cells = [
            spread([row[f"test/{m}/micro"] for row in rows], d)
            if f"test/{m}/micro" in rows[0]
            else "-"
            for m, d in METRICS.items()
        ]
        print(f"| {name.replace('_', ' ')} | | {' | '.join(cells)} | | | |")


def gain(reports, baseline):
    gains = [report["gains"][baseline]["test/acc@1/micro"] for report in reports]
    mean = sum(g["difference"] for g in gains) / len(gains)
    low, high = min(g["interval"][0] for g in gains), max(g["interval"][1] for g in gains)
    return f"{mean:+.4f} ({low:+.4f} to {high:+.4f})"


def spread(values, digits):
    mean = sum(values) / len(values)
    if max(values) == min(values):
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
