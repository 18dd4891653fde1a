"""ParetoHalving: what Ray Tune is to do with a trial, by the word of the study.

The rule is in `search.study.halving`, its memory in the study; here they meet Tune. Ray is imported as in
`search.workers.executor`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.study.study import Study
from search.study.work import Assignment
from search.workers.faults import MachineFault

# Keys of Tune's config and results.
ASSIGNMENT, CLAIM, MEASUREMENT, FAULT, NODE = "assignment", "claim", "measurement", "fault", "node"


_ACTOR = re.compile(r"actor(?:_id[:=])? ?([0-9a-f]{32})")  # in Ray's messages


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What ended a worker.

    Attributes:
        reason: in one sentence.
        actor: Ray's id of it, if Ray has told.
    """

    reason: str
    actor: str | None


class ParetoHalving(FIFOScheduler):  # type: ignore[misc]  # ray is not typed
    """Reports each result to the study and stops the trial where the study says so. Keeps no state of the search."""

    def __init__(self, study: Study):
        super().__init__()
        self._study = study
        self.faults: dict[int, Fault] = {}  # what ended the worker of a trial, last
        self.stranded: set[str] = set()  # trials, by Tune's ids, that Tune is to stop: they wait for what is gone
        self._kept: list[Any] = []  # what Tune was told to keep a worker for
        self.heard = False  # whether any worker has ever come to work

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number, self.heard = assignment_of(trial).number, True
        if FAULT in result:
            self._study.fail(number, result[FAULT])
        elif self._study.report(number, result[MEASUREMENT]):
            return str(TrialScheduler.CONTINUE)
        self._keep_worker(tune_controller, trial)
        return str(TrialScheduler.STOP)

    def _keep_worker(self, tune_controller: Any, trial: Trial) -> None:
        """Lets the worker of a trial that is over wait for one proposal.

        Of itself Tune ends it when a trial that asks for other resources waits for a worker: with two pools each new
        process would cost the other pool one, which costs this pool one, and so on. There is no public way.
        """
        tune_controller._actor_cache.increase_max(trial.placement_group_factory)
        self._kept.append(trial.placement_group_factory)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self.faults[assignment_of(trial).number] = died_of(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """None: Tune starts pending trials in the order of their proposal, without a look at all trials."""
        while self._kept:  # it has been proposed, or not: Tune may now do as it likes
            tune_controller._actor_cache.decrease_max(self._kept.pop())
        for trial_id in tuple(self.stranded):
            tune_controller.stop_trial(tune_controller.get_trial(trial_id))
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune writes its parts to disk to restore them; ours are made anew from the study


def assignment_of(trial: Trial) -> Assignment:
    assignment = trial.config[ASSIGNMENT]
    assert isinstance(assignment, Assignment)
    return assignment


def died_of(trial: Trial) -> Fault:
    """What ended the worker process of a trial, out of what Tune wrote down of it."""
    written = Path(trial.error_file).read_text() if trial.error_file else ""
    text = written.rpartition("Failure # ")[2].partition("\n")[2]
    actor = _ACTOR.search(" ".join(text.split()))
    return Fault(reason=reason_of(text), actor=actor[1] if actor else None)


def reason_of(said: str) -> str:
    """Why a worker process ended, out of what Ray says of it."""
    lines, text = said.split("\n"), " ".join(said.split())
    if MachineFault.__name__ in text:
        return text.rpartition(f"{MachineFault.__name__}: ")[2]
    if "creation task" in text:
        return f"its worker process could not start: {[line for line in lines if line.strip()][-1].strip()}"
    if "memory" in text and "node running low" in text:
        return "its worker process was killed because the node ran out of memory"
    if "is unavailable" in text:
        return "its worker process, or its node, could not be reached any more"
    for mark in ("Worker exit detail: ", "The actor is dead because ", "Error: "):
        if mark in text:
            return f"its worker process died: {text.partition(mark)[2].partition('. ')[0].rstrip('.')}"
    return f"its worker process died: {text[:200]}"
