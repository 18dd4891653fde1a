"""What a user calls a model: a folder, a member of a front, or something in MLflow; each comes to a model folder.

Knows where searches and MLflow keep models, nothing of what is done with one.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from search import results
from search.model import DATA, WEIGHTS
from search.tracking.registry import fetched
from spaces import InputError

ALLOWED = (
    "NAME/ID (a search, and an architecture of its front), the folder of a picked model, an MLflow run's id,"
    " models:/NAME@ALIAS or models:/NAME/VERSION"
)
_RUN_ID = re.compile("[0-9a-f]{32}")


@contextmanager
def model_folder(reference: str, *, runs: Path, tracking: str | None = None) -> Iterator[Path]:
    """The model folder (see `search.model`) that is meant; a copy may be gone afterwards.

    Args:
        reference: one of `ALLOWED`; a folder goes before a search of the same name.
        runs: the folder of searches, and of their MLflow store.
        tracking: MLflow's server or database, where it is not in `runs`.

    Raises:
        InputError: there is no such model; the message says what there is.
    """
    folder = Path(reference).expanduser()
    if _is_model(folder):
        yield folder
    elif _RUN_ID.fullmatch(reference) or reference.startswith("models:"):
        with fetched(reference, tracking, runs) as found:
            yield found
    else:
        name, slash, chosen = reference.rpartition("/")
        if not slash or not name or not chosen:
            raise InputError(f"{reference!r} names no model; allowed are {ALLOWED}")
        study = results.opened(runs, name)
        record = results.choose(study.front, chosen=chosen)
        with tempfile.TemporaryDirectory() as room:
            results.write(study, record, Path(room) / "model")
            yield Path(room) / "model"


def _is_model(folder: Path) -> bool:
    """Whether it is meant for one: damage is told when it is read."""
    try:
        return folder.is_dir() and any((folder / name).exists() for name in (WEIGHTS, *DATA))
    except OSError:  # too long a name, no permission
        return False
