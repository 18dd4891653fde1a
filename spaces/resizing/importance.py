"""How much each channel of a trained network counts, so that a narrower one keeps those that count most.

A score is a sum over all weights whose output the channel is, in every layer that shares it. Knows anatomy and
tensors, nothing of widths.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from spaces.anatomy import Anatomy
from spaces.anatomy.dims import PRODUCT, Dim, SizeOf, traced
from spaces.errors import SpaceError, unknown

Batch = tuple[Tensor, Tensor]
Scores = Mapping[Dim, Tensor]

METHODS = {
    "l1": "the sum of the absolute weights (1608.08710)",
    "l2": "the Euclidean norm of the weights (1608.08710)",
    "bn_gamma": "the absolute gain of the norms on it (1708.06519); where there is none, as l2",
    "taylor": "the sum of |weight x gradient|, the first-order change of the loss (1611.06440, 1906.10771)",
}


def scores(
    model: nn.Module, anatomy: Anatomy, method: str = "l2", batch: Batch | None = None, *, size_of: SizeOf = traced
) -> Scores:
    """The importance of every index of every size that can change.

    Args:
        batch: images [N, C, H, W] and labels [N], for `taylor` alone.
        size_of: the size that each leaf has in `model`. What else of it is not as traced counts for nothing.

    Returns:
        By leaf of the anatomy's dimensions, [size_of(leaf)] on the CPU; all zero where no weight puts it out.

    Raises:
        SpaceError: no such method, or `taylor` without a batch.
    """
    check_method(method, batch)
    if method == "bn_gamma":
        gains = {name: gain.abs() for name, gain in _trained(model, anatomy) if _is_gain(name, gain)}
        return {**scores(model, anatomy, "l2", size_of=size_of), **_summed(anatomy, gains, size_of)}
    gradients = _gradients(model, batch) if method == "taylor" and batch is not None else {}
    measure: dict[str, Callable[[str, Tensor], Tensor]] = {
        "l1": lambda name, weight: weight.abs(),
        "l2": lambda name, weight: weight.square(),
        "taylor": lambda name, weight: (weight * gradients.get(name, torch.zeros_like(weight))).abs(),
    }
    rows = {
        name: measure[method](name, weight).flatten(1).sum(1)
        for name, weight in _trained(model, anatomy)
        if weight.ndim >= 2
    }
    summed = _summed(anatomy, rows, size_of)
    return {leaf: total.sqrt() for leaf, total in summed.items()} if method == "l2" else summed


def check_method(method: str, batch: Batch | None) -> None:
    """Refuse a method that does not exist, or that lacks what it needs.

    Raises:
        SpaceError: says what is allowed.
    """
    if method not in METHODS:
        raise SpaceError(unknown("importance", method, METHODS), key="importance")
    if method == "taylor" and batch is None:
        raise SpaceError("'taylor' needs a batch of images and labels to take gradients from", key="importance")


def most_important(score: Tensor, count: int) -> Tensor:
    """The indices of the `count` highest scores in ascending order; of equal scores the first."""
    return torch.sort(score, descending=True, stable=True).indices[:count].sort().values


def _trained(model: nn.Module, anatomy: Anatomy) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if name in anatomy.dims:
            yield name, parameter.detach().float()


def _is_gain(name: str, parameter: Tensor) -> bool:
    """Of parameters with one axis, `weight` is the gain of a norm; others are biases and scales."""
    return parameter.ndim == 1 and name.rpartition(".")[2] == "weight"


def _gradients(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Of the cross entropy, as the network is used: with dropout off and the statistics it has."""
    images, labels = batch
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    device, training = named[0][1].device, model.training
    model.eval()
    with torch.enable_grad():
        loss = functional.cross_entropy(model(images.to(device)), labels.to(device))
        found = torch.autograd.grad(loss, [parameter for _, parameter in named], allow_unused=True)
    model.train(training)
    return {name: grad.float() for (name, _), grad in zip(named, found, strict=True) if grad is not None}


def _summed(anatomy: Anatomy, rows: Mapping[str, Tensor], size_of: SizeOf) -> dict[Dim, Tensor]:
    """Values along the output axis of each parameter, added up over the leaves it is made of."""
    totals: dict[Dim, list[Tensor]] = defaultdict(list)
    for name, row in rows.items():
        dim = anatomy.dims[name][0].find()
        if not dim.is_fixed and len(row) == dim.evaluate(size_of):
            for leaf, share in _shares(dim, row.cpu(), size_of):
                totals[leaf].append(share)
    return {leaf: torch.stack(shares).sum(0) for leaf, shares in totals.items()}


def _shares(dim: Dim, row: Tensor, size_of: SizeOf) -> Iterator[tuple[Dim, Tensor]]:
    """What of a row falls on each leaf: slices of a sum, sums over the other factors of a product."""
    node = dim.find()
    sizes = [part.evaluate(size_of) for part in node.parts]
    if node.kind is None:
        if not node.fixed:
            yield node, row
    elif node.kind == PRODUCT:
        grid = row.reshape(sizes)
        for axis, part in enumerate(node.parts):
            yield from _shares(part, grid.movedim(axis, 0).flatten(1).sum(1), size_of)
    else:
        for part, piece in zip(node.parts, torch.split(row, sizes), strict=True):
            yield from _shares(part, piece, size_of)
