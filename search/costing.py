"""What a space file counts as a cost, for architectures: the bridge between `search.costs` and `spaces`.

Knows how a space file asks for costs and what a network is built from; nothing of training or trials.
"""

import json
from collections.abc import Callable
from typing import final

import torch
from torch import nn
from torch.optim import Optimizer

from search.costs import Cost, Function, InputSize, made
from search.costs.predictor import features
from search.evaluator import Reading
from spaces import Architecture, InputError, SpaceError, SpaceFile, build, skeleton
from spaces.errors import unknown
from spaces.schema import ACCURACY, ALWAYS, JUDGED, KINDS, CostEntry
from spaces.twin import twin, uncollected


def entries(file: SpaceFile) -> dict[str, CostEntry]:
    """Every cost that a space file asks for, with its setting: those counted always first, then in its order.

    Raises:
        SpaceError: an objective or a constraint that is no cost, or a constraint on what is known only after training.
    """
    known = {name: CostEntry(cost=name) for name in KINDS} | dict(file.costs)
    for key, names in (("objectives", file.objectives), ("constraints", file.constraints)):
        allowed = (ACCURACY, *known) if key == "objectives" else tuple(n for n in known if known[n].cost not in JUDGED)
        for name in names:
            if key == "constraints" and (name == ACCURACY or (name in known and name not in allowed)):
                reason = f"{name} is known only after training, so it can be an objective, but no constraint"
                raise SpaceError(reason, key=f"constraints.{name}")
            if name not in allowed:
                raise SpaceError(unknown(key[:-1], name, allowed), key=f"{key}.{name}")
    asked = dict.fromkeys((*ALWAYS, *file.objectives, *file.constraints, *file.costs))
    return {name: known[name] for name in asked if name in known}


@final
class Costing:
    """The costs of a space file, for architectures of it and one data set; it pickles.

    Args:
        num_classes, input_size: of the data set.
        images: in its training split.
        optimizer: of the recipe.

    Raises:
        SpaceError: an objective or a constraint that is no cost, or a function that cannot be imported.
    """

    def __init__(
        self,
        file: SpaceFile,
        *,
        num_classes: int,
        input_size: InputSize,
        images: int,
        optimizer: Callable[[nn.Module], Optimizer],
    ):
        self._num_classes, self._input_size = num_classes, input_size
        self._step = [images, file.train.batch_size, file.train.optimizer]
        self.judged: dict[str, CostEntry] = {}
        costs: dict[str, Cost] = {}
        asked = entries(file)
        for name, entry in asked.items():
            if entry.function is not None:
                function = costs[name] = Function(name, entry.function)
                function.load()  # rather now than in the middle of a search
            elif entry.cost in JUDGED:
                self.judged[name] = entry
            else:
                costs[name] = made(name, entry, batch=file.train.batch_size, images=images, optimizer=optimizer)
        self.counted = {name: cost for name, cost in costs.items() if not cost.timed}
        self.timed = {name: cost for name, cost in costs.items() if cost.timed}
        self._entries = {name: asked[name] for name in self.timed}

    @property
    def settings(self) -> dict[str, str]:
        """By timed cost, all that a reading depends on beside architecture and machine, in words."""
        shape = [self._num_classes, *self._input_size]
        return {
            name: json.dumps([shape, entry.to_plain(), self._step if entry.cost == "train_seconds" else []])
            for name, entry in self._entries.items()
        }

    def rate(self, name: str) -> bool:
        """Whether a timed cost is so much in a second, and not a time."""
        return self._entries[name].cost == "throughput"

    @property
    def cores(self) -> int:
        """CPU cores that measuring takes."""
        return max((entry.threads for entry in self._entries.values()), default=0)

    @property
    def gpu(self) -> bool:
        """Whether measuring takes a GPU."""
        return any(entry.device == "cuda" for entry in self._entries.values())

    def count(self, architecture: Architecture, *, own: bool = True) -> dict[str, float]:
        """Every counted cost, by name.

        Args:
            own: also those by functions of the user's own, which only the driver is sure to have.

        Raises:
            SpaceError: the network cannot be built, or not for images of this size.
        """
        with uncollected():
            model = skeleton(architecture, self._num_classes, self._input_size[0])
            found = {
                name: self._read(cost, twin(model) if isinstance(cost, Function) else model, architecture).value
                for name, cost in self.counted.items()
                if own or not isinstance(cost, Function)
            }
            del model
        return found

    def features(self, architecture: Architecture) -> dict[str, float]:
        """What timed costs can be predicted from.

        Raises:
            SpaceError: the network cannot be built, or not for images of this size.
        """
        return features(skeleton(architecture, self._num_classes, self._input_size[0]), self._input_size)

    def measure(self, architecture: Architecture) -> dict[str, Reading]:
        """Every timed cost, by name, on this machine; weights as they are drawn, since they do not matter.

        Raises:
            SpaceError: the network cannot be built or run so.
        """
        if not self.timed:
            return {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build(architecture, self._num_classes, self._input_size[0])  # which tries it first
        return {name: self._read(cost, model, architecture) for name, cost in self.timed.items()}

    def _read(self, cost: Cost, model: nn.Module, architecture: Architecture) -> Reading:
        try:
            return cost(model, self._input_size)
        except InputError:
            raise
        except Exception as error:  # whatever a forward pass raises on images that do not suit it
            _, height, width = self._input_size
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise SpaceError(f"{architecture.label} cannot take {height}x{width} images: {reason}") from error
