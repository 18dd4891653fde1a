"""A cost of the user's own: a function of theirs, named in the space file. It runs code, so it has to be allowed."""

import importlib
import math
import os
import sys
from collections.abc import Callable
from typing import Any, final

from torch import nn

from search.costs.cost import InputSize, Reading
from spaces import InputError
from spaces.errors import unknown


@final
class Function:
    """`function(model, (channels, height, width))` gives a number; the model is on the meta device.

    It is imported when it is first called, in each process anew: from what is installed, else from the working
    directory.

    Args:
        path: `package.module:function`.
    """

    unit, timed = "of your own", False

    def __init__(self, name: str, path: str):
        self.name, self._path, self._where = name, path, f"costs.{name}: {path}"

    def __call__(self, model: nn.Module, input_size: InputSize) -> Reading:
        """
        Raises:
            InputError: there is no such function, it fails, or it does not give a finite number.
        """
        try:
            value = float(self.load()(model, input_size))
        except InputError:
            raise
        except Exception as error:  # whatever a function of the user's raises
            raise InputError(f"{self._where} fails: {type(error).__name__}: {error}") from error
        if not math.isfinite(value):
            raise InputError(f"{self._where} gives {value}, which is no finite number")
        return Reading(value=value)

    def load(self) -> Callable[[nn.Module, InputSize], Any]:
        """The function itself.

        Raises:
            InputError: there is none.
        """
        name, _, function = self._path.partition(":")
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            module = importlib.import_module(name)
        except Exception as error:  # whatever a module of the user's raises
            raise InputError(f"{self._where} cannot be imported: {type(error).__name__}: {error}") from error
        found: Callable[[nn.Module, InputSize], Any] | None = getattr(module, function, None)
        if not callable(found):
            there = [key for key, value in vars(module).items() if callable(value)]
            raise InputError(f"{self._where}: {unknown('function', function, there)}")
        return found
