"""Who is nearest to whom, and whose weights are kept for others to start from."""

from dataclasses import replace
from typing import Any

import numpy as np

from search.evaluator import Measurement
from search.record import State, TrialRecord
from search.study.lineage import NEWEST, Lineage, decisions_that_differ
from spaces import Architecture

RESNET = Architecture(backbone="resnet10t")
VIT = {"name": "vit_tiny_patch16_224", "kwargs": {"img_size": 16, "patch_size": 4, "depth": 1}}


def record_of(number: int, state: State = State.COMPLETE, params: float = 100.0, **choices: Any) -> TrialRecord:
    history = (Measurement(fidelity=2, values={"accuracy": 0.5}),) if state is not State.RUNNING else ()
    architecture = Architecture(backbone="resnet10t", choices=choices)
    ended = float(number) if state.counts else None
    costs = {"params": params}
    return TrialRecord(
        number=number, architecture=architecture, state=state, seed=0, costs=costs, history=history, ended=ended
    )


class TestNearest:
    def put(self, *records: TrialRecord, front: tuple[int, ...] = ()) -> Lineage:
        lineage = Lineage("nearest")
        for record in records:
            lineage.put(record, tuple(member for member in records if member.number in front))
        return lineage

    def test_has_the_fewest_decisions_that_differ_then_the_nearest_size_then_the_lower_number(self) -> None:
        lineage = self.put(
            record_of(0, width=0.25, scaling="rezero", params=60.0),
            record_of(1, width=0.25, params=200.0),
            record_of(2, width=0.75, params=80.0),
            record_of(3, width=0.375, params=80.0),
        )
        wanted = record_of(9, State.RUNNING, width=0.5)
        assert lineage.ancestor(wanted) == 2
        assert [donor.number for donor in lineage.donors(replace(wanted, inherited_from=2))] == [2, 3, 1]
        assert [donor.number for donor in lineage.donors(replace(wanted, inherited_from=0))] == [0, 2, 3]

    def test_is_of_the_same_backbone_and_of_the_same_arguments_before_all(self) -> None:
        deep, flat = (Architecture(backbone=VIT["name"], kwargs={**VIT["kwargs"], "depth": depth}) for depth in (2, 1))
        other = Architecture(backbone=VIT["name"], kwargs=VIT["kwargs"], choices={"width": 0.5, "scaling": "rezero"})
        lineage = self.put(
            replace(record_of(0), architecture=deep), replace(record_of(1), architecture=other), record_of(2)
        )
        assert lineage.ancestor(replace(record_of(9, State.RUNNING), architecture=flat)) == 1
        assert self.put(record_of(0)).ancestor(replace(record_of(9, State.RUNNING), architecture=flat)) is None

    def test_counts_each_stage_that_is_decided_for_itself(self) -> None:
        one, two, whole = (
            Architecture(backbone="resnet10t", choices={"width": width}).canonical
            for width in ([0.5, 1.0, 1.0, 1.0], [0.5, 0.5, 0.5, 1.0], 0.5)
        )
        assert decisions_that_differ(one, two) == decisions_that_differ(two, one) == 2
        uneven = Architecture(backbone="resnet10t", choices={"width": 0.375})
        assert isinstance(uneven.canonical.choices["width"], list), "it is rounded"
        assert decisions_that_differ(whole, uneven) == 1
        assert decisions_that_differ(one, whole) == 3
        assert decisions_that_differ(one, RESNET.canonical) == 1

    def test_is_never_one_that_trains_or_failed_or_came_to_no_rung(self) -> None:
        known = record_of(0, State.PAUSED, width=0.5)
        lineage = self.put(known, record_of(1, State.FAILED, width=0.25), record_of(2, State.RUNNING, width=0.25))
        wanted = record_of(9, State.RUNNING, width=0.25)
        assert lineage.ancestor(wanted) == 0
        lineage.put(replace(known, state=State.RUNNING), ())
        assert lineage.ancestor(wanted) is None

    def test_only_the_newest_and_those_that_are_about_to_be_read_are_spared(self) -> None:
        records = [record_of(number, width=0.25) for number in range(NEWEST + 3)]
        lineage = self.put(*records)
        newest = set(range(3, NEWEST + 3))
        assert lineage.spared == newest
        heir = replace(record_of(50, State.RUNNING, width=0.25), inherited_from=1)
        lineage.put(heir, ())
        assert lineage.spared == newest | {1}
        lineage.put(replace(heir, history=(Measurement(fidelity=1, values={"accuracy": 0.1}),)), ())
        assert lineage.spared == newest
        shuffled = self.put(*(records[number] for number in np.random.default_rng(0).permutation(len(records))))
        assert shuffled.spared == newest, "a study that is read again comes to the same"
        assert Lineage("none").spared == set()
