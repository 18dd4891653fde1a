"""What a search has found: its front as data, a member chosen from it, a member written down as a model folder.

Reads what the search wrote, also while it runs; starts nothing. Knows studies and model folders, nothing of
Ray or MLflow.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.checkpoints.checkpoints import CONFIRMED, Checkpoints, checkpoints_of
from search.checkpoints.places import Places
from search.confirmation import store as confirmations
from search.data import Preprocessing
from search.data.dataset import Dataset, file_faults
from search.examples import EXAMPLES, examples_of, read_examples, write_examples
from search.model import WEIGHTS, Model, read_classes, read_json, read_preprocessing, read_weights, write_model
from search.record import Front, State, TrialRecord
from search.skipping import skipped_blocks
from search.study import studies
from search.study.storages import JOURNAL
from search.study.study import Study
from search.training import finished
from spaces import Architecture, InputError, build
from spaces.errors import unknown
from spaces.schema import NEAREST, PARENT, is_name

DATA = "data.json"
_OWN = {
    "accuracy": "val_accuracy",
    "test accuracy": "test_accuracy",
    "test calibration error": "test_calibration_error",
    "test corruption accuracy": "test_corruption_accuracy",
}  # what is told of a confirmed model, and the values that say it


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a search's models take and give, kept beside its study.

    Attributes:
        classes: names, in the order of the outputs.
        examples: as those of a `Model`; None in searches that have kept none.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    examples: NDArray[np.uint8] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, dataset: Dataset) -> "Inputs":
        return cls(classes=dataset.classes, preprocessing=dataset.preprocessing, examples=examples_of(dataset))

    def write(self, directory: Path) -> None:
        if self.examples is not None:
            write_examples(directory / EXAMPLES, self.examples)
        content = {"classes": self.classes, "preprocessing": self.preprocessing.to_dict()}
        (directory / DATA).write_text(json.dumps(content, indent=2) + "\n")

    @classmethod
    def read(cls, directory: Path) -> "Inputs":
        """
        Raises:
            InputError: the search trained no networks of ours, or the file is damaged.
        """
        path = directory / DATA
        with file_faults(path):
            if not path.is_file():
                raise InputError(f"{directory} has no {DATA}: its evaluator trains no models that could be picked")
        content = read_json(path)
        if not isinstance(content, dict) or not {"classes", "preprocessing"} <= content.keys():
            raise InputError(f"{path} must be a mapping with classes and preprocessing")
        classes = read_classes(content["classes"], f"{path}: classes")
        preprocessing = read_preprocessing(content["preprocessing"], f"{path}: preprocessing")
        examples = read_examples(directory / EXAMPLES, preprocessing)
        return cls(classes=classes, preprocessing=preprocessing, examples=examples)


def opened(runs: Path, name: str) -> Study:
    """The study of a search, to be read.

    Raises:
        InputError: there is none of that name in the folder, and which there are; or it cannot be read.
    """
    try:
        with file_faults(runs / name):
            if is_name(name) and studies.exists(runs / name):
                return studies.read(runs / name)
            if is_name(name) and (runs / name / JOURNAL).exists():
                raise InputError(f"the search in {runs / name} never began, or its {JOURNAL} is damaged")
            if runs.exists() and not runs.is_dir():
                raise InputError(f"{runs} is a file; searches are in a folder")
            neighbours = sorted(runs.iterdir()) if runs.exists() else []
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # Optuna's replay of a damaged journal
        raise InputError(f"{runs / name} holds a damaged search: {error!r}") from None
    found = [path.name for path in neighbours if _readable(path)]
    if not found:
        raise InputError(f"{runs} holds no searches yet; `archsearch run SPACE` makes one")
    raise InputError(unknown(f"search in {runs}", name, found))


def _readable(directory: Path) -> bool:
    """Whether there is a search; a damaged one is none, one in a database is not looked up."""
    try:
        return Places.read(directory).storage is not None or studies.exists(directory)
    except (InputError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def front_as_dict(study: Study) -> dict[str, Any]:
    """The front for programs: plain values, as `archsearch front --json` prints them."""
    front, counts, found = study.front, study.counts(), confirmations.read(study.directory)
    confirmation = None if found is None else confirmations.to_dict(found)
    inherits = study.file.train.inherit in (PARENT, NEAREST)
    contenders = confirmation["contenders"] if confirmation else []
    told = {one["trial"]: {name: one[name] for name in ("summary", "verdict")} for one in contenders}
    return {
        "objectives": dict(front.objectives.directions),
        "reference_point": dict(front.reference_point),
        "hypervolume": front.hypervolume,
        "trials": {str(state): counts[state] for state in State},
        "points": [
            {
                "id": record.network.id,
                "architecture": record.network.to_dict(),
                "values": dict(record.values),
                "costs": dict(record.costs),
                "test_accuracy": record.test_accuracy,
                "mlflow_run_id": record.mlflow_run_id,
                **({"inherited_from": record.inherited_from} if inherits else {}),
                **({"confirmed": told[record.number]} if record.number in told else {}),
            }
            for record in front.members
        ],
        **({} if confirmation is None else {"confirmation": confirmation}),
    }


def choose(
    front: Front,
    *,
    most: Sequence[str] = (),
    least: Sequence[str] = (),
    prefer: str | None = None,
    chosen: str | None = None,
) -> TrialRecord:
    """One member of a front.

    Args:
        most, least: bounds from above and from below, as `macs=5e6`, on objectives and costs.
        prefer: the objective to be best in; the first where it is None.
        chosen: id of an architecture; only this one.

    Raises:
        InputError: the front is empty, a name is unknown, a bound is no number, or nothing is within the bounds.
    """
    if not front.members:
        raise InputError("the front is empty: no feasible trial has run to its end")
    members = list(front.members)
    if chosen is not None:
        members = [record for record in members if record.network.id == chosen]
        if not members:
            raise InputError(unknown("architecture on the front", chosen, (r.network.id for r in front.members)))
    known = {r.number: {**r.costs, **r.values} for r in front.members}
    names = {name: value for values in known.values() for name, value in values.items()}
    bounds = [(name, "<=", value) for name, value in _bounds("--max", most, names).items()]
    bounds += [(name, ">=", value) for name, value in _bounds("--min", least, names).items()]
    fitting = [r for r in members if all(_keeps(known[r.number], *bound) for bound in bounds)]
    if not fitting:
        there = {name: [known[r.number][name] for r in members if name in known[r.number]] for name, _, _ in bounds}
        raise InputError(
            "nothing on the front has "
            + " and ".join(f"{name} {sign} {value:g}" for name, sign, value in bounds)
            + "; there is: "
            + ", ".join(f"{name} {min(values):g} to {max(values):g}" for name, values in there.items() if values)
        )
    name = front.objectives.names[0] if prefer is None else prefer
    if name not in front.objectives.names:
        raise InputError(unknown("objective", name, front.objectives.names))
    sign = -1 if front.objectives.directions[name] == "maximize" else 1
    return min(fitting, key=lambda record: sign * record.values[name])


def _keeps(values: Mapping[str, float], name: str, sign: str, bound: float) -> bool:
    return name in values and (values[name] <= bound if sign == "<=" else values[name] >= bound)


def _bounds(flag: str, given: Sequence[str], known: Mapping[str, float]) -> dict[str, float]:
    bounds = {}
    for text in given:
        name, _, number = text.partition("=")
        if name not in known:
            raise InputError(unknown(f"objective or cost in {flag}", name, known))
        try:
            bounds[name] = float(number)
        except ValueError:
            bounds[name] = math.nan
        if math.isnan(bounds[name]):
            raise InputError(f"{flag} {text}: {number!r} is not a number; write it as {flag} {name}=5e6")
    return bounds


def write(study: Study, record: TrialRecord, folder: Path, *, patience_s: float = 0.0) -> None:
    """Write the model of a complete trial whose weights are kept as a model folder (see `search.model`).

    Of a member of the front that was confirmed it is the training of median validation accuracy.

    Args:
        patience_s: how long to wait for a store of checkpoints that is away.

    Raises:
        InputError: the search trains no models, the weights are gone, out of reach or damaged, or the folder holds
            something else.
    """
    inputs, kept = Inputs.read(study.directory), _kept(study, record)
    module = build(kept.network, len(inputs.classes), inputs.preprocessing.in_chans)
    with kept.checkpoints.fetched(kept.number, patience_s=patience_s) as checkpoint:
        weights = finished(checkpoint)
        with file_faults(weights):
            if not (weights / WEIGHTS).is_file():
                place = kept.checkpoints.place(kept.number)
                raise InputError(f"the weights of trial {record.number} are not in {place}: no {WEIGHTS} there")
        read_weights(module, weights / WEIGHTS)
    model = Model(
        module=module,
        architecture=kept.network,
        classes=inputs.classes,
        preprocessing=inputs.preprocessing,
        examples=inputs.examples,
    )
    skipped = ", ".join(skipped_blocks(module))
    write_model(folder, model, {**kept.told, "skipped layers": skipped} if skipped else kept.told)


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """Which training of a member is to be taken, and what is told of it."""

    network: Architecture
    checkpoints: Checkpoints
    number: int
    told: Mapping[str, float | str]


def _kept(study: Study, record: TrialRecord) -> _Kept:
    found = confirmations.read(study.directory)
    one = None if found is None else found.of(record.number)
    if found is None or one is None:
        tested = {} if record.test_accuracy is None else {"test accuracy": record.test_accuracy}
        told = {**record.values, **tested, **record.costs}
        return _Kept(
            network=record.network, checkpoints=checkpoints_of(study.directory), number=record.number, told=told
        )
    best = one.median
    mine = {name: best.values[key] for name, key in _OWN.items() if key in best.values}
    seeds = f"{len(one.retrainings)} trainings on {found.trained_on}"
    means = {
        f"{name}, mean of {seeds}": f"{span.mean:.6g} (95%: {span.low:.6g} to {span.high:.6g})"
        for name, key in _OWN.items()
        if len(one.retrainings) > 1 and (span := one.summary.get(key)) is not None
    }
    return _Kept(
        network=best.network,
        checkpoints=checkpoints_of(study.directory, CONFIRMED),
        number=best.number,
        told={**mine, **means, **one.costs},
    )
