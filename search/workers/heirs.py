"""Heirs: a training is given the weights that it is to start from, on the worker, before it begins.

Knows checkpoints and assignments; nothing of who is near whom, nor of what is made of the weights.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from search.checkpoints.checkpoints import AWAY_S, Checkpoints, OutOfReach
from search.evaluator import Ancestor, Evaluator, Measurement
from search.study.work import Assignment, Donor, carry_out
from search.training import WEIGHTS, begun, inherited, put_inherited
from spaces import InputError
from spaces.schema import PARENT


def carried_out(
    evaluator: Evaluator, assignment: Assignment, trials: Checkpoints, parents: Checkpoints, *, devices: float
) -> Iterator[Measurement]:
    """Trains an assignment in its checkpoint, as `carry_out`; each measurement says what it has inherited.

    Raises:
        OutOfReach: the store of checkpoints is away.
    """

    def train(directory: Path) -> Iterator[Measurement]:
        ancestor = endowed(directory, assignment.donors, trials, parents)
        for measurement in carry_out(evaluator, assignment, directory, devices=devices):
            yield replace(measurement, inherited_from=ancestor)

    return trials.trained(assignment.number, train)


def endowed(directory: Path, donors: tuple[Donor, ...], trials: Checkpoints, parents: Checkpoints) -> Ancestor | None:
    """Puts the weights of the first donor that has any into the directory of a training that begins.

    Returns:
        Whose weights it starts from, or has started from; None where it is from scratch.

    Raises:
        OutOfReach: the store of checkpoints is away.
    """
    if (before := inherited(directory)) is not None:
        name: Ancestor = before[1]["name"]
        return name
    if begun(directory):
        return None
    for donor in donors:
        if _given(directory, donor, parents if donor.name == PARENT else trials):
            return donor.name
    return None


def _given(directory: Path, donor: Donor, checkpoints: Checkpoints) -> bool:
    """Whether there were weights to give."""
    try:
        with checkpoints.fetched(donor.number, only={WEIGHTS}, patience_s=AWAY_S) as folder:
            whose = {"name": donor.name, "architecture": donor.architecture.to_dict()}
            put_inherited(directory, folder / WEIGHTS, whose)
    except OutOfReach:
        raise
    except (FileNotFoundError, InputError):  # gone, or damaged
        return False
    return True
