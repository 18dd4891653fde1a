"""Retrainings on a real cluster that go wrong, each in its own way; and the journal, which outlives all of them."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.checkpoints.checkpoints import CONFIRMED, Local, checkpoints_of
from search.checkpoints.places import Places
from search.confirmation.journal import FILE, Journal
from search.confirmation.record import Retraining
from search.confirmation.roster import Entrant, Job, Outcome, Roster
from search.evaluator import Measurement
from search.workers.cluster import cluster
from search.workers.pools import Resources
from search.workers.retraining import retrained
from spaces import Architecture, InputError


def network(width: float) -> Architecture:
    return Architecture(backbone="resnet10t", choices={"width": width})


def train(architecture: Architecture, seed: int, checkpoint: Path) -> Iterator[Measurement]:
    """Dies once with seed 1, always with seed 2; diverges with 3, has a full disk with 4."""
    checkpoint.mkdir(parents=True, exist_ok=True)
    tries = checkpoint / "tries"
    tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
    if seed == 2 or (seed == 1 and len(tries.read_text()) == 1):
        os._exit(1)
    if seed == 3:
        raise ArithmeticError("the loss is nan")
    if seed == 4:
        raise OSError(errno.ENOSPC, "No space left on device")
    yield Measurement(fidelity=1, values={"test_accuracy": 0.5 if seed < 6 else float("nan")})


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Outcome, int]]:
    """By seed; with how often it was tried."""
    folder, began = tmp_path_factory.mktemp("checkpoints"), []
    jobs = [Job(number=seed + 10, architecture=network(0.5), seed=seed) for seed in range(1, 7)]
    with cluster():
        found = list(
            retrained(
                train,
                jobs,
                Local(directory=folder),
                resources=Resources(cpus=1, gpus=0),
                meter=None,
                began=began.append,
            )
        )
    assert sorted(job.number for job in began) == [job.number for job in jobs]
    return {one.job.seed: (one, len((folder / str(one.job.number) / "tries").read_text())) for one in found}


def test_a_dead_worker_is_replaced(outcomes: dict[int, tuple[Outcome, int]]) -> None:
    outcome, tries = outcomes[1]
    assert (outcome.last and outcome.last.values, tries) == ({"test_accuracy": 0.5}, 2)


@pytest.mark.parametrize("seed", [2, 4])
def test_what_is_no_fault_of_the_training_may_be_tried_again_later(
    outcomes: dict[int, tuple[Outcome, int]], seed: int
) -> None:
    outcome, tries = outcomes[seed]
    assert (outcome.last, outcome.final, tries) == (None, False, 3)
    assert outcome.reason.endswith("; tried 3 times")
    assert seed == 2 or "No space left on device" in outcome.reason


def test_what_diverges_has_failed_for_good(outcomes: dict[int, tuple[Outcome, int]]) -> None:
    outcome, tries = outcomes[3]
    assert (outcome.reason, outcome.final, tries) == ("ArithmeticError: the loss is nan", True, 1)


def test_a_failure_is_a_result_and_a_fault_is_not(outcomes: dict[int, tuple[Outcome, int]], tmp_path: Path) -> None:
    entrants = [Entrant(architecture=network(0.5), trial=3)]
    roster = Roster(Journal(tmp_path), entrants, range(1, 7), "train")
    said = [roster.take(Outcome(**{**vars(outcomes[job.seed][0]), "job": job})) for job in roster.jobs]
    assert said[2:6:3] == ["failed: ArithmeticError: the loss is nan", "failed: test_accuracy is nan"]
    assert [job.seed for job in roster.open] == [2, 4]
    assert [failure.seed for failure in roster.failures()] == [3, 6]
    assert len(roster.faults) == 2
    later = Roster(Journal(tmp_path), entrants, range(1, 7), "train")
    assert [job.seed for job in later.open] == [2, 3, 4, 6], "whoever asks again has it tried again"
    assert [one.seed for one in later.retrainings(entrants[0])] == [1, 5]
    assert later.failures() == ()


def test_who_comes_later_is_trained_and_nobody_else(tmp_path: Path) -> None:
    first = Entrant(architecture=network(0.5), trial=3)
    roster = Roster(Journal(tmp_path), [first], (1, 2), "train")
    for job in roster.jobs:
        roster.take(Outcome(job=job, last=Measurement(fidelity=1, values={"test_accuracy": 0.5})))
    second = Entrant(architecture=network(0.25), trial=9)
    grown = Roster(Journal(tmp_path), [second, first], (1, 2), "train")
    assert [(job.architecture, job.number) for job in grown.open] == [(network(0.25), 2), (network(0.25), 3)]
    assert len(Roster(Journal(tmp_path), [first], (1, 2), "train+val").open) == 2


def test_nothing_at_all_is_said(tmp_path: Path) -> None:
    roster = Roster(Journal(tmp_path), [Entrant(architecture=network(0.5), trial=3)], (1,), "train")
    roster.take(Outcome(job=roster.jobs[0], reason="the loss is nan"))
    with pytest.raises(InputError, match="no training of the confirmation came to its end; the last: the loss is nan"):
        roster.check()


@pytest.mark.parametrize("line", ["{}", "[]", "3", "nonsense", '{"ended": {"seed": 1}}', '{"begun": 1}'])
def test_a_damaged_journal_is_refused_in_plain_words(tmp_path: Path, line: str) -> None:
    Journal(tmp_path).number(network(0.5), 1, "train")
    with (tmp_path / FILE).open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(InputError, match=r"confirmation\.jsonl, line 2 is damaged"):
        Journal(tmp_path)


def test_half_a_line_is_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    number = journal.number(network(0.5), 1, "train")
    training = Retraining(seed=1, number=number, network=network(0.5), values={"test_accuracy": 0.5})
    journal.ended(training)
    with (tmp_path / FILE).open("a") as file:
        file.write('{"failed": 0, "rea')
    assert Journal(tmp_path).outcome(number) == training
    assert (tmp_path / FILE).read_text().count("\n") == 2
    assert (tmp_path / FILE).read_text().endswith("\n")


def test_checkpoints_lie_beside_those_of_the_trials(tmp_path: Path) -> None:
    directory = tmp_path / "name"
    directory.mkdir()
    assert checkpoints_of(directory, CONFIRMED).place(3) == str(directory / "confirmed" / "3")
    Places(checkpoints="s3://bucket/prefix").write(directory)
    assert checkpoints_of(directory, CONFIRMED).place(3) == "s3://bucket/prefix/name/confirmed/3"
    Places(checkpoints=str(tmp_path / "shared")).write(directory)
    assert checkpoints_of(directory, CONFIRMED).place(3) == str(tmp_path / "shared" / "name" / "confirmed" / "3")
