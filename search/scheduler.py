"""ParetoHalving: what Ray Tune is to do with a trial, by the word of the study.

The rule is in `search.halving`, its memory in the study; here they meet Tune. Ray is imported here, in
`search.executor` and in `search.cluster` only.
"""

from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from search.study import Study
from search.work import Assignment

ASSIGNMENT, MEASUREMENT, FAULT = "assignment", "measurement", "fault"  # keys of Tune's config and results


class ParetoHalving(FIFOScheduler):  # type: ignore[misc]  # ray is not typed
    """Reports each result to the study and stops the trial where the study says so. Keeps no state."""

    def __init__(self, study: Study):
        super().__init__()
        self._study = study
        self.faults: dict[int, str] = {}  # why the worker of a trial died, last
        self.heard = False  # whether any worker has ever come to work

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number, self.heard = assignment_of(trial).number, True
        if FAULT in result:
            self._study.fail(number, result[FAULT])
            return str(TrialScheduler.STOP)
        goes_on = self._study.report(number, result[MEASUREMENT])
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self.faults[assignment_of(trial).number] = died_of(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """None: Tune starts pending trials in the order of their proposal, without a look at all trials."""
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune writes its parts to disk to restore them; ours are made anew from the study


def assignment_of(trial: Trial) -> Assignment:
    assignment = trial.config[ASSIGNMENT]
    assert isinstance(assignment, Assignment)
    return assignment


def died_of(trial: Trial) -> str:
    """What ended the worker process of a trial, in one sentence, out of what Tune wrote down of it."""
    written = Path(trial.error_file).read_text() if trial.error_file else ""
    lines = written.rpartition("Failure # ")[2].split("\n")[1:]
    text = " ".join(" ".join(lines).split())
    if "creation task" in text:
        return f"its worker process could not start: {[line for line in lines if line.strip()][-1].strip()}"
    if "memory" in text and "node running low" in text:
        return "its worker process was killed because the node ran out of memory"
    for mark in ("Worker exit detail: ", "The actor is dead because ", "Error: "):
        if mark in text:
            return f"its worker process died: {text.partition(mark)[2].partition('. ')[0].rstrip('.')}"
    return f"its worker process died: {text[:200]}"
