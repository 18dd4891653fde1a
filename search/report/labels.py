"""In which words an architecture is told: its name, and its decisions by name. Knows architectures only."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spaces import Architecture, SpaceError


def label_of(architecture: Architecture) -> str:
    """Its label; for one that cannot be built, and so has none, what was proposed."""
    try:
        return architecture.label
    except SpaceError:
        words = [f"{name}={value}" for name, value in params_of(architecture).items() if name != "backbone"]
        return " ".join([str(architecture.backbone), *words])


def params_of(architecture: Architecture) -> dict[str, str]:
    """Every choice as proposed, as text: `width`, `kwargs.depth`, `norm.2` (of stage 2), `attention.kind`.

    Where stages differ there is one value for all of them too, so that each trial has it: `width` is then the mean,
    `norm` all of them, `keep/keep/none`. What was not chosen is absent. MLflow sorts params as text; its parallel
    coordinates take a param as numbers where it is a number everywhere.
    """
    params = flat(architecture.choices, stages=True)
    params |= {f"kwargs.{name}": value for name, value in flat(architecture.kwargs).items()}
    return params if architecture.backbone is None else {"backbone": architecture.backbone, **params}


def flat(nested: Mapping[str, Any], *, stages: bool = False) -> dict[str, str]:
    """One level of names joined by dots; a list is one value, or with `stages` that of all and one a stage, from 1."""
    return dict(_flat("", nested, stages))


def _flat(name: str, value: object, stages: bool) -> Iterator[tuple[str, str]]:
    if stages and isinstance(value, list | tuple):
        yield name, _of_all(value)
        value = {str(stage): entry for stage, entry in enumerate(value, start=1)}
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), entry, stages)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, default=str)


def _of_all(values: Sequence[object]) -> str:
    """What stages chose, in one value."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if values and len(numbers) == len(values):
        return f"{sum(numbers) / len(numbers):.6g}"
    return "/".join(value if isinstance(value, str) else json.dumps(value, default=str) for value in values)
