"""Which dimensions apply to which timm models, and where not, why: every choice on offer is built and run.

Built is on the meta device, so nothing needs weights or much memory. Knows architectures and techniques,
nothing of terminals.
"""

import json
import logging
import multiprocessing
import os
import signal
import threading
import warnings
from collections import defaultdict
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import timm
import torch

from spaces.anatomy import Anatomy, anatomy_of
from spaces.architecture import Architecture
from spaces.backbone import first_line
from spaces.build import check
from spaces.errors import SpaceError, unknown
from spaces.techniques import TECHNIQUES, Choice, NotApplicable, Technique

PER_PROCESS = 200  # models that one process reads before a new one takes over: each leaves some megabytes
WORTH_A_PROCESS = 4  # models that take longer than a process needs to start


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one dimension can do to one backbone.

    Attributes:
        choices: the default, then those that build, run and change something, in the form an Architecture takes.
        reason: why others are left out; empty where none is.
    """

    choices: tuple[Choice, ...]
    reason: str

    @property
    def applies(self) -> bool:
        return len(self.choices) > 1

    def to_dict(self) -> dict[str, Any]:
        return {"applies": self.applies, "reason": self.reason, "choices": list(self.choices)}


def matching(pattern: str) -> tuple[str, ...]:
    """The models of timm that a pattern with wildcards (`resnet*`) names.

    Raises:
        SpaceError: there is none; with the nearest names.
    """
    names = tuple(timm.list_models(pattern))
    if not names:
        raise SpaceError(unknown("backbone", pattern, timm.list_models()))
    return names


def survey(name: str) -> dict[str, Finding]:
    """By dimension, what it can do to a model; a model that does not run takes no dimension."""
    with _silence():
        try:
            anatomy = anatomy_of(name, {})
        except SpaceError as error:
            return {
                dimension: Finding(choices=(technique.default,), reason=str(error))
                for dimension, technique in TECHNIQUES.items()
            }
        return {dimension: _finding(technique, anatomy) for dimension, technique in TECHNIQUES.items()}


def surveys(names: Sequence[str]) -> Generator[tuple[str, dict[str, Finding]]]:
    """`survey` of many models, in their order, one after the other as they are done; on every core if there are many.

    Raises:
        SpaceError: a process was killed, as for lack of memory.
    """
    processes = min(os.cpu_count() or 1, len(names) // WORTH_A_PROCESS)
    if processes < 2:
        yield from ((name, survey(name)) for name in names)
        return
    for start in range(0, len(names), processes * PER_PROCESS):
        yield from _in_processes(processes, names[start : start + processes * PER_PROCESS])


def _in_processes(processes: int, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Finding]]]:
    others = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, spawn, initializer=torch.set_num_threads, initargs=(1,))
    try:
        with _no_interrupts():
            found = pool.map(survey, names)  # starts the processes, which ignore what is ignored now
        yield from zip(names, found, strict=True)
    except BrokenProcessPool:
        raise SpaceError("a process that read models was killed; there may be too little memory") from None
    finally:
        workers = set(multiprocessing.active_children()) - others
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()
            worker.join()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Ctrl-C is for the process that a person started; only the main thread can tell others so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


@contextmanager
def _silence() -> Iterator[None]:
    """What timm and torch warn and log of models that are only looked at reaches nobody."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _finding(technique: Technique, anatomy: Anatomy) -> Finding:
    left: dict[str, list[str]] = defaultdict(list)
    choices = [technique.default]
    for choice in map(technique.check, technique.offers(anatomy)):
        if choice != technique.default:
            reason = _reason_against(technique, choice, anatomy)
            if reason is None:
                choices.append(choice)
            else:
                left[reason].append(choice if isinstance(choice, str) else json.dumps(choice))
    if len(left) == 1 and len(choices) == 1:
        return Finding(choices=tuple(choices), reason=next(iter(left)))
    words = [f"{', '.join(labels)}: {reason}" for reason, labels in left.items()]
    return Finding(choices=tuple(choices), reason="; ".join(words))


def _reason_against(technique: Technique, choice: Choice, anatomy: Anatomy) -> str | None:
    """Why a choice is none for this backbone; None where it is one."""
    stages = max(1, len(anatomy.stages))
    try:
        per_stage = technique.canonical((choice,) * stages, anatomy, {})
        if all(each == technique.default for each in per_stage):
            return "it changes nothing"
        check(Architecture(backbone=anatomy.backbone, choices={technique.name: choice}).canonical)
    except NotApplicable as reason:
        return str(reason)
    except SpaceError as error:
        return error.reason
    except Exception as error:  # one model that a technique trips over must not end a survey of all
        return f"it fails: {first_line(error)}"
    return None
