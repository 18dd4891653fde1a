"""Architectures trained again, from scratch, with seeds that no search has used, and tested.

Training is the one of the space file without inheritance: the same recipe, on the same training split.
"""

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from search.task import Task, opened
from search.trial import TimmEvaluator
from spaces import Architecture

FIRST_SEED = 1000
_task: list[Task] = []  # of this process


def begin(space: dict[str, Any]) -> None:
    """Makes this process ready to train."""
    torch.set_num_threads(1)
    _task[:] = [opened(space)]


def trained_again(architecture: dict[str, Any], seed: int) -> float:
    """Test accuracy in [0, 1]."""
    task, network = _task[0], Architecture.from_dict(architecture)
    evaluator = task.evaluator
    assert isinstance(evaluator, TimmEvaluator)
    with tempfile.TemporaryDirectory(prefix="archsearch-") as folder:
        for measurement in evaluator.evaluate(network, task.file.search.fidelity.max, seed, Path(folder)):
            network = measurement.network or network
        return evaluator.test(network, Path(folder))


Told = Callable[[str, int, float], None]  # id, seed, test accuracy


def confirm(space: dict[str, Any], wanted: Sequence[tuple[dict[str, Any], int]], *, workers: int, tell: Told) -> None:
    """Trains each (architecture, seed) again, and tells of each as soon as it is known.

    Args:
        workers: processes of one thread each; 1 trains in this process.
    """
    if workers == 1 and wanted:
        begin(space)
        for architecture, seed in wanted:
            tell(Architecture.from_dict(architecture).id, seed, trained_again(architecture, seed))
        return
    if not wanted:
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=begin, initargs=(space,)) as pool:
        futures = {pool.submit(trained_again, *each): each for each in wanted}
        for future in as_completed(futures):
            architecture, seed = futures[future]
            tell(Architecture.from_dict(architecture).id, seed, future.result())
