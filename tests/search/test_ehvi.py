"""The sampler by expected hypervolume improvement: its parts against closed forms, and its decisions in searches."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern

import spaces
from search.evaluator import Measurement
from search.gate import Gate
from search.pareto import Objectives, hypervolume
from search.record import State, TrialRecord
from search.samplers.ehvi import gain as gains
from search.samplers.ehvi.encoding import Encoding
from search.samplers.ehvi.gain import Boxes, expected_gain, reservation_rates
from search.samplers.ehvi.planner import Planner
from search.samplers.ehvi.surrogate import Columns, Fade, Moments, Surrogate, Warp, kernel, learnt
from search.study import studies
from search.study.candidates import DRAWS, FEWEST, MOST, Candidates
from search.study.work import Assignment, Idle
from spaces import Architecture, SearchSpace
from tests.search.plain import REFERENCE, Table, drive, plain_space

coordinates = st.floats(0.0, 1.0, allow_subnormal=False).map(lambda x: round(x, 3))


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@given(data=st.data())
def test_a_gain_is_the_difference_of_two_hypervolumes(objectives, data):
    front = data.draw(arrays(float, st.tuples(st.integers(0, 6), st.just(objectives)), elements=coordinates))
    point = data.draw(arrays(float, objectives, elements=coordinates))
    reference, known = np.full(objectives, 0.9), np.arange(objectives) > 0
    found = Boxes.beyond(front, reference).gain(point[None, 1:], known, point[None, None, :1])
    before, after = hypervolume(front, reference), hypervolume(np.vstack([front, point]), reference)
    assert found.shape == (1, 1)
    assert found[0, 0] == pytest.approx(after - before, abs=1e-9)


def test_what_costs_more_than_the_reference_gains_nothing_however_accurate():
    boxes = Boxes.beyond(np.array([[0.5, 0.5]]), np.ones(2))
    assert boxes.gain(np.array([[1.5]]), np.array([False, True]), np.array([[[-100.0]]]))[0, 0] == 0.0


def test_the_expected_gain_is_that_of_a_normal_outcome():
    """E[max(0, r - y)] of y ~ N(m, s) is (r - m) cdf(z) + s pdf(z), z = (r - m) / s: one box, a side of 1 in cost."""
    boxes, mean, deviation = Boxes.beyond(np.empty((0, 2)), np.ones(2)), np.array([0.5, 1.2]), np.array([0.3, 0.3])
    beliefs = [Moments(mean, deviation, deviation, np.zeros(2))]

    def gain(outcomes, which):
        return boxes.gain(np.zeros((len(which), 1)), np.array([False, True]), outcomes)

    z = (1 - mean) / deviation
    exact = (1 - mean) * norm.cdf(z) + deviation * norm.pdf(z)
    assert expected_gain(gain, beliefs, np.arange(2)) == pytest.approx(exact, rel=0.1)


def test_a_reservation_rate_makes_stopping_and_going_on_equal():
    """The definition: E[max(0, E' - rate * rest)] = rate * step over the looks at the outlook E'."""
    outlooks = np.linspace(0.1, 2.0, gains.LOOKS)
    beliefs = [Moments(np.zeros(1), np.ones(1), np.ones(1), np.zeros(1))]

    def gain(outcomes, which):
        order = np.argsort(np.argsort(outcomes[0, :, 0].reshape(gains.LOOKS, -1)[:, 0]))
        return np.repeat(outlooks[order], gains.OUTCOMES)[None]

    step, rest = np.array([0.1]), np.array([1.0])
    rate = reservation_rates(gain, beliefs, np.arange(1), step, rest)[0]
    assert np.maximum(outlooks - rate * rest, 0).mean() == pytest.approx(rate * step[0])
    assert rate > outlooks.mean() / (step + rest)[0]  # better than going on whatever the next measurement says
    assert reservation_rates(gain, beliefs, np.arange(1), step, 0 * rest)[0] == pytest.approx(outlooks.mean() / step[0])


@given(arrays(float, st.integers(1, 30), elements=st.floats(-1e3, 1e3, allow_subnormal=False)))
def test_a_warp_keeps_the_order_of_the_better_half_and_can_be_undone(values):
    warp = Warp.of(values)
    warped = warp(values)
    assert np.isfinite(warped).all()
    assert (np.diff(warped[np.argsort(values)]) >= -1e-9).all()
    better = values <= np.median(values)
    assert warp.back(warped[better]) == pytest.approx(values[better], rel=1e-6, abs=1e-6 * (1 + np.abs(values).max()))


def rows_of(count, columns=6, seed=0):
    return np.random.default_rng(seed).normal(size=(count, columns)) * 2


def test_slopes_of_the_kernel_are_those_of_finite_differences():
    whole = kernel(3, 6)
    points = np.column_stack([rows_of(7), np.linspace(0, 1, 7)])
    _, slopes = whole(points, eval_gradient=True)
    for index in range(len(whole.theta)):
        step = np.zeros(len(whole.theta))
        step[index] = 1e-5
        up, down = whole.clone_with_theta(whole.theta + step), whole.clone_with_theta(whole.theta - step)
        assert slopes[:, :, index] == pytest.approx((up(points) - down(points)) / 2e-5, abs=1e-6)


def test_predictions_are_those_of_scikit_learn():
    rows, fidelity = rows_of(20), np.repeat([0.0, 1.0], 10)
    values = rows[:, 0] / 4 + fidelity
    theta = learnt(3, rows, fidelity, values)
    process = GaussianProcessRegressor(kernel(3, 6).clone_with_theta(theta), optimizer=None)
    process.fit(np.column_stack([rows, fidelity]), values)
    wanted = rows_of(5, seed=1)
    mean, deviation = process.predict(np.column_stack([wanted, np.ones(5)]), return_std=True)
    noise = np.exp(theta[-1])
    surrogate = Surrogate(theta, 3, rows, fidelity, values)
    surrogate._honesty = 1.0, 1.0
    found = surrogate.moments(wanted, np.ones(5))
    assert found.mean == pytest.approx(mean)
    assert found.deviation == pytest.approx(np.sqrt(deviation**2 - noise), rel=1e-6)  # of the value, not of a reading
    assert found.deviation == pytest.approx(np.hypot(found.told, found.left))
    surrogate._honesty = 1.0, 1.5
    corrected = surrogate.moments(wanted, np.ones(5))  # the next measurement is one of full training
    assert corrected.deviation == pytest.approx(1.5 * found.deviation)


def test_short_trainings_teach_of_full_ones_and_a_look_tells_most_of_what_is_unknown():
    def truth(rows, fidelity):
        return (1 - 0.4 * fidelity) * np.sin(rows[:, 0]) + 0.5 * rows[:, 4] - 2 * fidelity

    rows = np.vstack([rows_of(80), rows_of(8, seed=1)])
    fidelity = np.repeat([0.0, 1.0], [80, 8])
    values = truth(rows, fidelity)
    surrogate = Surrogate(learnt(3, rows, fidelity, values), 3, rows, fidelity, values)
    wanted = rows_of(50, seed=2)
    found = surrogate.moments(wanted, np.zeros(50))
    assert np.corrcoef(found.mean, truth(wanted, np.ones(50)))[0, 1] > 0.9
    assert np.median(found.told / found.left) > 1
    seen = surrogate.moments(rows[:80], np.ones(80))
    assert np.median(seen.deviation) < np.median(found.deviation)


def test_what_is_under_way_is_taken_for_what_is_expected_of_it_and_is_uncertain_no_more():
    rows, fidelity = rows_of(20), np.repeat([0.0, 1.0], 10)
    surrogate = Surrogate(learnt(3, rows, fidelity, rows[:, 0]), 3, rows, fidelity, rows[:, 0])
    running = rows_of(3, seed=5)
    after = surrogate.believing(running, np.zeros(3)).moments(running, np.zeros(3))
    before = surrogate.moments(running, np.zeros(3))
    assert after.mean == pytest.approx(before.mean, abs=1e-6)
    assert (after.told < 0.8 * before.told).all()
    assert surrogate.believing(np.vstack([running] * 8), np.zeros(24))._honesty == surrogate._honesty


def test_only_its_columns_count_for_a_kernel_of_columns():
    rows = rows_of(4)
    assert Columns(Matern(2.0), 1, 3)(rows) == pytest.approx(Matern(2.0)(rows[:, 1:3]))
    assert (ConstantKernel(2.0) * Columns(DotProduct(1.0), 0, 2)).diag(rows) == pytest.approx(
        2 + 2 * (rows[:, :2] ** 2).sum(axis=1)
    )
    assert Fade(0.5)(np.array([[0.0], [1.0]])) == pytest.approx(np.array([[1.0, 0.5], [0.5, 0.25]]))


OPS = ("none", "conv", "pool")


def cell(*ops):
    return Architecture(choices={f"edge{place}": op for place, op in enumerate(ops)}), {"macs": 1.0 + ops.count("conv")}


CELLS = [cell(*ops) for ops in product(OPS, repeat=4)]


def test_networks_that_differ_in_one_place_are_nearer_than_those_that_differ_in_two():
    sample = [cell(*ops) for ops in product(OPS, repeat=3)]
    encoding = Encoding(sample, {f"edge{place}": "edges" for place in range(3)})
    places = [("conv", "none", "none"), ("conv", "none", "none"), ("none", "conv", "none"), ("pool", "pool", "conv")]
    one, same, moved, other = encoding([cell(*ops) for ops in places])
    assert np.array_equal(one, same)
    assert np.array_equal(one[encoding.places :], moved[encoding.places :])  # as many of each, and equal costs
    assert 0 < np.linalg.norm(one - moved) < np.linalg.norm(one - other)


def test_stages_arguments_and_parameters_of_choices_are_told_apart():
    def network(width, scaling, **kwargs):
        choices = {"width": width, "scaling": scaling}
        return Architecture(backbone="resnet10t", kwargs=kwargs, choices=choices), {"macs": 2.0, "params": 1.0}

    networks = [
        network(0.5, "rezero"),
        network([0.5, 0.5, 0.5, 1.0], "rezero"),
        network([1.0, 0.5, 0.5, 0.5], "rezero"),
        network(0.5, {"kind": "se", "reduction": 4}),
        network(0.5, {"kind": "se", "reduction": 8}),
    ]
    rows = Encoding(networks, {})._described
    described = [rows(architecture) for architecture, _ in networks]
    assert "width@width0=0.5" in described[1][0]
    assert described[1][1]["width=0.5"] == pytest.approx(0.75)
    assert described[3][0].keys() ^ described[4][0].keys() == {
        "scaling@scaling.reduction=4",
        "scaling@scaling.reduction=8",
    }
    assert described[1][1] == pytest.approx(described[2][1])


def test_a_cost_that_is_not_known_of_a_network_counts_as_a_mean_one():
    networks = [(architecture, {**costs, "params": float(n)}) for n, (architecture, costs) in enumerate(CELLS[:9], 1)]
    encoding = Encoding(networks, {})
    without = encoding([(networks[0][0], {"macs": 1.0})])
    assert np.isfinite(without).all()
    assert without[0, -1] == pytest.approx(0.0)


OBJECTIVES = Objectives(directions={"accuracy": "maximize", "macs": "minimize"})


def trained(number, known, accuracies, *, state=State.PAUSED, epoch_s=1.0):
    """At rungs 1 and 9, as far as there are accuracies."""
    history = [
        Measurement(fidelity=rung, values={"accuracy": value}, time=float(number), device_s=epoch_s * rung)
        for rung, value in zip((1, 9), accuracies, strict=False)
    ]
    named = {"architecture": known[0], "costs": known[1], "history": tuple(history)}
    return TrialRecord(number=number, state=state, seed=0, **named)


def planner():
    return Planner(OBJECTIVES, {"accuracy": 0.1, "macs": 6.0}, (1, 9), CELLS, {f"edge{p}": "edges" for p in range(4)})


def quality(known):
    """More convolutions, more accurate."""
    return 0.2 + 0.15 * list(known[0].choices.values()).count("conv") - 0.02 * (known[0].choices["edge0"] == "pool")


def some_trained(count, **options):
    chosen = np.random.default_rng(1).permutation(len(CELLS))[:count]
    return [trained(number, CELLS[index], [quality(CELLS[index])], **options) for number, index in enumerate(chosen)]


def rest_of(records):
    ids = {record.architecture.id for record in records}
    return [known for known in CELLS if known[0].id not in ids]


def test_the_first_are_drawn_the_cheap_ones_more_often_and_nothing_is_planned_of_nothing():
    fresh = [cell("conv", "conv", "conv", "conv"), cell("none", "none", "none", "none")]
    fresh[0][1]["macs"], fresh[1][1]["macs"] = 100.0, 1.0
    plans = [planner().plan([], fresh, (), np.random.default_rng(seed)).fresh for seed in range(60)]
    assert 40 < sum(plans) < 60
    assert planner().plan([], [], (), np.random.default_rng(0)) is None
    waiting = some_trained(planner().startup - 1)
    assert planner().plan(waiting, [], range(3), np.random.default_rng(0)) is None
    assert planner().plan(waiting, [], range(3), np.random.default_rng(0), due=2).waiting == 2


def of(backbone, macs):
    return Architecture(backbone=backbone, kwargs={}, choices={}), {"macs": macs}


def test_the_first_are_of_every_backbone_however_few_networks_it_has():
    fresh = [*(of("resnet18", 1.0 + place / 100) for place in range(98)), of("vit_tiny_patch16_224", 9.0)]
    fresh += [of("convnext_atto", 5.0)]
    drawing, records = Planner(OBJECTIVES, {"accuracy": 0.1, "macs": 6.0}, (1, 9), fresh, {}), []
    for number in range(3):
        plan = drawing.plan(records, fresh, (), np.random.default_rng(number))
        records.append(replace(trained(number, fresh[plan.fresh], []), state=State.RUNNING))
    assert {record.architecture.backbone for record in records} == {known[0].backbone for known in fresh}


@pytest.mark.parametrize(("rungs", "count"), [((1, 3, 9), 4), ((12, 200), 8), ((1, 12), 6), ((50,), 4)])
def test_before_anything_is_believed_half_a_full_training_is_spent_but_4_to_8_measurements(rungs, count):
    assert Planner(OBJECTIVES, {"accuracy": 0.1, "macs": 6.0}, rungs, CELLS, {}).startup == count


def test_what_cannot_come_to_the_end_in_time_gives_way_to_what_can():
    """A new network takes 9 s, one that waits another 8."""
    records = some_trained(12)
    poor, fresh = min(records, key=lambda record: record.history[0].values["accuracy"]), rest_of(records)

    def planned(left_s):
        return planner().plan(records, fresh, [poor.number], np.random.default_rng(0), left_s=left_s)

    assert planned(9.5).fresh is not None
    assert planned(8.5).waiting == poor.number
    assert planned(7.5) == planned(np.inf)  # nothing is in time, so what is begun is for later


def test_what_has_shown_to_be_best_goes_on():
    records = some_trained(40)
    best = max(records, key=lambda record: record.history[0].values["accuracy"])
    plan = planner().plan(records, [], [record.number for record in records], np.random.default_rng(0))
    assert quality((best.architecture, None)) - 0.15 <= quality((records[plan.waiting].architecture, None))


def test_a_new_network_is_proposed_where_much_is_unknown_and_one_waits_that_is_poor():
    records = some_trained(12)
    poor = min(records, key=lambda record: record.history[0].values["accuracy"])
    plan = planner().plan(records, rest_of(records), [poor.number], np.random.default_rng(0))
    assert plan.fresh is not None
    assert plan.waiting is None


def test_many_workers_get_different_networks_all_over_the_costs():
    records = some_trained(20)
    fresh, started = rest_of(records), []
    for number in range(12):
        plan = planner().plan([*records, *started], fresh, (), np.random.default_rng(number))
        known = fresh.pop(plan.fresh)
        started.append(replace(trained(50 + number, known, []), state=State.RUNNING))
    assert len({record.costs["macs"] for record in started}) >= 3


def test_seconds_count():
    """Of two equal unknowns the one that trains ten times faster is first, as far as costs foretell it."""
    records = [
        trained(number, known, [0.5], epoch_s=known[1]["macs"] ** 4)
        for number, known in enumerate(CELLS[:24])
    ]  # fmt: skip
    plan = planner().plan(records, rest_of(records), (), np.random.default_rng(0))
    chosen = rest_of(records)[plan.fresh][1]["macs"]
    assert chosen == min(known[1]["macs"] for known in rest_of(records))


def test_where_nothing_promises_anything_the_rule_decides():
    """No network is believed to come to the reference point."""
    strict = Planner(OBJECTIVES, {"accuracy": 2.0, "macs": 6.0}, (1, 9), CELLS, {})
    records = some_trained(30)
    plan = strict.plan(records, rest_of(records), range(30), np.random.default_rng(0), due=7)
    assert plan.waiting == 7
    assert strict.plan(records, rest_of(records), range(30), np.random.default_rng(0)).fresh is not None


def test_networks_like_those_that_failed_are_seldom_proposed():
    failing = [known for known in CELLS if known[0].choices["edge0"] == "conv"]
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(failing))[:8]
    failed = [trained(100 + number, failing[index], [], state=State.FAILED) for number, index in enumerate(chosen)]
    records = [r for r in some_trained(50) if r.architecture.choices["edge0"] != "conv"]
    fresh, plans = rest_of([*records, *failed]), []
    for _ in range(10):
        plans.append(fresh.pop(planner().plan([*records, *failed], fresh, (), rng).fresh))
    assert all(known[0].choices["edge0"] != "conv" for known in plans)
    without = planner().plan(records, fresh, (), rng)  # they have more convolutions, which promises accuracy
    assert fresh[without.fresh][0].choices["edge0"] == "conv"


def searched(tmp_path, sampler, *, trials, seed=0, **search):
    file = plain_space(trials=trials, sampler=sampler, seed=seed, **search)
    study = studies.begin(tmp_path / f"{sampler}{seed}", file, Table(), reference_point=REFERENCE)
    assert drive(study, Table()) in (Idle.BUDGET, Idle.EXHAUSTED)
    study.close()
    return study


def test_of_a_budget_of_trials_as_many_go_on_as_by_halving_and_no_more(tmp_path):
    study = searched(tmp_path, "ehvi", trials=24)
    counts = study.counts()
    assert counts[State.COMPLETE] + counts[State.STOPPED] == 24
    assert 0 < counts[State.COMPLETE] <= 12
    assert counts[State.INFEASIBLE] == counts[State.DUPLICATE] == 0  # costs are known before anything is proposed
    reasons = {record.reason for record in study.records() if record.state is State.STOPPED}
    assert reasons == {"others promise more than it did at epoch 2"}


@pytest.mark.parametrize("reference", [{"accuracy": 0.5, "macs": 3.1}, {"accuracy": 0.99, "macs": 3.1}])
def test_some_are_trained_to_the_end_whatever_the_reference_point(tmp_path, reference):
    """Also one that no short training comes near, or no training."""
    file = plain_space(trials=20, sampler="ehvi", fidelity={"rungs": [1, 20], "reduction": 2})
    study = studies.begin(tmp_path / "s", file, Table(), reference_point=reference)
    drive(study, Table())
    assert study.counts()[State.COMPLETE] == 10
    study.close()


def test_nothing_has_to_be_known_of_costs(tmp_path):
    class Free(Table):
        def costs(self, architecture):
            return {}

    plain = plain_space(trials=16, sampler="ehvi").to_dict()
    file = spaces.load({**plain, "objectives": {"accuracy": "maximize"}, "constraints": {}})
    study = studies.begin(tmp_path / "s", file, Free(), reference_point={"accuracy": 0.0})
    drive(study, Free())
    assert study.counts()[State.COMPLETE] == 8
    study.close()


def test_it_finds_a_better_front_than_chance_with_as_many_trainings(tmp_path):
    found = {
        sampler: np.mean([searched(tmp_path, sampler, trials=20, seed=seed).front.hypervolume for seed in range(3)])
        for sampler in ("ehvi", "random")
    }
    assert found["ehvi"] > found["random"]


def test_a_rule_of_halving_that_is_asked_for_decides_who_goes_on(tmp_path):
    study = searched(tmp_path, "ehvi", trials=12, scheduler="pareto")
    reasons = [record.reason for record in study.records() if record.state is State.STOPPED]
    assert reasons
    assert all(reason.startswith("not in the best 1/2") for reason in reasons)


def test_workers_at_the_same_time_are_given_different_work(tmp_path):
    study = studies.begin(tmp_path / "s", plain_space(trials=40, sampler="ehvi"), Table(), reference_point=REFERENCE)
    drive(study, Table(), measurements=60)
    given = [study.next() for _ in range(6)]
    assert all(isinstance(work, Assignment) for work in given)
    assert len({work.architecture.id for work in given}) == 6
    study.close()


def test_where_little_is_feasible_it_is_found_near_what_is(tmp_path):
    """Less than one architecture in a hundred is feasible, all in one corner."""
    dimensions = {"stem": [0, 1, 2], **{name: [0, 1, 2, 3] for name in "abcdefgh"}}
    file = plain_space(trials=20, sampler="ehvi", dimensions=dimensions)
    space, counted = SearchSpace(file), []

    class Narrow(Table):
        def costs(self, architecture):
            counted.append(architecture.id)
            return {"macs": float(sum(architecture.choices[name] for name in "abcdef")) + 0.1}

    candidates = Candidates(space, Gate(Narrow(), file.constraints), 0, file.search)
    assert len(candidates.sample()) == FEWEST
    assert len(candidates.some([])) < 40
    assert len(counted) == DRAWS * FEWEST
    corner = dict.fromkeys(dimensions, 0)
    near = [one for one in candidates.some([("corner", corner)]) if set(one.architecture.choices.values()) <= {0, 1}]
    assert {sum(a != 0 for a in one.architecture.choices.values()) for one in near} >= {1}
    assert all(one.feasible for one in candidates.some([("corner", corner)]))


def test_candidates_are_the_same_again(tmp_path):
    file = plain_space(trials=30, sampler="ehvi")
    gate = Gate(Table(), file.constraints)
    first, second = (Candidates(SearchSpace(file), gate, 3, file.search) for _ in range(2))
    second.some([("x", {"stem": 0, "a": 0, "b": 1, "c": 2})])
    ids = [[one.architecture.id for one in each.some([])] for each in (first, second)]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == len(ids[0])


@pytest.mark.parametrize(
    ("budget", "count"),
    [
        ({"trials": 10}, FEWEST),
        ({"trials": 100}, 4000),
        ({"trials": 1000}, MOST),
        ({"trials": None, "hours": 0.1}, FEWEST),
        ({"trials": 1000, "hours": 0.5}, 3500),
        ({"trials": None, "device_hours": 20}, MOST),
    ],
)
def test_a_longer_search_looks_at_more_candidates(budget, count):
    dimensions = {"stem": [0, 1, 2], **{name: [0, 1, 2, 3] for name in "abcdefgh"}}
    file = plain_space(sampler="ehvi", dimensions=dimensions, **budget)
    candidates = Candidates(SearchSpace(file), Gate(Table(), file.constraints), 0, file.search)
    assert len(candidates.sample()) == count
