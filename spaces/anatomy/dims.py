"""The algebra of tensor dimensions: which sizes of a network are one and the same number.

A `Dim` is a node of a union-find forest. A plain node (a leaf) is one independent size; a node may instead
be the product of others (a reshape, heads x head_dim) or their sum (a concatenation), in memory order.
A fixed leaf (batch, image, heads, classes) never changes. Knows sizes, nothing of tensors or models.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod

PRODUCT, SUM = "product", "sum"

SizeOf = Callable[["Dim"], int]


class DimError(Exception):
    """Two dimensions that must be equal have structures that cannot be brought together."""


class Dim:
    """One size of a network; `find()` first, since nodes are merged.

    Attributes:
        size: the size it was traced with.
        fixed: whether it keeps that size.
        kind, parts: PRODUCT or SUM of the parts; None and () for a leaf.
        near: what this last and shorter part of a row of equal parts has to be as long as, once they change.
    """

    def __init__(self, size: int, *, fixed: bool = False, kind: str | None = None, parts: Sequence["Dim"] = ()):
        self.size, self.fixed, self.kind, self.parts = size, fixed or size == 1, kind, tuple(parts)
        self.near: Dim | None = None
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

    @property
    def is_fixed(self) -> bool:
        """Whether nothing in it can change."""
        return all(leaf.fixed for leaf in self.leaves())

    def fix(self) -> None:
        for leaf in self.leaves():
            leaf.fixed = True

    def evaluate(self, size_of: SizeOf) -> int:
        """Its size where each leaf has the size `size_of(leaf)`."""
        node = self.find()
        if node.kind is None:
            return node.size if node.fixed else size_of(node)
        sizes = [part.evaluate(size_of) for part in node.parts]
        return prod(sizes) if node.kind == PRODUCT else sum(sizes)


def traced(leaf: Dim) -> int:
    """The size that a leaf has in the backbone as it is."""
    return leaf.size


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
        DimError: sizes differ, or the structures have no common refinement.
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
        other.near = other.near or leaf.near
        leaf._merged_into = other
        return other
    if left.is_fixed and right.is_fixed:
        return left
    if left.kind != right.kind:
        return _unify_kinds(*((left, right) if left.kind == SUM else (right, left)))
    cuts = _common_cuts(left, right)
    for one, two in zip(split(left, cuts, left.kind), split(right, cuts, right.kind), strict=True):
        unify(one, two)
    left._merged_into = right
    return right


def _unify_kinds(total: Dim, product: Dim) -> Dim:
    """A sum with a product: both as a sum of products, as 64 + 64 + 64 and 3 x 64."""
    sizes = [part.find().size for part in total.parts]
    if _cuts_between(product, sizes):
        for one, two in zip(total.parts, split(product, sizes, SUM), strict=True):
            unify(one, two)
    else:
        factors = [part.find() for part in product.parts]
        free = max(index for index, part in enumerate(factors) if not part.is_fixed)
        for one, two in zip(factors, split(total, [part.size for part in factors], free=free), strict=True):
            unify(one, two)
    total._merged_into = product
    return product


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
    if node.is_fixed:
        return [Dim(size, fixed=True) for size in sizes]
    if kind == PRODUCT and 1 in sizes:
        free %= len(sizes)
        real = [index for index, size in enumerate(sizes) if size != 1]
        place = real.index(free) if free in real else -1
        parts = iter(split(node, [sizes[index] for index in real], free=place))
        return [Dim(1) if size == 1 else next(parts) for size in sizes]
    if node.kind is None:
        free %= len(sizes)
        node.parts = tuple(Dim(size, fixed=kind == PRODUCT and index != free) for index, size in enumerate(sizes))
        node.kind = kind
        return list(node.parts)
    if node.kind == kind:
        return _regroup(node, sizes, kind)
    if kind == SUM:
        return _slices(node, sizes)
    return _factors(node, sizes, free % len(sizes))


def _cuts_between(product: Dim, sizes: Sequence[int]) -> bool:
    """Whether cuts at these sizes fall between whole repetitions of what a product repeats."""
    return all(size % _repeated(product)[1] == 0 for size in sizes)


def _repeated(product: Dim) -> tuple[tuple[Dim, ...], int]:
    """What a product repeats a fixed number of times, and its size: head_dim of heads x head_dim."""
    parts = tuple(part.find() for part in product.parts)
    start = next(index for index, part in enumerate(parts) if not part.is_fixed)
    return parts[start:], prod(part.size for part in parts[start:])


def _slices(product: Dim, sizes: Sequence[int]) -> list[Dim]:
    """Parts of a product, each a whole number of repetitions: of 3 x 64 the first 64 and the other 2 x 64."""
    inner, unit = _repeated(product)
    if not _cuts_between(product, sizes):
        raise DimError(f"a product of size {product.size} is cut as a sum of {tuple(sizes)}")
    return [product_of([Dim(size // unit, fixed=True), *inner]) for size in sizes]


def _factors(total: Dim, sizes: Sequence[int], free: int) -> list[Dim]:
    """A sum cut as a product: its parts are cut alike, and what varies in them is one size or, in front, their sum."""
    parts = [part.find() for part in total.parts]
    for cut in range(1, len(sizes)):
        unit = prod(sizes[cut:])
        if any(part.size % unit for part in parts):
            continue
        in_front = free < cut
        pairs = [split(part, [part.size // unit, unit], free=0 if in_front else 1) for part in parts]
        for _, other in pairs[1:]:
            unify(pairs[0][1], other)
        counts = split(sum_of(count for count, _ in pairs), sizes[:cut], free=free if in_front else -1)
        return [*counts, *split(pairs[0][1], sizes[cut:], free=-1 if in_front else free - cut)]
    raise DimError(f"a sum of size {total.size} is cut as a product of {tuple(sizes)}")


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
    return split(product_of(joined), run)
