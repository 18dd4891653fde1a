"""Runs a study on Ray Tune: hands its assignments to workers, brings their measurements back, survives theirs.

Tune distributes and nothing else. What to train, when to stop and what counts is the study's; what Tune itself
remembers is thrown away. Ray is imported here, in `search.scheduler` and in `search.cluster` only.
"""

import gc
import os
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, Trainable, TuneConfig, Tuner
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from search.cluster import QUIET, Resources, Share, cluster, environment, silence
from search.evaluator import Evaluator, Measurement, Tester
from search.gate import said
from search.record import TrialRecord
from search.scheduler import ASSIGNMENT, FAULT, MEASUREMENT, ParetoHalving, assignment_of
from search.study import Study
from search.work import Idle, carry_out
from spaces import Architecture, InputError

RETRIES = 2  # of a trial whose worker process or node died
HOPELESS = 4  # deaths of workers before the first measurement of any; more than one trial can cause
PATIENCE_S = 1.0  # in which the driver looks for a proposal that can be trained before it hears the workers again


def execute(study: Study, evaluator: Evaluator, *, address: str | None = None, resources: Resources) -> Idle | None:
    """Trains until there is nothing left to do, or until the first Ctrl-C.

    Trials that an interruption cuts short stay running in the study; whoever resumes it goes on with them.

    Returns:
        Why it is over: BUDGET or EXHAUSTED; None where it was interrupted.

    Raises:
        InputError: no node of the cluster has the resources for a trial, or no worker can be made to work.
    """
    if study.remaining == 0:
        return Idle.BUDGET
    with cluster(address), environment(QUIET), silence(), _interruption() as interrupted:
        share = Share.of(resources)
        proposals = _Proposals(study, share, interrupted)
        with tempfile.TemporaryDirectory(prefix="archsearch-") as scratch:
            tuner = Tuner(
                tune.with_resources(tune.with_parameters(_Training, evaluator=evaluator), share.request),
                tune_config=TuneConfig(
                    search_alg=proposals,
                    scheduler=proposals.scheduler,
                    num_samples=-1,
                    reuse_actors=True,
                    trial_name_creator=_name,
                    trial_dirname_creator=_name,
                ),
                run_config=RunConfig(
                    name="tune",
                    storage_path=scratch,
                    verbose=0,
                    callbacks=[_Interrupt(interrupted)],
                    failure_config=FailureConfig(max_failures=0),
                    checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            try:
                tuner.fit()
            except KeyboardInterrupt:
                return None
            except TuneError as error:
                if proposals.hopeless:
                    raise InputError(proposals.hopeless) from error
                raise
        return proposals.over


def test_front(
    evaluator: Tester, records: Iterable[TrialRecord], checkpoints: Callable[[int], Path], *, resources: Resources
) -> tuple[dict[int, float], dict[int, str]]:
    """Tests finished trainings, all at once, on the cluster of the surrounding `cluster`.

    Returns:
        The test accuracy by trial number; and the reasons, for those that could not be tested.
    """
    share = Share.of(resources)
    cpus, held = share.request["cpu"], ray.put(evaluator)
    test = ray.remote(_test).options(num_cpus=cpus, num_gpus=share.request["gpu"], max_retries=RETRIES)
    pending = {r.number: test.remote(held, r.network, checkpoints(r.number), cpus) for r in records}
    accuracies, faults = {}, {}
    for number, result in pending.items():
        try:
            accuracies[number] = ray.get(result)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            faults[number] = said(cause if isinstance(cause, Exception) else error)
    return accuracies, faults


test_front.__test__ = False  # type: ignore[attr-defined]  # not a test of pytest


def _test(evaluator: Tester, architecture: Architecture, checkpoint: Path, cpus: float) -> float:
    _settle(cpus)
    return float(evaluator.test(architecture, checkpoint))


def _settle(cpus: float) -> None:
    """Makes a worker process use what it was given, and no more."""
    if not ray.get_gpu_ids():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(max(1, int(cpus)))


class _Training(Trainable):  # type: ignore[misc]  # ray is not typed
    """A worker: one process that trains one assignment after the other."""

    def setup(self, config: dict[str, Any], evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._measurements: Iterator[Measurement] = iter(())
        _settle(config["cpus"])
        gc.freeze()  # modules and data are never garbage; a collection between trials need not look at them
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._measurements = iter(())  # lets the last training go before the next one needs the memory
        gc.collect()
        torch.cuda.empty_cache()
        self._measurements = carry_out(self._evaluator, config[ASSIGNMENT], Path(config["checkpoint"]))

    def step(self) -> dict[str, Any]:
        try:
            return {MEASUREMENT: next(self._measurements)}
        except Exception as error:  # whatever a training can raise is the reason why the trial failed
            return {FAULT: said(error)}


class _Proposals(Searcher):  # type: ignore[misc]  # ray is not typed
    """Gives Tune the study's assignments, as many as there is room for; takes back those whose worker died."""

    def __init__(self, study: Study, share: Share, interrupted: threading.Event):
        super().__init__()
        self.scheduler = ParetoHalving(study)
        self.over: Idle | None = None
        self.hopeless = ""  # why no worker ever came to work
        self._study, self._share, self._interrupted = study, share, interrupted
        self._live: dict[str, int] = {}
        self._deaths: Counter[int] = Counter()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._interrupted.is_set():
            raise KeyboardInterrupt
        if len(self._live) >= self._share.room():
            return None
        work = self._study.next(PATIENCE_S)
        if work is Idle.LATER or (isinstance(work, Idle) and self._live):
            return None  # one that runs may be given back
        if isinstance(work, Idle):
            self.over = work
            return str(Searcher.FINISHED)
        self._live[trial_id] = work.number
        checkpoint = self._study.checkpoint(work.number)
        return {ASSIGNMENT: work, "checkpoint": str(checkpoint), "cpus": self._share.request["cpu"]}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self._live.pop(trial_id, None)
        if not error or number is None:
            return
        self._deaths[number] += 1
        if not self.scheduler.heard and self._deaths.total() >= HOPELESS:
            self.hopeless = f"no worker came as far as a measurement; the last: {self.scheduler.faults[number]}"
            raise TuneError(self.hopeless)
        if self._deaths[number] <= RETRIES:
            self._study.give_back(number)
        else:
            self._study.fail(number, f"{self.scheduler.faults[number]}; tried {self._deaths[number]} times")

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study is the memory."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Interrupt(Callback):  # type: ignore[misc]  # ray is not typed
    """Ends Tune's loop between two steps, where nothing is half written, and its workers with it."""

    def __init__(self, interrupted: threading.Event):
        self._interrupted = interrupted

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self._interrupted.is_set():
            for trial in trials:
                if trial.temporary_state.ray_actor is not None:
                    ray.kill(trial.temporary_state.ray_actor)
            raise KeyboardInterrupt

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _name(trial: Trial) -> str:
    return f"{assignment_of(trial).number}-{trial.trial_id}"


@contextmanager
def _interruption() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second has its usual effect. Without effect outside the main thread."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def interrupt(*_: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
