"""Put a module after another one without anybody noticing: what the first one has can still be reached."""

from collections.abc import Iterator
from typing import Any

from torch import nn


class After(nn.Sequential):
    """One module after another. Attributes of the first one stay visible, as code that reads `conv.weight` expects."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            first = self.__dict__.get("_modules", {}).get("0")
            if first is None or name.isdigit():  # while it is being made, copied or unpickled; parts are its own
                raise
            return getattr(first, name)


def chained(module: nn.Module) -> Iterator[nn.Module]:
    """What follows each other where a module was, the last first."""
    if not isinstance(module, After):
        yield module
        return
    for part in reversed(module):
        yield from chained(part)


def append(model: nn.Module, path: str, module: nn.Module) -> None:
    """Let the output of the module at `path` go through `module`; an empty slot (nn.Identity) is filled."""
    end = model.get_submodule(path)
    place(model, path, module if type(end) is nn.Identity else After(end, module))


def place(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path of the untouched backbone, also where what is around it has something after it now."""
    *parents, name = path.split(".")
    owner = model
    for part in parents:
        owner = getattr(_holder(owner, part), part)
    setattr(_holder(owner, name), name, module)


def _holder(module: nn.Module, name: str) -> nn.Module:
    while isinstance(module, After) and name not in module._modules:
        module = module[0]
    return module
