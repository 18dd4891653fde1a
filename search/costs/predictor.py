"""Costs that take a clock, of many networks, from a few dozen that were measured: to propose by, never to report.

A network is told by the operations of one forward pass, counted on the meta device; what each of them takes on a
machine is learnt. Of 60 networks measured on a CPU, each held out once, a sum of operations ranks better (Kendall 0.91,
median error 3.4%) than Gaussian processes (0.88), gradient boosting (0.84) or ridge regression on logarithms (0.78).
Knows modules and numbers, nothing of architectures, devices or the search.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from search.costs.cost import InputSize
from search.costs.params import params
from spaces import InputError
from spaces.anatomy.meta import on_meta

ENOUGH = 24  # measured networks: of those 60, from 12, 24 and 36 of them the others are ranked with 0.83, 0.88, 0.91
FOLDS = 5  # held out in turn
PENALTY = 1e-3  # on squared weights, an observation; from 1e-4 to 1e-2 it makes no difference

Features = Mapping[str, float]
Floats = NDArray[np.float64]


def features(model: nn.Module, input_size: InputSize) -> dict[str, float]:
    """What `model` in evaluation mode does with one image `[1, *input_size]`, by name.

    By kind of operation: how many there are, how many numbers they write and, where torch counts them, their
    multiply-accumulates (`relu_calls`, `depthwise_macs`); and `params`. The model may be on any device, the meta
    device too, and stays as it is. Raises whatever its forward raises on such an image.
    """
    census = _Census()
    with torch.device("meta"), torch.no_grad():
        twin, image = on_meta(model), torch.empty(1, *input_size)
        with census:
            twin(image)
    return {"params": float(params(model)), **{name: float(count) for name, count in sorted(census.counts.items())}}


@final
class _Census(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that run under it; views are free."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            kind, formula = _kind(func, args), flop_registry.get(func.overloadpacket)
            self.counts[f"{kind}_calls"] += 1
            self.counts[f"{kind}_numbers"] += sum(one.numel() for one in tree_leaves(result) if isinstance(one, Tensor))
            if formula is not None:  # torch counts a multiply-accumulate as two operations
                self.counts[f"{kind}_macs"] += formula(*args, **(kwargs or {}), out_val=result) // 2
        return result


def _kind(func: Any, args: Sequence[Any]) -> str:
    if func.overloadpacket is not torch.ops.aten.convolution:
        return str(func.overloadpacket.__name__).strip("_")
    groups = args[8]  # input, weight, bias, stride, padding, dilation, transposed, output_padding, groups
    return "convolution" if groups == 1 else "depthwise" if groups == args[0].shape[1] else "grouped"


@final
@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A time as the sum of what every operation takes, nothing of it negative.

    The weights minimise the squared relative error, with a small penalty on their squares.

    Attributes:
        count: measured networks that it was fitted on.
        kendall: rank correlation of predicted and measured, each network held out once; tau-b, 1 is perfect.
        error: median relative error of the same predictions.
    """

    count: int
    kendall: float
    error: float
    _sum: "_Sum" = field(repr=False)

    @classmethod
    def fit(cls, features: Sequence[Features], values: Sequence[float], *, enough: int = ENOUGH) -> Self:
        """
        Args:
            features: of each network, from `features`; what one has no name for is 0.
            values: measured, above 0, in any unit of time: n.

        Raises:
            InputError: fewer than `enough`, or a value that is no time.
        """
        measured = np.asarray(values, dtype=np.float64)
        if len(measured) < max(enough, FOLDS) or len(features) != len(measured):
            raise InputError(
                f"{len(features)} networks with {len(measured)} measured values are too few to predict from;"
                f" as many of both are needed, and {max(enough, FOLDS)} at least"
            )
        if not (np.isfinite(measured).all() and (measured > 0).all()):
            raise InputError("a time is a finite number above 0; predict the inverse of a rate")
        held_out = np.empty_like(measured)
        for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(measured):
            found = _Sum([features[index] for index in train], measured[train])
            held_out[test] = found([features[index] for index in test])
        return cls(
            count=len(measured),
            kendall=float(kendalltau(held_out, measured).statistic),
            error=float(np.median(np.abs(held_out / measured - 1))),
            _sum=_Sum(features, measured),
        )

    def predict(self, features: Sequence[Features]) -> Floats:
        """In the unit of what was measured: n. An operation that no measured network has is taken for free."""
        return self._sum(features)

    def __str__(self) -> str:
        return (
            f"predicted from {self.count} measured networks; held out, rank correlation (Kendall) {self.kendall:.2f},"
            f" median error {self.error:.1%}"
        )


@final
class _Sum:
    """A weight for each feature, and a constant, all of them from 0."""

    def __init__(self, features: Sequence[Features], measured: Floats):
        self._names = sorted({name for one in features for name in one})
        shares = self._matrix(features) / measured[:, None]
        self._scales = np.sqrt(np.mean(shares**2, axis=0))
        self._scales[self._scales == 0] = 1.0
        self._ridge = Ridge(alpha=PENALTY * len(measured), positive=True, fit_intercept=False)
        self._ridge.fit(shares / self._scales, np.ones(len(measured)))

    def __call__(self, features: Sequence[Features]) -> Floats:
        found: Floats = self._ridge.predict(self._matrix(features) / self._scales)
        return found

    def _matrix(self, features: Sequence[Features]) -> Floats:
        return np.array([[1.0, *(one.get(name, 0.0) for name in self._names)] for one in features])
