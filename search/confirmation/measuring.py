"""What contenders cost, and what they have reached: measured once all are trained, when nothing else runs."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from search.confirmation.record import TESTED, Contender
from search.confirmation.roster import Roster
from search.confirmation.statistics import interval
from search.evaluator import Metered
from search.gate import Gate, said
from search.metered import Metering, metered
from search.task import Task
from search.trial import TimmEvaluator
from search.workers.pools import Resources
from spaces import InputError, SpaceError
from spaces.schema import CostEntry

LATENCY = "latency_ms"
COUNTED = (TESTED,)  # in whole images of the test split


@contextmanager
def metering_for(
    task: Task, metering: Metering | None, runs: Path, console: Console
) -> Iterator[tuple[Task, Metering | None]]:
    """Who measures what takes a clock, and the task with that: latency, where the space itself asks for nothing.

    Nothing is trained meanwhile. None where the machine has no room for it, and the space does not ask for it.
    """
    assert task.costing is not None
    assert task.dataset is not None
    if metering is not None:
        yield task, metering
        return
    asked_for, say = bool(task.costing.timed), partial(console.print, style="dim", markup=False, highlight=False)
    richer = task
    if not asked_for:
        costs = {**task.file.costs, LATENCY: CostEntry(cost=LATENCY)}
        file = task.file.model_copy(update={"costs": costs})
        richer = replace(task, file=file, evaluator=TimmEvaluator(file, task.dataset))
    with ExitStack() as stack:
        try:
            found = stack.enter_context(metered(richer, Resources(cpus=1, gpus=0), runs, say))
        except InputError as error:
            if asked_for:
                raise
            say(f"note: latency is not measured: {error}")
            found = None
        yield (richer if found else task), found


def measured(roster: Roster, task: Task, metering: Metering | None) -> tuple[list[Contender], dict[str, str]]:
    """The entrants with their costs and what they have reached; and why some violate the constraints, by id."""
    evaluator = Metered(task.evaluator, metering.foresight) if metering else task.evaluator
    assert task.dataset is not None
    least = 1 / (math.sqrt(12) * len(task.dataset.test))  # of a share that is rounded to whole images
    gate, contenders, unfit = Gate(evaluator, task.file.constraints), [], {}
    for entrant in roster.entrants:
        if not (done := roster.retrainings(entrant)):
            continue
        contender = Contender(
            architecture=entrant.architecture,
            trial=entrant.trial,
            costs={},
            retrainings=done,
            summary={
                name: interval([one.values[name] for one in done], least=least if name in COUNTED else 0.0)
                for name in done[0].values
                if all(name in one.values for one in done)
            },
            verdict="",
        )
        network = contender.median.network
        checked = gate.count(network)
        if metering and checked.costs:
            try:
                checked = gate.held({**checked.costs, **gate.measure(network)})
            except SpaceError as error:
                checked = replace(checked, reason=checked.reason or f"cannot be measured: {said(error)}")
        contenders.append(replace(contender, costs=checked.costs))
        if checked.reason:
            unfit[entrant.architecture.id] = checked.reason
    return contenders, unfit
