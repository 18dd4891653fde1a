"""Keeper: what a search leaves to those who come later, kept right while it runs: MLflow, and the weights.

An observer of the study. Knows the Tracker port, nothing of MLflow or Ray.
"""

from collections.abc import Iterable
from functools import partial
from typing import final

from search import results
from search.checkpoints.checkpoints import AWAY_S, OutOfReach, checkpoints_of
from search.confirmation.record import Confirmation
from search.confirmation.store import read as confirmation_of
from search.record import State, TrialRecord
from search.report.story import Importance, Story
from search.study.importance import importance
from search.study.lineage import NOTES
from search.study.study import Study
from search.tracking.outbox import Outbox
from search.tracking.pace import Pace
from search.tracking.tracker import Status, Tracker
from search.training import STRENGTHS, load_strengths
from spaces import InputError

MODELS = "models"
IMPORTANCE_EVERY_S = 15.0


@final
class Keeper:
    """Observes a study for those who come later: MLflow, and the weights that may still be wanted."""

    def __init__(self, study: Study, tracker: Tracker):
        self._study, self._tracker = study, tracker
        self._front: tuple[TrialRecord, ...] = study.front.members
        self._unnamed: dict[int, TrialRecord] = {}  # of which it is not known yet in which run they are
        self._confirmation = confirmation_of(study.directory)
        self._importance: Importance = {}
        self._pace = Pace(IMPORTANCE_EVERY_S)
        self._spared = study.spared
        self._checkpoints = checkpoints_of(study.directory)
        self._outbox = Outbox("the store of checkpoints", lambda: None)
        tracker.reconcile(study.records())
        self._outbox.do("left", self._drop_left)

    def started(self, record: TrialRecord) -> None:
        self._log(record)

    def measured(self, record: TrialRecord) -> None:
        if record.state is State.PAUSED or record.history[-1].values:  # between rungs MLflow can wait
            self._log(record)
            self._release()

    def ended(self, record: TrialRecord) -> None:
        self._log(record)
        if record.state.counts:
            self._outbox.do(record.number, partial(self._take, record))
            beaten = {member.number for member in self._front}
            if beaten != {member.number for member in self._study.front.members}:
                self._outbox.do(("beaten by", record.number), partial(self._drop, beaten))
            self._front = self._study.front.members
            self._release()
            self._tracker.front(self._story())

    def _story(self, *, last: bool = False) -> Story:
        """The search so far. What others may not ask of a study meanwhile, from another thread, is asked here."""
        if last or self._pace.due:
            with self._pace.timed():
                self._importance = importance(self._study)
        return Story(
            name=self._study.directory.name,
            records=self._study.records(),
            front=self._study.front,
            importance=partial(dict, self._importance),
            confirmation=self._confirmation,
            start=NOTES.get(self._study.file.train.inherit, ""),
        )

    def _take(self, record: TrialRecord) -> None:
        """Takes from a trial that has ended what is to be kept elsewhere."""
        try:
            with self._checkpoints.fetched(record.number, only={STRENGTHS}) as checkpoint:
                if strengths := load_strengths(checkpoint):
                    self._tracker.log_strengths(record, strengths)
        except OutOfReach:
            raise
        except (InputError, ValueError):
            pass  # damaged; nothing else hangs on it
        self._drop({record.number})

    def _release(self) -> None:
        """Lets go of weights that no trial will start from any more."""
        before, self._spared = self._spared, self._study.spared
        if gone := before - self._spared:
            self._outbox.do(("spared", *sorted(gone)), partial(self._drop_ended, gone))

    def _drop(self, numbers: set[int]) -> None:
        """Weights of ended trials that are not on the front cannot come back to it; others may start from them."""
        for number in numbers - {member.number for member in self._study.front.members} - self._study.spared:
            self._checkpoints.drop(number)

    def _drop_left(self) -> None:
        """What a driver that died had no time for."""
        self._drop_ended(self._checkpoints.held())

    def _drop_ended(self, numbers: set[int]) -> None:
        self._drop(numbers & {record.number for record in self._study.records() if record.state.counts})

    def _log(self, record: TrialRecord) -> None:
        self._tracker.log(record)
        if record.mlflow_run_id is None:
            self._unnamed[record.number] = record
        self._name(list(self._unnamed.values()))

    def _name(self, records: Iterable[TrialRecord]) -> None:
        """Writes down in which runs these trials are to be found, as far as that is known."""
        for record in records:
            run_id = self._tracker.run_of(record.number)
            if run_id is not None:
                self._unnamed.pop(record.number, None)
                if run_id != record.mlflow_run_id:
                    self._study.annotate(record.number, mlflow_run_id=run_id)

    def keep_models(self) -> None:
        """Writes the models of the front down and gives them to MLflow."""
        self._tracker.front(self._story())
        for record in self._study.front.members:
            folder = self._study.directory / MODELS / record.network.id
            results.write(self._study, record, folder, patience_s=AWAY_S)
            self._log(record)
            self._tracker.log_model(record, folder)

    def confirmed(self, confirmation: Confirmation) -> None:
        """Tells what a confirmation has found, once it is kept, and gives MLflow the models that it has trained."""
        self._confirmation = confirmation
        self._tracker.confirmed(confirmation)
        self.keep_models()

    def close(self, status: Status) -> None:
        self._tracker.front(self._story(last=True))
        self._outbox.flush(AWAY_S)
        self._tracker.finish(status)
        self._name(self._study.records())
