"""Dialogue: our trials in the words of Optuna: asked for, written down, told. The only writer of an Optuna study.

Knows how each sampler wants to hear of each of our states; nothing of budgets, rungs or who trains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.record import State
from search.samplers import make
from search.samplers.seen import stand_in
from search.samplers.telling import Telling
from search.study.untried import Answers
from spaces import Architecture, Parameter, SearchSpace
from spaces.questions import Label

NOTE = "trial "  # what was found out of a trial after its end, by its number; an attribute of the study
DRAWN = "drawn"  # attribute of a trial that was enqueued, not proposed by the sampler


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What was asked for.

    Attributes:
        drawn: enqueued, not proposed by the sampler.
    """

    number: int
    architecture: Architecture
    drawn: bool


class _Unqueued(optuna.Study):
    """The same study where nothing is enqueued: Optuna looks at every trial to find that out, at every `ask`."""

    def __init__(self, study: optuna.Study):
        self.__dict__.update(study.__dict__)

    def _pop_waiting_trial_id(self) -> int | None:
        return None


class Dialogue:
    """Talks with one Optuna study.

    Args:
        sampler: a name of `SAMPLERS`, or `auto`.
        trials: the budget, for samplers that plan with it.
        table: instead of the sampler's own, to try another.
    """

    def __init__(
        self,
        study: optuna.Study,
        *,
        sampler: str,
        seed: int,
        trials: int | None,
        table: Mapping[State, Telling] | None = None,
    ):
        self.study = study
        self._sampler, own, self._chosen = make(sampler, seed=seed, trials=trials)
        self.study.sampler = self._sampler
        self._table = own if table is None else table
        self._open: dict[int, optuna.Trial] = {}
        self._enqueued, self._unqueued = self.waiting(), _Unqueued(study)
        self._notes = {
            int(key.removeprefix(NOTE)): note for key, note in study.user_attrs.items() if key.startswith(NOTE)
        }

    def trials(self) -> list[FrozenTrial]:
        """All trials in the order of their numbers; not to be changed."""
        return self.study.get_trials(deepcopy=False)

    def ask(
        self, space: SearchSpace, unfinished: FrozenTrial | None = None, chosen: Sequence[tuple[Parameter, Label]] = ()
    ) -> Proposal:
        """A new proposal, or the same again for one that a crash cut in half.

        Args:
            chosen: what a sampler that plans is to propose.
        """
        self._chosen.answers = tuple(chosen)
        if unfinished is not None:
            trial = self.reopen(unfinished)
        else:
            trial = (self.study if self._enqueued else self._unqueued).ask()
            self._enqueued = max(0, self._enqueued - 1)
        self._open[trial.number] = trial

        def choose(parameter: Parameter) -> Label:
            chosen = trial.suggest_categorical(parameter.name, parameter.choices)
            assert chosen is not None
            return chosen

        return Proposal(number=trial.number, architecture=space.decide(choose), drawn=DRAWN in trial.user_attrs)

    def reopen(self, frozen: FrozenTrial) -> optuna.Trial:
        """Makes a trial that Optuna holds as running writable again."""
        self._open[frozen.number] = optuna.Trial(self.study, frozen._trial_id)
        return self._open[frozen.number]

    def enqueue(self, answers: Answers) -> None:
        """Makes these answers the next proposal."""
        self.study.enqueue_trial(dict(answers), user_attrs={DRAWN: True})
        self._enqueued += 1

    def show(self, number: int, state: State, *, values: Sequence[float], violations: Mapping[str, float]) -> None:
        """Lets the sampler take a running trial for one that ended so, until it ends; as `tell`."""
        told = self._table[state]
        complete = told.state is TrialState.COMPLETE
        self._sampler.shown[number] = stand_in(
            self._open[number],
            told.state,
            list(values) if complete else None,
            violations if complete or told.violated else {},
        )

    def note(self, name: str, value: Any) -> None:
        """Keeps something with the study."""
        self.study.set_user_attr(name, value)

    def noted(self, name: str) -> Any:
        """What was kept, or None."""
        return self.study.user_attrs.get(name)

    def answers(self, number: int) -> Answers:
        """What was decided in a trial."""
        return self.trials()[number].params

    def waiting(self) -> int:
        """How many proposals are enqueued."""
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def write(self, number: int, attribute: str, value: Any) -> None:
        self._open[number].set_user_attr(attribute, value)

    def annotate(self, number: int, found: Mapping[str, Any]) -> None:
        """Writes more of a trial, ended or not; Optuna closes those that ended, so that stands with the study."""
        if number in self._open:
            for attribute, value in found.items():
                self.write(number, attribute, value)
        else:
            self._notes[number] = {**self._notes.get(number, {}), **found}
            self.study.set_user_attr(f"{NOTE}{number}", self._notes[number])

    def annotated(self, frozen: FrozenTrial) -> dict[str, Any]:
        """All that is written of a trial."""
        return {**frozen.user_attrs, **self._notes.get(frozen.number, {})}

    def tell(self, number: int, state: State, *, values: Sequence[float], violations: Mapping[str, float]) -> None:
        """Ends a trial.

        Args:
            values: of all objectives, each in its own direction, as far as the sampler may learn from them.
            violations: by constraint; above 0 is violated. The same names in the same order for every trial,
                since the GP sampler wants them so.
        """
        self._sampler.shown.pop(number, None)
        trial, telling = self._open.pop(number), self._table[state]
        complete = telling.state is TrialState.COMPLETE
        if complete or telling.violated:
            before = trial.constraints  # of a trial that a crash kept from being told
            for name in [name for name in violations if name not in before]:
                trial.set_constraint(name, violations[name])
        self.study.tell(trial, list(values) if complete else None, telling.state)
