"""The statistics of a confirmation against tables by hand, published examples, scipy, and the laws they must keep."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from search.confirmation import store
from search.confirmation.record import Confirmation, Contender, Failure, Retraining
from search.confirmation.statistics import differences, holm, interval
from search.confirmation.verdicts import Court, Terms
from spaces import Architecture, InputError

PROBABILITIES = st.lists(st.floats(0, 1), min_size=1, max_size=12)
ACCURACIES = st.lists(st.floats(0, 1), min_size=2, max_size=6)
IMAGES = 10_000


class TestInterval:
    def test_is_students_by_hand(self) -> None:
        """Mean 3, deviation sqrt(2.5), t(0.975, 4) = 2.776 445 of every table."""
        found = interval([1, 2, 3, 4, 5])
        assert found.mean == 3
        assert found.half_width == pytest.approx(2.776445 * np.sqrt(2.5 / 5), rel=1e-6)

    def test_of_one_seed_knows_nothing_of_its_width(self) -> None:
        found = interval([0.9])
        assert (found.mean, found.low, found.high) == (0.9, 0.9, 0.9)

    @settings(deadline=None)
    @given(ACCURACIES)
    def test_is_scipys(self, values: list[float]) -> None:
        error = stats.sem(values)
        if error > 1e-9:
            low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=error)
            assert (interval(values).low, interval(values).high) == pytest.approx((low, high))


class TestHolm:
    def test_the_published_example(self) -> None:
        """0.01, 0.04, 0.03, 0.005: only the smallest two are below 0.05 (the example of en.wikipedia.org on Holm)."""
        assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])

    def test_the_example_of_r(self) -> None:
        """p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")."""
        assert holm([0.01, 0.02, 0.03, 0.04, 0.05]).tolist() == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])

    @settings(deadline=None)
    @given(PROBABILITIES)
    def test_keeps_the_order_and_is_never_below_what_it_was_nor_above_bonferroni(self, raw: list[float]) -> None:
        found = holm(raw)
        assert (found >= np.array(raw)).all()
        assert (found <= np.minimum(1, np.array(raw) * len(raw)) + 1e-12).all()
        assert (np.diff(found[np.argsort(raw, kind="stable")]) >= 0).all()

    def test_of_nothing_is_nothing(self) -> None:
        assert holm([]).tolist() == []


class TestDifferences:
    def test_sleep_of_student_1908(self) -> None:
        """Ten patients under two drugs, extra hours: t = -4.0621, p = 0.002833 (Student 1908, R's `sleep`)."""
        first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
        second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
        found = differences([dict(enumerate(first)), dict(enumerate(second))], margin=1.0, images=IMAGES)[0, 1]
        assert found.p_equal == pytest.approx(0.002833, abs=5e-7)
        assert (found.interval.low, found.interval.high) == pytest.approx((-2.4598858, -0.7001142), abs=1e-6)
        assert found.is_real

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=6))
    def test_are_scipys_paired_tests(self, pairs: list[tuple[float, float]]) -> None:
        a, b = np.array(pairs).T
        if (a - b).std(ddof=1) < 1e-3:
            return
        found = differences([dict(enumerate(a)), dict(enumerate(b))], margin=0.1, images=IMAGES)[0, 1]
        assert found.p_equal == pytest.approx(stats.ttest_rel(a, b).pvalue)
        above = stats.ttest_rel(a + 0.1, b, alternative="greater").pvalue
        below = stats.ttest_rel(a - 0.1, b, alternative="less").pvalue
        assert found.p_apart == pytest.approx(max(above, below))

    def test_all_pairs_are_one_family(self) -> None:
        rows = [[0.90, 0.91, 0.92], [0.95, 0.96, 0.965], [0.90, 0.93, 0.91]]
        results = [dict(enumerate(row)) for row in rows]
        alone = {
            (i, j): differences([results[i], results[j]], margin=0.01, images=IMAGES)[0, 1].p_equal
            for i, j in [(0, 1), (0, 2), (1, 2)]
        }
        together = differences(results, margin=0.01, images=IMAGES)
        assert [together[pair].p_equal for pair in alone] == pytest.approx(holm(list(alone.values())).tolist())

    def test_pairs_only_seeds_that_both_have(self) -> None:
        found = differences([{1: 0.5, 2: 0.6}, {2: 0.7, 3: 0.1}, {1: 0.1, 2: 0.3}], margin=0.01, images=IMAGES)
        assert found.keys() == {(0, 2)}
        assert found[0, 2].interval.mean == pytest.approx(0.35)

    def test_seeds_that_agree_to_the_image_are_no_proof(self) -> None:
        """One image of 100 more, twice: without noise the t of it would be infinite."""
        found = differences([{1: 0.91, 2: 0.92}, {1: 0.90, 2: 0.91}], margin=0.01, images=100)[0, 1]
        assert not found.is_real
        assert found.p_equal == pytest.approx(2 * stats.t.sf(np.sqrt(12), 1))

    def test_equals_are_within_the_margin(self) -> None:
        rows = dict(enumerate([0.9001, 0.9102, 0.8903, 0.9004, 0.8905]))
        other = {seed: value + (-1) ** seed * 1e-4 for seed, value in rows.items()}
        found = differences([rows, other], margin=0.01, images=IMAGES)[0, 1]
        assert found.is_within
        assert not found.is_real


