"""Runs a study on Ray Tune: hands its assignments to workers, brings their measurements back, survives theirs.

Tune distributes and nothing else. What to train, when to stop and what counts is the study's; what Tune itself
remembers is thrown away.
"""

import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, CheckpointConfig, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.error import TuneError
from ray.tune.experiment import Trial

from search.checkpoints.checkpoints import AWAY_S, PARENTS, Checkpoints, checkpoints_of
from search.evaluator import Evaluator, Tester
from search.gate import said
from search.record import TrialRecord
from search.study.study import Study
from search.study.work import Idle
from search.workers.cluster import QUIET, Share, cluster, environment, silence
from search.workers.faults import DEATHS, causes
from search.workers.meter import ClusterMeter
from search.workers.pools import Resources
from search.workers.proposals import Proposals, asked_for
from search.workers.scheduler import assignment_of
from search.workers.worker import Training, settle
from spaces import Architecture, InputError


def execute(
    study: Study,
    evaluator: Evaluator,
    *,
    address: str | None = None,
    resources: Resources,
    meter: ClusterMeter | None = None,
    say: Callable[[str], None] = lambda note: None,
) -> Idle | None:
    """Trains until there is nothing left to do, or until the first Ctrl-C.

    Trials that an interruption cuts short stay running in the study; whoever resumes it goes on with them.

    Args:
        meter: measures on this cluster meanwhile; no trial comes where it is.
        say: is told, in a sentence, what the user should know of the cluster.

    Returns:
        Why it is over: BUDGET, TIME or EXHAUSTED; None where it was interrupted.

    Raises:
        InputError: no node of the cluster has the resources for a trial, or no worker can be made to work.
    """
    if study.remaining == 0:
        return Idle.BUDGET
    with cluster(address), environment(QUIET), silence(), interruption() as interrupted:
        share = share_of(resources, meter)
        proposals = Proposals(study, share, interrupted, say)
        held = {
            "evaluator": evaluator,
            "checkpoints": checkpoints_of(study.directory),
            "parents": checkpoints_of(study.directory, PARENTS),
        }
        with tempfile.TemporaryDirectory(prefix="archsearch-") as scratch:
            tuner = Tuner(
                tune.with_resources(tune.with_parameters(Training, **held), asked_for),
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
                    callbacks=[_Interrupt(interrupted, proposals)],
                    failure_config=FailureConfig(max_failures=0),
                    checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
                ),
            )
            try:
                tuner.fit()
            except KeyboardInterrupt:
                return None
            except (TuneError, OSError, InputError) as error:
                raise _ours(error, study, scratch) from None
            finally:
                share.wish(0)
        return proposals.over


def share_of(resources: Resources, meter: ClusterMeter | None) -> Share:
    """What is for trials, beside a meter."""
    return Share.of(resources) if meter is None else Share.of(resources, meter.claim)


def options(needs: Mapping[str, float]) -> dict[str, Any]:
    """What a pool is, as Ray's options of a task."""
    others = {name: need for name, need in needs.items() if name not in ("CPU", "GPU", "memory")}
    memory = needs.get("memory")
    return {"num_cpus": needs["CPU"], "num_gpus": needs.get("GPU", 0.0), "memory": memory, "resources": others}


def _ours(error: Exception, study: Study, scratch: str) -> Exception:
    """What went wrong in the driver, under what Tune makes of it."""
    for cause in causes(error):
        if isinstance(cause, InputError):
            return cause
        if isinstance(cause, OSError):
            return InputError(
                f"the search in {study.directory} cannot go on: {said(cause)}. What has ended is kept: make room there "
                f"and in {Path(scratch).parent}, then go on with --resume"
            )
    return error


def test_front(
    evaluator: Tester,
    records: Iterable[TrialRecord],
    checkpoints: Checkpoints,
    *,
    resources: Resources,
    meter: ClusterMeter | None,
) -> tuple[dict[int, float], dict[int, str]]:
    """Tests finished trainings, all at once, on the cluster of the surrounding `cluster`, beside a meter.

    Returns:
        The test accuracy by trial number; and the reasons, for those that could not be tested.
    """
    share = share_of(resources, meter)
    held, roomy = ray.put(evaluator), [pool for pool, most in zip(share.pools, share.room(), strict=True) if most]
    needs = (roomy or share.pools)[0]
    test = ray.remote(_test).options(**options(needs), max_retries=DEATHS - 1)
    pending = {r.number: test.remote(held, r.network, r.number, checkpoints, needs["CPU"]) for r in records}
    accuracies, faults = {}, {}
    for number, result in pending.items():
        try:
            accuracies[number] = ray.get(result)
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            faults[number] = said(cause if isinstance(cause, Exception) else error)
    return accuracies, faults


test_front.__test__ = False  # type: ignore[attr-defined]  # not a test of pytest


def _test(evaluator: Tester, architecture: Architecture, number: int, checkpoints: Checkpoints, cpus: float) -> float:
    settle(cpus)
    with checkpoints.fetched(number, patience_s=AWAY_S) as checkpoint:
        return float(evaluator.test(architecture, checkpoint))


class _Interrupt(Callback):  # type: ignore[misc]  # ray is not typed
    """Ends Tune's loop between two steps, where nothing is half written, and its workers with it."""

    def __init__(self, interrupted: threading.Event, proposals: Proposals):
        self._interrupted, self._proposals = interrupted, proposals

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self._interrupted.is_set():
            for trial in trials:
                if trial.temporary_state.ray_actor is not None:
                    ray.kill(trial.temporary_state.ray_actor)
            raise KeyboardInterrupt

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._proposals.started(trial.trial_id)

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _name(trial: Trial) -> str:
    return f"{assignment_of(trial).number}-{trial.trial_id}"


@contextmanager
def interruption() -> Iterator[threading.Event]:
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
