"""Keeper: what a search leaves to those who come later, kept right while it runs: MLflow, and the weights.

An observer of the study. Knows the Tracker port, nothing of MLflow or Ray.
"""

import shutil
from typing import final

from search import results
from search.record import TrialRecord
from search.study import Study
from search.tracker import Status, Tracker
from search.training import load_strengths

MODELS = "models"


@final
class Keeper:
    """Observes a study for those who come later: MLflow, and the weights that may still be wanted."""

    def __init__(self, study: Study, tracker: Tracker):
        self._study, self._tracker = study, tracker
        self._front: tuple[TrialRecord, ...] = study.front.members
        tracker.reconcile(study.records())
        for record in study.records():  # what a driver that died had no time for
            if record.state.counts:
                self._drop({record.number})

    def started(self, record: TrialRecord) -> None:
        self._log(record)

    def measured(self, record: TrialRecord) -> None:
        if record.history[-1].values:  # between rungs MLflow can wait
            self._log(record)

    def ended(self, record: TrialRecord) -> None:
        self._log(record)
        if record.state.counts:
            if strengths := load_strengths(self._study.checkpoint(record.number)):
                self._tracker.log_strengths(record, strengths)
            self._drop({record.number, *(member.number for member in self._front)})
            self._front = self._study.front.members
            self._tracker.front(self._study.records(), self._study.front)

    def _drop(self, numbers: set[int]) -> None:
        """Weights of ended trials that are not on the front cannot come back to it."""
        for number in numbers - {member.number for member in self._study.front.members}:
            shutil.rmtree(self._study.checkpoint(number), ignore_errors=True)

    def _log(self, record: TrialRecord) -> None:
        run_id = self._tracker.log(record)
        if run_id is not None and run_id != record.mlflow_run_id:
            self._study.annotate(record.number, mlflow_run_id=run_id)

    def keep_models(self) -> None:
        """Writes the models of the front down and gives them to MLflow."""
        for record in self._study.front.members:
            folder = self._study.directory / MODELS / record.network.id
            results.write(self._study, record, folder)
            self._log(record)
            self._tracker.log_model(record, folder)

    def close(self, status: Status) -> None:
        self._tracker.front(self._study.records(), self._study.front)
        self._tracker.finish(status)