def contender(width: float, macs: float, accuracies: list[float], *, trial: int | None = 0, **more: float) -> Contender:
    architecture = Architecture(backbone="resnet10t", choices={"width": width} if width < 1 else {})
    done = tuple(
        Retraining(seed=seed, number=seed, network=architecture, values={"test_accuracy": value, **more})
        for seed, value in enumerate(accuracies, start=1)
    )
    summary = {name: interval([one.values[name] for one in done]) for name in done[0].values}
    return Contender(
        architecture=architecture, trial=trial, costs={"macs": macs}, retrainings=done, summary=summary, verdict=""
    )


TERMS = Terms(costs={"macs": "minimize"}, judged={}, margin=0.01, images=IMAGES)
LOW, HIGH = [0.90, 0.901, 0.902, 0.903, 0.9035], [0.95, 0.9512, 0.952, 0.9528, 0.954]


def verdicts(*contenders: Contender, terms: Terms = TERMS, **unfit: str) -> list[str]:
    return [one.verdict for one in Court(contenders, terms, unfit).verdicts()]


class TestVerdicts:
    def test_what_costs_more_and_knows_less_is_dominated(self) -> None:
        assert verdicts(contender(0.5, 9, LOW), contender(0.25, 5, HIGH, trial=1)) == [
            "dominated by resnet10t w=0.25: more accurate by 0.0501 at no more cost",
            "holds its place: nothing is cheaper",
        ]

    def test_what_costs_more_and_knows_more_holds_its_place(self) -> None:
        found = verdicts(contender(0.5, 9, HIGH), contender(0.25, 5, LOW, trial=1))
        assert found == [
            "holds its place: more accurate than all that is cheaper",
            "holds its place: nothing is cheaper",
        ]

    def test_what_is_as_good_for_sure_is_within_the_margin(self) -> None:
        near = [value + (-1) ** place * 1e-3 for place, value in enumerate(HIGH)]
        found = verdicts(contender(0.5, 9, HIGH), contender(0.25, 5, near, trial=1))
        assert found[0] == "within 0.01 of the accuracy of resnet10t w=0.25, which is cheaper"

    def test_what_scatters_is_not_told_apart(self) -> None:
        wild = [0.85, 0.99, 0.93, 0.97, 0.90]
        found = verdicts(contender(0.5, 9, HIGH), contender(0.25, 5, wild, trial=1))
        assert found[0] == "not told apart in accuracy from resnet10t w=0.25, which is cheaper"

    def test_a_backbone_is_beaten_and_is_told_what_it_violates(self) -> None:
        heavy = contender(1.0, 90, LOW, trial=None)
        reason = "macs 90 is above max 50"
        assert verdicts(heavy, contender(0.25, 5, HIGH), **{heavy.architecture.id: reason})[0] == (
            "violates the constraints (macs 90 is above max 50); "
            "beaten by resnet10t w=0.25: more accurate by 0.0501 at no more cost"
        )

    def test_what_violates_the_constraints_beats_nobody(self) -> None:
        cheap = contender(1.0, 1, HIGH, trial=None)
        found = verdicts(cheap, contender(0.25, 5, LOW), **{cheap.architecture.id: "too small"})
        assert found[1] == "holds its place: nothing is cheaper"

    def test_another_objective_keeps_its_place(self) -> None:
        """More accurate at no more cost, but worse calibrated on test images."""
        terms = Terms(costs=TERMS.costs, judged={"test_calibration_error": "minimize"}, margin=0.01, images=IMAGES)
        calm = contender(0.5, 9, LOW, test_calibration_error=0.01)
        wild = contender(0.25, 5, HIGH, trial=1, test_calibration_error=0.20)
        assert verdicts(calm, wild, terms=terms)[0] == "holds its place by another objective than accuracy"
        assert verdicts(calm, wild)[0].startswith("dominated by")

    def test_one_seed_tests_nothing(self) -> None:
        assert verdicts(contender(0.5, 9, [0.5]), contender(0.25, 5, [0.9])) == 2 * [
            "one seed: no difference is tested"
        ]

    def test_the_gain_is_over_the_best_backbone_at_no_more_cost(self) -> None:
        """Five differences of deviation sqrt(7e-8) around 0.0501: 2.776 times it over sqrt(5) is 0.00033."""
        plain, dear = contender(1.0, 10, LOW, trial=None), contender(0.5, 20, [0.99] * 5)
        found = Court([dear, contender(0.25, 5, HIGH, trial=1), plain], TERMS, {}).gain()
        assert found == (
            "At no more cost than resnet10t as timm has it, the most accurate unmodified backbone (0.9019 ±0.0018), "
            "the search has resnet10t w=0.25 (0.9520 ±0.0019): +0.0501 accuracy (95% of this pair: +0.0498 to "
            "+0.0504), with 50% of its macs."
        )

    def test_no_gain_is_said(self) -> None:
        plain = contender(1.0, 1, LOW, trial=None)
        assert Court([contender(0.5, 9, HIGH), plain], TERMS, {}).gain().startswith("The front has no changed network")
        much = contender(0.25, 0.5, HIGH, trial=1)
        unfit = {much.architecture.id: "too slow"}
        assert Court([much, plain], TERMS, unfit).gain().startswith("The front has no changed network")
        unfit = {plain.architecture.id: "too small"}
        assert Court([contender(0.5, 9, HIGH), plain], TERMS, unfit).gain().startswith("No unmodified backbone")


