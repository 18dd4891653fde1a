"""Retrainer: trains one contender from the start to full fidelity and tests it. Knows the timm evaluator, no Ray."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np

from search.costing import entries
from search.data import Dataset
from search.data.corruptions import corrupted
from search.evaluator import Measurement
from search.trial import TimmEvaluator
from spaces import Architecture, SpaceFile
from spaces.schema import CostEntry

TRAIN, ALL = "train", "train+val"
TRAINED_ON = (TRAIN, ALL)


@final
class Retrainer:
    """By the recipe of a space, with weights drawn anew, or pretrained where the space says so. It pickles.

    What trials have inherited from each other, or from their backbone, has no part in it.

    Args:
        dataset: with a test split.
        trained_on: TRAIN; or ALL, the validation images too, which then say nothing any more.

    Raises:
        InputError: as `TimmEvaluator`, or the corrupted test images do not fit into memory.
    """

    def __init__(self, file: SpaceFile, dataset: Dataset, trained_on: str):
        self._validates = trained_on == TRAIN
        shown = dataset.train if self._validates else np.union1d(dataset.train, dataset.val)
        self._evaluator = TimmEvaluator(file, replace(dataset, train=shown))
        self._epochs = file.search.fidelity.max
        asked = [entry for entry in entries(file).values() if entry.cost == "corruption_accuracy"]
        setting = asked[0] if asked else CostEntry(cost="corruption_accuracy")
        self._views = corrupted(dataset, setting.kinds, setting.severities, split="test")

    def __call__(self, architecture: Architecture, seed: int, checkpoint: Path) -> Iterator[Measurement]:
        """Epochs to the last; the last measurement has for values those of a `Retraining`.

        Raises:
            TrainingDiverged: nan or inf.
        """
        for measurement in self._evaluator.evaluate(architecture, self._epochs, seed, checkpoint):
            if measurement.fidelity < self._epochs:
                yield measurement
        network = measurement.network or architecture
        values = self._evaluator.judge(network, checkpoint, self._views)
        if self._validates:
            values["val_accuracy"] = measurement.values["accuracy"]
        yield replace(measurement, values=values, network=network)
