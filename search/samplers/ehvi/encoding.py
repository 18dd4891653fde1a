"""Encoding: architectures and their costs as rows of numbers in which similar networks are near.

n architectures, D columns in three blocks, one after the other:

- which choice stands at which place (a stage, a dimension), as 0 or 1: networks that differ in one place are near;
- how large a share of the places has it, and the means of what is a number: where it stands matters less than how
  often;
- the logarithms of all known costs: what has similar costs learns similarly.

The first is as it is, the rest has mean 0 and deviation 1 over the networks that the encoding was made from, which stay
the same for a whole search; then all is scaled by one number.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import numpy as np
from scipy.spatial.distance import pdist
from sklearn.feature_extraction import DictVectorizer
from sklearn.preprocessing import StandardScaler

from search.pareto import Floats
from spaces import Architecture

APART = 5.0  # how far two networks are from each other, in the median; what lengths of a kernel are measured by
SOME = 300  # networks that this is measured on

Known = tuple[Architecture, Mapping[str, float]]
"""An architecture and all its known costs, by name."""


@final
class Encoding:
    """Made once, from a sample of the space; what that has not seen of choices counts as absent.

    Args:
        sample: not empty.
        alike: dimensions whose choices mean the same, by dimension: the name of the group.

    Attributes:
        places: columns of the first block; the other two follow.
    """

    def __init__(self, sample: Sequence[Known], alike: Mapping[str, str]):
        self._alike = alike
        self._names = sorted(set.intersection(*(set(costs) for _, costs in sample)))
        self._place, self._share, self._scaler = (
            DictVectorizer(sparse=False),
            DictVectorizer(sparse=False),
            StandardScaler(),
        )
        placed, shared = zip(*(self._described(architecture) for architecture, _ in sample), strict=True)
        self.places = self._place.fit_transform(placed).shape[1]
        self._scaler.fit(np.hstack([self._share.fit_transform(shared), self._costs(sample)]))
        self._rows: dict[str, Floats] = {}
        self._unit = 1.0
        apart = float(np.median(pdist(self(sample[:SOME])))) if len(sample) > 1 else 0.0
        self._unit = APART / apart if apart > 0 else 1.0
        self._rows.clear()

    @property
    def costs(self) -> int:
        """Columns of the last block."""
        return len(self._names)

    def __call__(self, known: Sequence[Known]) -> Floats:
        """(n, D)."""
        new = {each[0].id: each for each in known if each[0].id not in self._rows}
        if new:
            placed, shared = zip(*(self._described(architecture) for architecture, _ in new.values()), strict=True)
            rest = np.hstack([self._share.transform(shared), self._costs(list(new.values()))])
            scaled = np.nan_to_num(self._scaler.transform(rest))  # a cost that is not known counts as a mean one
            rows = self._unit * np.hstack([self._place.transform(placed), scaled])
            self._rows.update(zip(new, rows, strict=True))
        return np.array([self._rows[architecture.id] for architecture, _ in known])

    def _costs(self, known: Sequence[Known]) -> Floats:
        """A cost may be 0, or one of the user's own and below: such a one is as if it were as small as it gets."""
        values = np.array([[costs.get(name, math.nan) for name in self._names] for _, costs in known], dtype=np.float64)
        return np.asarray(np.log(np.maximum(values.reshape(len(known), -1), 1e-9)))

    def _described(self, architecture: Architecture) -> tuple[dict[str, float], dict[str, float]]:
        """By place, and by share of the places."""
        placed: dict[str, float] = {}
        groups: dict[str, list[tuple[str, Any]]] = {}
        if architecture.backbone is not None:
            placed[f"backbone={architecture.backbone}"] = 1.0
        for name, value in architecture.kwargs.items():
            groups[f"{architecture.backbone}.{name}"] = list(_places(name, value))
        for name, value in architecture.choices.items():
            groups.setdefault(self._alike.get(name, name), []).extend(_places(name, value))
        shared: dict[str, float] = {}
        for group, choices in groups.items():
            for place, choice in choices:
                for part, number in _parts(choice):
                    placed[f"{group}@{place}{part}"] = 1.0
                    shared[f"{group}{part}"] = shared.get(f"{group}{part}", 0.0) + 1 / len(choices)
                    if number is not None:
                        key = f"{group}#{part.partition('=')[0]}"
                        shared[key] = shared.get(key, 0.0) + number / len(choices)
        return placed, shared


def _places(name: str, value: Any) -> Iterable[tuple[str, Any]]:
    """One choice a stage, or one for all."""
    return (
        ((f"{name}{stage}", each) for stage, each in enumerate(value)) if isinstance(value, list) else [(name, value)]
    )


def _parts(choice: Any, name: str = "") -> Iterable[tuple[str, float | None]]:
    """`=relu`, or of a choice with parameters `.kind=se` and `.ratio=4`; of a number also how large it is."""
    if isinstance(choice, Mapping):
        for key, value in choice.items():
            yield from _parts(value, f"{name}.{key}")
    elif isinstance(choice, int | float) and not isinstance(choice, bool):
        yield f"{name}={choice:g}", math.copysign(math.log2(1 + abs(choice)), choice)
    else:
        yield f"{name}={json.dumps(choice)}", None