class TestStore:
    found = Confirmation(
        trained_on="train",
        seeds=(1, 2),
        images=360,
        margin=0.01,
        contenders=(contender(0.5, 9, LOW), contender(1.0, 90, HIGH, trial=None)),
        gain="much",
        failures=(Failure(architecture=Architecture(backbone="resnet10t"), seed=2, reason="loss nan"),),
    )

    def test_comes_back_as_it_was(self, tmp_path: Path) -> None:
        store.write(tmp_path, self.found)
        assert store.read(tmp_path) == self.found
        assert [path.name for path in tmp_path.iterdir()] == [store.FILE]

    def test_is_none_where_there_is_none(self, tmp_path: Path) -> None:
        assert store.read(tmp_path) is None
        assert store.read(tmp_path / "no" / "where") is None

    @pytest.mark.parametrize("text", ["", "[]", '{"seeds": 3}', "[" * 100_000, '{"trained_on": "train", "seeds": [1]'])
    def test_a_damaged_one_is_refused_in_plain_words(self, tmp_path: Path, text: str) -> None:
        (tmp_path / store.FILE).write_text(text)
        with pytest.raises(InputError, match=r"confirmation\.json is damaged .*; remove it, and `archsearch confirm"):
            store.read(tmp_path)

    def test_the_median_is_by_validation_and_of_two_the_lower(self) -> None:
        one = contender(0.5, 9, [0.1, 0.2, 0.3, 0.4])
        assert one.median.seed == 1  # nothing is known of validation
        known = tuple(
            Retraining(seed=r.seed, number=r.number, network=r.network, values={**r.values, "val_accuracy": value})
            for r, value in zip(one.retrainings, [0.9, 0.5, 0.8, 0.7], strict=True)
        )
        four = Contender(architecture=one.architecture, trial=0, costs={}, retrainings=known, summary={}, verdict="")
        assert four.median.seed == 4
