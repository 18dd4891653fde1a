"""Where a confirmation is kept: beside the study, as one file that is there as a whole or not at all.

    NAME/confirmation.json

Knows JSON, nothing of how anything was found.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from search.confirmation.record import TESTED, Confirmation, Contender, Failure, Interval, Retraining
from spaces import Architecture, InputError

FILE = "confirmation.json"


def read(directory: Path) -> Confirmation | None:
    """Of the search in a directory; None where there is none yet.

    Raises:
        InputError: the file is damaged.
    """
    path = directory / FILE
    try:
        return _confirmation(json.loads(path.read_text("utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (InputError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = f"{path} is damaged ({error!r})"
        raise InputError(f"{reason}; remove it, and `archsearch confirm {directory.name}` writes it anew") from None


def write(directory: Path, confirmation: Confirmation) -> None:
    """In place of an earlier one."""
    part = directory / f"{FILE}.part"
    part.write_text(json.dumps(to_dict(confirmation), indent=2, allow_nan=False) + "\n", "utf-8")
    os.replace(part, directory / FILE)


def to_dict(confirmation: Confirmation) -> dict[str, Any]:
    """As JSON has it."""
    return {
        **_plain(confirmation),
        "contenders": [
            {**_plain(contender), "retrainings": [retraining_to_dict(one) for one in contender.retrainings]}
            for contender in confirmation.contenders
        ],
        "failures": [_plain(failure) for failure in confirmation.failures],
    }


def retraining_to_dict(retraining: Retraining) -> dict[str, Any]:
    return _plain(retraining)


def retraining_from_dict(given: Mapping[str, Any]) -> Retraining:
    """
    Raises:
        KeyError, TypeError, ValueError, AttributeError, SpaceError: it is none.
    """
    values = _numbers(given["values"])
    if TESTED not in values:
        raise KeyError(TESTED)
    return Retraining(
        seed=int(given["seed"]),
        number=int(given["number"]),
        network=Architecture.from_dict(given["network"]),
        values=values,
    )


def _plain(record: Confirmation | Contender | Failure | Retraining) -> dict[str, Any]:
    """Its own fields, architectures and intervals as mappings."""
    fields = {name: getattr(record, name) for name in record.__dataclass_fields__}
    if isinstance(record, Contender):
        fields["costs"] = dict(record.costs)
        fields["summary"] = {name: asdict(found) for name, found in record.summary.items()}
    if isinstance(record, Retraining):
        fields["values"] = dict(record.values)
    return {name: value.to_dict() if isinstance(value, Architecture) else value for name, value in fields.items()}


def _confirmation(given: Mapping[str, Any]) -> Confirmation:
    contenders, seeds = tuple(map(_contender, given["contenders"])), tuple(map(int, given["seeds"]))
    if not contenders or not seeds:
        raise ValueError("a confirmation of nobody")
    return Confirmation(
        trained_on=str(given["trained_on"]),
        seeds=seeds,
        images=int(given["images"]),
        margin=_numbers({"margin": given["margin"]})["margin"],
        contenders=contenders,
        gain=str(given["gain"]),
        failures=tuple(map(_failure, given["failures"])),
    )


def _contender(given: Mapping[str, Any]) -> Contender:
    retrainings = tuple(map(retraining_from_dict, given["retrainings"]))
    if not retrainings:
        raise ValueError("a contender without retrainings")
    if TESTED not in given["summary"]:
        raise KeyError(TESTED)
    return Contender(
        architecture=Architecture.from_dict(given["architecture"]),
        trial=None if given["trial"] is None else int(given["trial"]),
        costs=_numbers(given["costs"]),
        retrainings=retrainings,
        summary={
            name: Interval(**_numbers({key: found[key] for key in ("mean", "low", "high")}))
            for name, found in given["summary"].items()
        },
        verdict=str(given["verdict"]),
    )


def _failure(given: Mapping[str, Any]) -> Failure:
    architecture = Architecture.from_dict(given["architecture"])
    return Failure(architecture=architecture, seed=int(given["seed"]), reason=str(given["reason"]))


def _numbers(given: Mapping[str, Any]) -> dict[str, float]:
    """
    Raises:
        ValueError: one is none, or is infinite.
    """
    found = {str(name): float(value) for name, value in given.items()}
    if bad := [name for name, value in found.items() if not math.isfinite(value)]:
        raise ValueError(f"{bad[0]} is {found[bad[0]]}")
    return found
