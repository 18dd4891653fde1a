"""The journal of a confirmation: every training that was begun, and what became of it, a line each.

    NAME/confirmation.jsonl
    {"begun": 3, "architecture": {...}, "seed": 2, "trained_on": "train"}
    {"ended": {"seed": 2, "number": 3, "network": {...}, "values": {...}}}
    {"failed": 3, "reason": "..."}

Lines are only ever added, by the holder of the search's lease; half a line, of a driver that was killed, is dropped.
What has ended is never done again, whoever asks for it later; what has failed is, by the next that asks. Knows
nothing of training.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, final

from search.confirmation.record import Retraining
from search.confirmation.store import retraining_from_dict, retraining_to_dict
from spaces import Architecture, InputError

FILE = "confirmation.jsonl"


@final
class Journal:
    """Of the search in a directory.

    Raises:
        InputError: the file is damaged.
    """

    def __init__(self, directory: Path):
        self._file = directory / FILE
        self._numbers: dict[tuple[str, int, str], int] = {}
        self._outcomes: dict[int, Retraining | str] = {}
        self._repair()
        for place, line in enumerate(self._file.read_bytes().splitlines(), start=1):
            try:
                self._take(json.loads(line))
            except (InputError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                reason = f"{self._file}, line {place} is damaged ({error!r})"
                raise InputError(f"{reason}; remove the file, and all is trained again") from None

        self._outcomes = {number: one for number, one in self._outcomes.items() if isinstance(one, Retraining)}

    @property
    def numbers(self) -> set[int]:
        """Of all checkpoints."""
        return set(self._numbers.values())

    def knows(self, architecture: Architecture, seeds: Iterable[int], trained_on: str) -> bool:
        """Whether all these trainings have ended well."""
        numbers = [self._numbers.get((architecture.id, seed, trained_on)) for seed in seeds]
        return all(number in self._outcomes for number in numbers)

    def number(self, architecture: Architecture, seed: int, trained_on: str) -> int:
        """Of the checkpoint of a training, which it keeps."""
        key = architecture.id, seed, trained_on
        if key not in self._numbers:
            self._add(
                {
                    "begun": len(self._numbers),
                    "architecture": architecture.to_dict(),
                    "seed": seed,
                    "trained_on": trained_on,
                }
            )
        return self._numbers[key]

    def outcome(self, number: int) -> Retraining | str | None:
        """What a training came to: values, or the reason why it has failed; None while it is to be done."""
        return self._outcomes.get(number)

    def ended(self, retraining: Retraining) -> None:
        self._add({"ended": retraining_to_dict(retraining)})

    def failed(self, number: int, reason: str) -> None:
        self._add({"failed": number, "reason": reason})

    def _take(self, line: Any) -> None:
        if "begun" in line:
            architecture = Architecture.from_dict(line["architecture"])
            self._numbers[architecture.id, int(line["seed"]), str(line["trained_on"])] = int(line["begun"])
        elif "ended" in line:
            retraining = retraining_from_dict(line["ended"])
            self._outcomes[retraining.number] = retraining
        else:
            self._outcomes[int(line["failed"])] = str(line["reason"])

    def _add(self, line: dict[str, Any]) -> None:
        with self._file.open("ab") as file:
            file.write(f"{json.dumps(line, allow_nan=False)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        self._take(line)

    def _repair(self) -> None:
        """Drops half a line."""
        with self._file.open("ab+") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
