"""The algebra of dimensions against small cases worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.dims import PRODUCT, SUM, Dim, DimError, product_of, reshape, split, sum_of, unify


def half(leaf: Dim) -> int:
    return leaf.size // 2


def test_a_reshape_into_heads_scales_only_the_last_factor() -> None:
    qkv = Dim(576)
    three, heads, head = reshape([Dim(2, fixed=True), qkv], [2, 3, 3, 64])[1:]
    assert (three.fixed, heads.fixed, head.fixed) == (True, True, False)
    assert qkv.evaluate(half) == 3 * 3 * 32
    assert reshape([heads, head], [192])[0].evaluate(half) == 96


def test_a_concatenation_is_the_sum_of_its_parts() -> None:
    joined, weight = sum_of([Dim(64), Dim(32)]), Dim(96)
    unify(weight, joined)
    assert weight.evaluate(half) == 48


def test_products_with_different_factors_are_refined_to_common_ones() -> None:
    one, two = product_of([Dim(3, fixed=True), Dim(192)]), product_of([Dim(9, fixed=True), Dim(64)])
    unify(one, two)
    assert [leaf.size for leaf in one.leaves()] == [leaf.size for leaf in two.leaves()]
    assert one.evaluate(half) == two.evaluate(half) == 9 * 32


def test_a_fixed_leaf_fixes_what_it_meets() -> None:
    image, channels = Dim(64, fixed=True), Dim(64)
    unify(image, channels)
    assert channels.evaluate(half) == 64


@pytest.mark.parametrize(
    ("one", "two", "message"),
    [
        (Dim(4), Dim(6), "4 against 6"),
        (product_of([Dim(2), Dim(6)]), sum_of([Dim(4), Dim(8)]), "a product against a sum of size 12"),
    ],
)
def test_what_cannot_be_one_size_says_so(one: Dim, two: Dim, message: str) -> None:
    with pytest.raises(DimError, match=message):
        unify(one, two)


@given(st.lists(st.integers(2, 5), min_size=1, max_size=4), st.sampled_from([PRODUCT, SUM]))
def test_splitting_and_joining_is_the_identity(sizes: list[int], kind: str) -> None:
    whole = product_of(Dim(size) for size in sizes) if kind == PRODUCT else sum_of(Dim(size) for size in sizes)
    size = whole.find().size
    parts = split(whole, sizes, kind)
    assert [part.find().size for part in parts] == sizes
    again = product_of(parts) if kind == PRODUCT else sum_of(parts)
    assert again.evaluate(lambda leaf: leaf.size) == size
