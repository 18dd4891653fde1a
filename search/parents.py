"""Parents: every backbone of a space trained once, as it is, before the first trial, for trials to start from.

They are no trials and no members of the front: what a trial is compared with has started from them too. Knows the timm
evaluator and the workers; where trials then start is the study's.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import final

from search.checkpoints.checkpoints import PARENTS, Checkpoints, OutOfReach, checkpoints_of
from search.confirmation.roster import Job, Outcome
from search.evaluator import Evaluator, Measurement
from search.study.lineage import Parent
from search.study.study import Study
from search.training import WEIGHTS, check_whole
from search.workers.meter import ClusterMeter
from search.workers.pools import Resources
from search.workers.retraining import retrained
from spaces import Architecture, InputError, SearchSpace

SPENT = "seconds"


@final
class Rearing:
    """Trains a backbone to full fidelity; its measurements have the seconds of the whole training so far.

    Args:
        epochs: of it.
    """

    def __init__(self, evaluator: Evaluator, epochs: int):
        self._evaluator, self._epochs = evaluator, epochs

    def __call__(self, architecture: Architecture, seed: int, checkpoint: Path) -> Iterator[Measurement]:
        """What a worker that died has spent is in `checkpoint` too, and counts."""
        checkpoint.mkdir(parents=True, exist_ok=True)
        spent, part = checkpoint / SPENT, checkpoint / f"{SPENT}.part"
        before, began = float(spent.read_text()) if spent.exists() else 0.0, time.monotonic()
        for measurement in self._evaluator.evaluate(architecture, self._epochs, seed, checkpoint):
            seconds = before + time.monotonic() - began
            part.write_text(str(seconds))
            os.replace(part, spent)
            yield replace(measurement, device_s=seconds)


def raise_parents(
    study: Study,
    space: SearchSpace,
    evaluator: Evaluator,
    *,
    resources: Resources,
    meter: ClusterMeter | None,
    say: Callable[[str], None],
) -> None:
    """Trains those that are not trained yet, or whose weights are gone, on the cluster of the surrounding `cluster`.

    Ends early where the hours of the search are spent. A training that fails is told, and its backbone has no parent.

    Args:
        say: is told, in a sentence, what comes of each.

    Raises:
        KeyboardInterrupt: at the first Ctrl-C; what is trained is kept.
        InputError: no node has the resources for a training.
    """
    seed, epochs = study.file.search.seed, study.file.search.fidelity.max
    kept = checkpoints_of(study.directory, PARENTS)
    for parent in _lost(study, kept):
        say(f"the weights of parent {parent.architecture.label} are gone or damaged; it is trained again")
        kept.drop(parent.number)
        del study.parents[parent.number]
    jobs = [
        Job(number=number, architecture=architecture, seed=seed)
        for number, architecture in enumerate(space.backbones())
        if number not in study.parents
    ]
    if not jobs or study.overspent:
        return
    many = f"{len(jobs)} backbones are" if len(jobs) > 1 else "one backbone is"
    say(f"{many} trained for {epochs} epochs before the first trial, which counts in hours and device hours")
    outcomes = retrained(
        Rearing(evaluator, epochs),
        jobs,
        kept,
        resources=resources,
        meter=meter,
        began=lambda job: None,
        over=study.tick,
    )
    for outcome in outcomes:
        say(_told(study, outcome))


def _lost(study: Study, kept: Checkpoints) -> list[Parent]:
    """Those that were trained, and whose weights cannot be read; of a store that is away nothing is known."""
    lost = []
    for parent in study.parents.values():
        try:
            with kept.fetched(parent.number, only={WEIGHTS}) as folder:
                check_whole(folder / WEIGHTS)
        except OutOfReach:
            continue
        except (FileNotFoundError, InputError):
            lost += [] if parent.reason else [parent]
    return lost


def _told(study: Study, outcome: Outcome) -> str:
    """Keeps an outcome, unless it would not come again; what to say of it."""
    job, label = outcome.job, outcome.job.architecture.label
    if outcome.last is None:
        if outcome.final:
            study.raised(Parent(number=job.number, architecture=job.architecture, reason=outcome.reason))
        return f"parent {label} failed, its trials start from scratch: {outcome.reason}"
    accuracy, device_s = outcome.last.values["accuracy"], outcome.last.device_s
    study.raised(Parent(number=job.number, architecture=job.architecture, accuracy=accuracy, device_s=device_s))
    return f"parent {label}: accuracy {accuracy:.4f} in {device_s:.0f} device seconds"
