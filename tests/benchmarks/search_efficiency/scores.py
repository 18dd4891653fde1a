"""Adds columns to a table of NAS-Bench-201: what can be known of a cell before it is trained, beside its costs.

    python -m tests.benchmarks.search_efficiency.scores [--table FILE] [--data FILE] [--repeats 1] [--only N]
        [--join FILE] OUT.csv.gz

| column | what |
|---|---|
| depth | convolutions on the longest path through the cell |
| synflow | of absolute weights without batch norms, sum of weight times gradient (2006.05467) |
| naswot | log determinant of how alike images are by which units they activate (2006.04647) |
| grad_norm | of the loss of one batch, at initialisation (as in 2101.08134) |

The last three are of the benchmark's network (2001.00326) with `--repeats` cells a stage (five in the
benchmark), 16 channels, untrained, on a batch of 32 images. Zeros become the least value above. `--only` scores so many
cells, drawn by chance, and writes nothing. In both cases the rank correlation of each column with the accuracy after
200 epochs is shown, and what a cell takes. `--join` takes over the columns of another table that are not in this
one, as of another data set.
"""

import argparse
import csv
import gzip
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.benchmarks.machine import SHARED
from tests.benchmarks.replay import OPERATIONS, TABLE, opened

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # in the order in which their ends are known
IMAGES, CHANNELS, CLASSES = 32, 16, 10

Row = dict[str, str]


def depth(code: str) -> int:
    """Convolutions on the longest path from the first node to the last; 0 where none leads there."""
    longest = {0: 0}
    for (start, end), digit in zip(EDGES, code, strict=True):
        operation = OPERATIONS[int(digit)]
        if operation != "none" and start in longest:
            longest[end] = max(longest.get(end, 0), longest[start] + operation.startswith("nor_conv"))
    return longest.get(3, 0)


def structure(code: str) -> str:
    """The same for cells that compute the same: what is not connected is left out, what is passed on is the same."""
    nodes: dict[int, list[str]] = {0: ["x"]}
    for (start, end), digit in zip(EDGES, code, strict=True):
        operation = OPERATIONS[int(digit)]
        if operation != "none" and nodes.get(start):
            before = "+".join(sorted(nodes[start]))
            passed = nodes[start] if operation == "skip_connect" else [f"{operation}({before})"]
            nodes.setdefault(end, []).extend(passed)
    return "+".join(sorted(nodes.get(3, [])))


# Networks


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs)
    )


def operation(name: str, channels: int) -> nn.Module:
    if name.startswith("nor_conv"):
        return convolution(channels, channels, int(name[-1]))
    return nn.AvgPool2d(3, 1, 1, count_include_pad=False) if name == "avg_pool_3x3" else nn.Identity()


class Cell(nn.Module):
    def __init__(self, code: str, channels: int):
        super().__init__()
        there = {edge: OPERATIONS[int(digit)] for edge, digit in zip(EDGES, code, strict=True)}
        self.edges = [edge for edge, name in there.items() if name != "none"]
        self.operations = nn.ModuleList(operation(there[edge], channels) for edge in self.edges)

    def forward(self, x: Tensor) -> Tensor:
        nodes = [x, torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)]
        for (start, end), module in zip(self.edges, self.operations, strict=True):
            nodes[end] = nodes[end] + module(nodes[start])
        return nodes[3]


class Reduction(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.branch = nn.Sequential(
            convolution(channels, 2 * channels, 3, 2), convolution(2 * channels, 2 * channels, 3)
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.branch(x) + self.shortcut(x)
        return out


def network(code: str, repeats: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, CHANNELS, 3, 1, 1, bias=False), nn.BatchNorm2d(CHANNELS)]
    for stage in range(3):
        channels = CHANNELS * 2**stage
        layers += [Reduction(channels // 2)] * bool(stage) + [Cell(code, channels) for _ in range(repeats)]
    end = [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    return nn.Sequential(*layers, *end)


# Scores


def naswot_and_grad_norm(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    alike = torch.zeros(len(images), len(images))

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        active = (inputs[0].detach().flatten(1) > 0).float()
        alike.add_(active @ active.T + (1 - active) @ (1 - active).T)

    hooks = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, nn.ReLU)]
    loss = cross_entropy(model(images), labels)
    for hook in hooks:
        hook.remove()
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    squares = sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None)
    return max(0.0, float(torch.linalg.slogdet(alike.double()).logabsdet)), math.sqrt(squares)


def synflow(model: nn.Module) -> float:
    model = model.double()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    parameters = list(model.parameters())
    with torch.no_grad():
        for parameter in parameters:
            parameter.abs_()
    out = model(torch.ones(1, 3, 32, 32, dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(out, parameters, allow_unused=True)
    return sum(float((p.detach() * g).sum()) for p, g in zip(parameters, gradients, strict=True) if g is not None)


def scored(code: str, repeats: int, images: Tensor, labels: Tensor) -> dict[str, float]:
    torch.manual_seed(0)
    model = network(code, repeats)
    naswot, grad_norm = naswot_and_grad_norm(model, images, labels)
    return {"depth": depth(code), "naswot": naswot, "grad_norm": grad_norm, "synflow": synflow(model)}


# Tables


def read(path: Path) -> list[Row]:
    with opened(path) as file:
        return list(csv.DictReader(file))


def above_zero(rows: Sequence[Row], column: str) -> None:
    least = min(float(row[column]) for row in rows if float(row[column]) > 0)
    for row in rows:
        row[column] = f"{max(float(row[column]), least):.6g}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--data", type=Path, default=SHARED / "data/cifar10_20k.npz")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", type=int)
    parser.add_argument("--join", type=Path, metavar="FILE")
    parser.add_argument("out", type=Path, metavar="OUT.csv.gz")
    given = parser.parse_args(arguments)
    for path in filter(None, (given.table, given.data, given.join)):
        if not path.is_file():
            sys.exit(f"needs {path}, which is not there")
    torch.set_num_threads(1)
    rows = read(given.table)
    if given.only:
        rows = [rows[index] for index in np.random.default_rng(0).choice(len(rows), given.only, replace=False)]
    with np.load(given.data) as data:
        images = torch.from_numpy(data["train_images"][:IMAGES]).permute(0, 3, 1, 2).float() / 127.5 - 1
        labels = torch.from_numpy(data["train_labels"][:IMAGES].astype(np.int64))
    began, known = time.perf_counter(), dict[str, dict[str, float]]()
    for row in rows:
        same = structure(row["code"])
        if same not in known:
            known[same] = scored(row["code"], given.repeats, images, labels)
        row |= {name: repr(value) for name, value in known[same].items()}
    took = (time.perf_counter() - began) / len(known)
    columns = ["depth", "naswot", "grad_norm", "synflow"]
    for column in columns:
        above_zero(rows, column)
    truth = [float(row["c10_val_200ep"]) for row in rows]
    for column in (*columns, "macs_M_calc", "params_M_calc"):
        print(f"{column:14} {spearmanr([float(row[column]) for row in rows], truth).statistic:.2f}")
    print(f"{1000 * took:.0f} ms a cell, {len(rows)} cells, {len(known)} of them different")
    if given.join:
        others = {row["code"]: row for row in read(given.join)}
        rows = [{**others[row["code"]], **row} for row in rows]
    if not given.only:
        with gzip.open(given.out, "wt", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
