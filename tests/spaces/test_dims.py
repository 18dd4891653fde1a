"""The algebra of dimensions against small cases worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.anatomy.dims import PRODUCT, SUM, Dim, DimError, product_of, reshape, split, sum_of, unify


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
        (product_of([Dim(2), Dim(6)]), sum_of([Dim(4), Dim(8)]), "a sum of size 12 is cut as a product"),
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


def test_a_sum_cut_as_a_product_has_equal_parts() -> None:
    q, v = Dim(192), Dim(192)
    bias, weight = sum_of([q, Dim(192), v]), reshape([Dim(576)], [3, 3, 64])
    for one, two in zip(reshape([bias], [3, 3, 64]), weight, strict=True):
        unify(one, two)
    assert q.find().evaluate(half) == v.find().evaluate(half) == 96
    assert bias.evaluate(half) == 288


def test_a_product_cut_as_a_sum_gives_whole_repetitions() -> None:
    heads = reshape([Dim(64)], [8, 8])
    parts = split(product_of(heads), [16, 24, 24], SUM)
    assert [part.evaluate(half) for part in parts] == [8, 12, 12]
    with pytest.raises(DimError, match="a product of size 64 is cut as a sum"):
        split(product_of(heads), [20, 44], SUM)


def test_groups_over_a_concatenation_are_counted_in_each_part() -> None:
    joined = sum_of([Dim(16), Dim(8)])
    groups, each = split(joined, [6, 4], free=0)
    assert (each.is_fixed, groups.evaluate(half), joined.evaluate(half)) == (True, 3, 12)
    assert split(joined, [24, 1], free=0)[0].find() is joined.find()
