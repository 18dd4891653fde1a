"""What a format of exported models is: files in a folder, written and read back. Knows models, no format."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from search.costs.cost import Reading
from search.export.predict import Run
from search.folder import Kind
from search.model import Model
from spaces.simplify import Simple


class Format(ABC):
    """Subclasses are final and hold no state.

    Attributes:
        name: after `--format`.
        kind: the folder that it makes.
        usage: for the folder's README: what there is, and how it is used without this project.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    usage: ClassVar[str]

    def ready(self) -> None:  # noqa: B027
        """Raises InputError where something that the format needs is not installed."""

    @abstractmethod
    def write(self, folder: Path, model: Model, simple: Simple) -> tuple[str, ...]:
        """Write all but README.md into an empty folder.

        Args:
            model: as it was trained.
            simple: its network without what inference does not need.

        Returns:
            What a user should know of what was written, a clause each.

        Raises:
            InputError: the format cannot say this model; the message says why.
        """

    @abstractmethod
    def load(self, folder: Path) -> Run:
        """What `write` has written, loaded as a user of the format does."""

    def latency(self, folder: Path, squares: NDArray[np.uint8]) -> Reading | None:
        """Seconds for one image on one thread, where the format has a runtime of its own to measure."""
        return None
