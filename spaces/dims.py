"""The algebra of tensor dimensions: which sizes of a network are one and the same number.

A `Dim` is a node of a union-find forest. A plain node (a leaf) is one independent size; a node may instead
be the product of others (a reshape, heads x head_dim) or their sum (a concatenation), in memory order.
A fixed leaf (batch, image, heads, classes) never changes. Knows sizes, nothing of tensors or models.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod

PRODUCT, SUM = "product", "sum"


class DimError(Exception):
    """Two dimensions that must be equal have structures that cannot be brought together."""


class Dim:
    """One size of a network; `find()` first, since nodes are merged.

    Attributes:
        size: the size it was traced with.
        fixed: whether it keeps that size.
        kind, parts: PRODUCT or SUM of the parts; None and () for a leaf.
    """

    def __init__(self, size: int, *, fixed: bool = False, kind: str | None = None, parts: Sequence["Dim"] = ()):
        self.size, self.fixed, self.kind, self.parts = size, fixed or size == 1, kind, tuple(parts)
        self._merged_into: Dim | None = None

    def find(self) -> "Dim":
        node = self
        while node._merged_into is not None:
            node = node._merged_into
        if node is not self:
            self._merged_into = node
        return node

    def leaves(self) -> Iterator["Dim"]:
        """The independent sizes it is made of, each as often as it occurs."""
        node = self.find()
        if node.kind is None:
            yield node
        for part in node.parts:
            yield from part.leaves()

    def fix(self) -> None:
        for leaf in self.leaves():
            leaf.fixed = True

    def evaluate(self, size_of: Callable[["Dim"], int]) -> int:
        """Its size where each leaf has the size `size_of(leaf)`."""
        node = self.find()
        if node.kind is None:
            return node.size if node.fixed else size_of(node)
        sizes = [part.evaluate(size_of) for part in node.parts]
        return prod(sizes) if node.kind == PRODUCT else sum(sizes)


def product_of(dims: Iterable[Dim]) -> Dim:
    return _joined(PRODUCT, [dim for dim in dims if dim.find().size != 1])


def sum_of(dims: Iterable[Dim]) -> Dim:
    return _joined(SUM, list(dims))


def _joined(kind: str, dims: list[Dim]) -> Dim:
    parts: list[Dim] = []
    for dim in dims:
        node = dim.find()
        parts += node.parts if node.kind == kind else (node,)
    if len(parts) == 1:
        return parts[0]
    size = prod(part.find().size for part in parts) if kind == PRODUCT else sum(part.find().size for part in parts)
    return Dim(size, kind=kind, parts=parts) if parts else Dim(1)


def unify(left: Dim, right: Dim) -> Dim:
    """Make both one size; structures are refined until they match.

    Raises:
        DimError: sizes differ, or a product meets a sum.
    """
    left, right = left.find(), right.find()
    if left is right:
        return left
    if left.size != right.size:
        raise DimError(f"{left.size} against {right.size}")
    if left.kind is None or right.kind is None:
        leaf, other = (left, right) if left.kind is None else (right, left)
        if leaf.fixed:
            other.fix()
        leaf._merged_into = other
        return other
    if left.kind != right.kind:
        raise DimError(f"a {left.kind} against a {right.kind} of size {left.size}")
    if all(leaf.fixed for node in (left, right) for leaf in node.leaves()):
        return left
    cuts = _common_cuts(left, right)
    for one, two in zip(split(left, cuts, left.kind), split(right, cuts, right.kind), strict=True):
        unify(one, two)
    left._merged_into = right
    return right


def _common_cuts(left: Dim, right: Dim) -> list[int]:
    """Part sizes fine enough for both: (3, 192) and (9, 64) give (3, 3, 64)."""
    edges: set[int] = set()
    total = 1 if left.kind == PRODUCT else 0
    for node in (left, right):
        edge = total
        for part in node.parts:
            edge = edge * part.find().size if node.kind == PRODUCT else edge + part.find().size
            edges.add(edge)
    cuts, last = [], total
    for edge in sorted(edges):
        if left.kind == PRODUCT and edge % last:
            raise DimError(f"products of {left.size} do not share their factors")
        cuts.append(edge // last if left.kind == PRODUCT else edge - last)
        last = edge
    return cuts


def split(dim: Dim, sizes: Sequence[int], kind: str = PRODUCT, *, free: int = -1) -> list[Dim]:
    """Cut a dimension into consecutive parts of these sizes, refining its structure where needed.

    Of a leaf cut into factors only the one at position `free` can still change: code that reshapes names
    the others (3 for q, k, v; the number of heads) as constants.

    Raises:
        DimError: the sizes cut through a part of the other kind.
    """
    node = dim.find()
    if len(sizes) == 1:
        return [node]
    if all(leaf.fixed for leaf in node.leaves()):
        return [Dim(size, fixed=True) for size in sizes]
    if node.kind is None:
        free %= len(sizes)
        parts = [Dim(size, fixed=kind == PRODUCT and index != free) for index, size in enumerate(sizes)]
        real = [part for part in parts if kind == SUM or part.size != 1]
        if len(real) == 1:
            real[0]._merged_into = node
        else:
            node.kind, node.parts = kind, tuple(real)
        return parts
    if node.kind != kind:
        raise DimError(f"a {node.kind} of size {node.size} is cut as a {kind}")
    return _regroup(node, sizes, kind)


def _regroup(node: Dim, sizes: Sequence[int], kind: str) -> list[Dim]:
    """Group the parts of a structured node into consecutive runs of the given sizes."""
    queue, groups, refined = [part.find() for part in node.parts], [], []
    for size in sizes:
        group, have = [], 1 if kind == PRODUCT else 0
        while have < size:
            part = queue.pop(0)
            want = size // have if kind == PRODUCT else size - have
            if part.size > want:
                if kind == PRODUCT and part.size % want:
                    raise DimError(f"{node.size} cannot be cut into {tuple(sizes)}")
                rest = part.size // want if kind == PRODUCT else part.size - want
                part, tail = split(part, [want, rest], kind)
                queue.insert(0, tail.find())
            have = have * part.find().size if kind == PRODUCT else have + part.find().size
            group.append(part)
        if have != size:
            raise DimError(f"{node.size} cannot be cut into {tuple(sizes)}")
        refined += group
        groups.append(_joined(kind, group) if group else Dim(1))
    node.parts = tuple(part for part in refined if kind == SUM or part.find().size != 1)
    return groups


def reshape(dims: Sequence[Dim], shape: Sequence[int]) -> list[Dim]:
    """The dimensions after a view to `shape`: runs of equal volume are joined and cut again."""
    result: list[Dim] = []
    old = [dim.find() for dim in dims if dim.find().size != 1]
    run: list[int] = []
    for size in shape:
        run.append(size)
        volume, taken = prod(run), 0
        have = 1
        while have < volume and taken < len(old):
            have *= old[taken].find().size
            taken += 1
        if have != volume:
            continue
        joined, old = old[:taken], old[taken:]
        result += _cut(joined, run)
        run = []
    return result + [Dim(1) for _ in run]


def _cut(joined: Sequence[Dim], run: Sequence[int]) -> list[Dim]:
    real = [size for size in run if size != 1]
    parts = iter(split(product_of(joined), real) if real else [])
    return [Dim(1) if size == 1 else next(parts) for size in run]
