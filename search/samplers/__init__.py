"""Samplers by name: how each is made for a study, and how each is told what became of its proposals.

Adding one is an entry in `SAMPLERS`. Knows Optuna, no trials of ours and no Ray.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from search.record import State
from search.samplers.ehvi.sampler import Chosen, Ehvi
from search.samplers.seeded import Seeded
from search.samplers.telling import GP, NSGA2, RANDOM, TPE, Telling

STARTUP = 10  # random proposals before a model is asked; Optuna's own default for TPE and GP


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """A way to propose.

    Attributes:
        make: (seed, trials of the whole search if that is known, what a planner has chosen) -> an Optuna sampler.
        telling: how a trial that ended in each state is told to it.
        conditional: whether it models choices that only some backbones have; else those are drawn at random.
        constraints: whether it learns by how much a constraint is violated.
        plans: whether it also decides which waiting trial goes on, together with what is proposed.
        bearable: trials beyond which a proposal may take more than a second (of gp: 0.4 s in the median and up to
            2.1 s between 100 and 400 trials, Optuna 5.0, two cores); None where none was seen to.
        about: one line for the user.
    """

    make: Callable[[int, int | None, Chosen], BaseSampler]
    telling: Mapping[State, Telling]
    conditional: bool
    constraints: bool
    plans: bool = False
    bearable: int | None = None
    about: str


def _tpe(seed: int, *_: Any) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=STARTUP)


class _Gp(GPSampler):
    """Thinks on one core: its matrices are too small for more, and the others are training."""

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return super().sample_relative(study, trial, search_space)
        finally:
            torch.set_num_threads(threads)


def _gp(seed: int, *_: Any) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _Gp(seed=seed, n_startup_trials=STARTUP, warn_independent_sampling=False)


class _Nsga2(NSGAIISampler):
    """Breeds from parents in the order of their numbers, also where a generation has only now been chosen."""

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        return sorted(super().get_parent_population(study, generation), key=lambda trial: trial.number)


def _nsga2(seed: int, trials: int | None, _: Chosen) -> BaseSampler:
    """At least five generations in the budget, of 8 to 50 (Optuna's default) each."""
    return _Nsga2(seed=seed, population_size=50 if trials is None else min(50, max(8, trials // 5)))


def _random(seed: int, *_: Any) -> BaseSampler:
    return RandomSampler(seed=seed)


def _ehvi(seed: int, _: int | None, chosen: Chosen) -> BaseSampler:
    return Ehvi(seed, chosen)


SAMPLERS: Mapping[str, Sampler] = {
    "ehvi": Sampler(
        make=_ehvi,
        telling=TPE,  # it reads records; so a search that goes on with tpe finds what tpe wants
        conditional=True,
        constraints=True,
        plans=True,
        about="expected hypervolume improvement with exact costs, in a second of training; also decides who goes on",
    ),
    "random": Sampler(
        make=_random,
        telling=RANDOM,
        conditional=True,
        constraints=False,
        about="every decision uniformly; learns nothing",
    ),
    "nsga2": Sampler(
        make=_nsga2,
        telling=NSGA2,
        conditional=True,
        constraints=True,
        about="evolution of a population",
    ),
    "tpe": Sampler(
        make=_tpe,
        telling=TPE,
        conditional=True,
        constraints=True,
        about="densities of good and bad choices, conditional ones too",
    ),
    "gp": Sampler(
        make=_gp,
        telling=GP,
        conditional=False,
        constraints=True,
        bearable=200,
        about="a Gaussian process of the choices that all backbones share; small budgets",
    ),
}
DEFAULT = "ehvi"  # what `auto` means


def note(name: str, trials: int | None) -> str:
    """What a user should know of a sampler before so many trials; empty where there is nothing."""
    most = SAMPLERS[DEFAULT if name == "auto" else name].bearable
    if most is None or (trials is not None and trials <= most):
        return ""
    return f"sampler {name} may take more than a second a proposal after some {most} trials; tpe takes less"


def plans(name: str) -> bool:
    """Whether a sampler also decides which waiting trial goes on."""
    return SAMPLERS[DEFAULT if name == "auto" else name].plans


def make(name: str, *, seed: int, trials: int | None) -> tuple[Seeded, Mapping[State, Telling], Chosen]:
    """The sampler of that name, whose proposals depend only on what it was told, the seed and the trial's number.

    Returns:
        With it, how it is told, and where what it is to propose is chosen.
    """
    sampler, chosen = SAMPLERS[DEFAULT if name == "auto" else name], Chosen()
    return Seeded(lambda derived: sampler.make(derived, trials, chosen), seed), sampler.telling, chosen
