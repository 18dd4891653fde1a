"""A cost of the user's own: a function of theirs, named in the space file. It runs code, so it has to be allowed."""

import importlib
import math
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any, final

from torch import nn

from search.costs.cost import InputSize, Reading
from spaces import SpaceError
from spaces.errors import unknown

LARGEST = 1e100  # beyond it means and ratios overflow


@final
class Function:
    """`function(model, (channels, height, width))` gives a number; the model is on the meta device, and its own.

    It is imported when it is first called, in each process anew: from what is installed, else from the working
    directory.

    Args:
        path: `package.module:function`.
    """

    unit, timed = "of your own", False

    def __init__(self, name: str, path: str):
        self.name, self._path = name, path

    def __call__(self, model: nn.Module, input_size: InputSize) -> Reading:
        """
        Raises:
            SpaceError: there is no such function, it fails, or it does not give a finite number.
        """
        function = self.load()
        try:
            with redirect_stdout(sys.stderr):  # what it prints is not ours
                given = function(model, input_size)
            value = math.nan if isinstance(given, str | bool) else float(given)
        except (Exception, SystemExit) as error:  # whatever a function of the user's raises
            raise self._error(f"fails: {_said(error)}") from error
        if not abs(value) <= LARGEST:
            raise self._error(f"gives {given!r}, which is no number up to {LARGEST:g}")
        return Reading(value=value)

    def load(self) -> Callable[[nn.Module, InputSize], Any]:
        """The function itself.

        Raises:
            SpaceError: there is none.
        """
        name, _, function = self._path.partition(":")
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            with redirect_stdout(sys.stderr):
                module = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # whatever a module of the user's raises
            raise self._error(f"cannot be imported: {_said(error)}") from error
        found: Callable[[nn.Module, InputSize], Any] | None = getattr(module, function, None)
        if not callable(found):
            there = [key for key, value in vars(module).items() if callable(value)]
            raise self._error(f"is not there: {unknown('function', function, there)}")
        return found

    def _error(self, reason: str) -> SpaceError:
        return SpaceError(f"{self._path} {reason}", key=f"costs.{self.name}")


def _said(error: BaseException) -> str:
    """In one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
