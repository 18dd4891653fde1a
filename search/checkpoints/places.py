"""Places: where a search keeps what is not in its own folder, remembered there so that nobody has to say it twice.

    NAME/places.json   URLs, without passwords: whoever goes on gives those again, or has them in the environment

Knows text, nothing of stores.
"""

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

from spaces import InputError

PLACES = "places.json"


@dataclass(frozen=True, kw_only=True)
class Places:
    """None is the folder of the search, or of all searches.

    Attributes:
        storage: database of the study.
        checkpoints: URL under which trial N keeps its own in NAME/N.
        tracking: MLflow's server or database.
        artifacts: of a new experiment in MLflow.
    """

    storage: str | None = None
    checkpoints: str | None = None
    tracking: str | None = None
    artifacts: str | None = None

    @classmethod
    def read(cls, directory: Path) -> Self:
        """As remembered; all None where nothing is.

        Raises:
            InputError: the file is damaged.
        """
        path = directory / PLACES
        try:
            content = json.loads(path.read_text("utf-8"))
            names = [field.name for field in fields(cls)]
            if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
                raise ValueError("it must be a mapping of text")
            return cls(**{name: content[name] for name in names if name in content})
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} cannot be read: {error}") from None

    def write(self, directory: Path) -> None:
        """Nothing where there is nothing to remember."""
        known = {name: public(url) for name, url in asdict(self).items() if url is not None}
        if known:
            (directory / PLACES).write_text(json.dumps(known, indent=2) + "\n", "utf-8")

    def otherwise(self, others: "Places") -> "Places":
        """These, and the others' where there are none."""
        return Places(**{name: url or getattr(others, name) for name, url in asdict(self).items()})


def public(text: str) -> str:
    """A URL, or a message with URLs, without passwords."""
    text = re.sub(r"(//[^/\s:@]*):\S*@", r"\1@", text)  # SQLAlchemy takes / and @ in a password
    return re.sub(r"(?i)([?&][\w.-]*(?:password|secret|token|key)[\w.-]*=)[^&\s]*", r"\1...", text)
