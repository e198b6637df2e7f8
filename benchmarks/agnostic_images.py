"""The table of docs/agnostic.md: each method, over alpha, on digits drawn on made-up textures.

    python benchmarks/agnostic_images.py

What is done is kept in log/images-benchmark/; started again, it does what is missing.
"""

import argparse
from pathlib import Path

from fedgru.config.methods import DEFAULT_METHOD
from fedgru.images import settings as image_settings
from fedgru.images import sweep as image_sweep

METHODS = (
    "reversal",
    "reversal+decorrelate",
    "hsic",
    "bottleneck+decorrelate",
    "ensemble+decorrelate",
    "confusion+decorrelate",
    "leace",
    "decorrelate",
)
COLUMNS = (
    "target_on_target",
    "counter",
    "context_on_context",
    "probe",
    "noiseless",
    "probe_control",
    "val_target",
    "val_probe",
)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--alphas", default="0.5,0.8")
    parser.add_argument("--methods", default=",".join((DEFAULT_METHOD, *METHODS)))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--folder", default="log/images-benchmark")
    options = parser.parse_args()
    settings = image_settings.load()
    folder = image_sweep.SweepFolder(Path(options.folder), settings)
    methods = options.methods.split(",")
    alphas = [float(alpha) for alpha in options.alphas.split(",")]
    rows = image_sweep.run(
        settings,
        folder,
        methods,
        alphas,
        range(options.repeats),
        options.threads,
        lambda done, total: print(f"{done} of {total} done", flush=True),
    )
    print("| method | alpha | seeds | " + " | ".join(COLUMNS) + " |")
    print("| --- " * (3 + len(COLUMNS)) + "|")
    groups = {}
    for row in rows:
        if row["method"] != image_sweep.CEILING:
            groups.setdefault((row["method"], row["alpha"]), []).append(row)
    order = [image_sweep.ORDINARY, *methods]
    for (method, alpha), group in sorted(
        groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
    ):
        cells = [cell([row[name] for row in group]) for name in COLUMNS]
        print(f"| {method} | {alpha:g} | {len(group)} | " + " | ".join(cells) + " |")
    ceilings = [row["ceiling"] for row in rows if row["method"] == image_sweep.CEILING]
    print(f"\nProbe of the raw images: {cell(ceilings)}; commonest context: 50.0")


def cell(values):
    """Mean and range, in percent."""
    percent = [100 * value for value in values]
    return f"{sum(percent) / len(percent):.1f} ({min(percent):.1f} to {max(percent):.1f})"


if __name__ == "__main__":
    main()
