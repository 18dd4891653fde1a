"""Multiply-accumulates of networks out of known parts: a module that has run before is looked up, not run again.

While a network runs on the meta device, each call of a module is known by what the module and everything in it is
(type, settings, shapes) and by the shapes of what it is given; from these follow the work in it and the shapes of
what it returns. A network of known blocks so costs little more than naming its modules, and an unknown block of
known layers little more than these. Knows modules, nothing of architectures.
"""

import operator
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import cache, partial
from itertools import chain, islice
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, final

import torch
from torch import Tensor, nn

from search.costs.cost import InputSize
from search.costs.products import Products, is_composite, reshapes
from spaces.twin import modules_of

MOST = 100_000  # modules and calls that are remembered, of one to two kilobytes each

_VALUES = frozenset(
    {bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format}
)
_TENSORS = frozenset({Tensor, nn.Parameter})
_WHOLE = frozenset({int})
_RECORDS = frozenset(name for name in vars(nn.Module()) if name.startswith("_"))  # what torch keeps of every module


class _Unknown(Exception):
    """What something does cannot be told from its looks."""


@final
class Parts:
    """What is known of modules and of their calls; forgotten when pickled.

    A module is looked up only where all that is in it is told by value: settings, shapes, functions without a
    memory. One with hooks inside, or with an object or a list that can change, runs each time, and what is in it
    is looked up. A network that changes itself, or the shape of a tensor in place, teaches nothing.
    """

    def __init__(self) -> None:
        self._signs: dict[Hashable, int] = {}
        self._calls: dict[Hashable, _Call] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Parts, ()

    def macs(self, model: nn.Module, input_size: InputSize) -> int:
        """Multiply-accumulates of one image [1, *input_size].

        Args:
            model: on the meta device, in evaluation mode; as before afterwards.
        """
        if len(self._signs) + len(self._calls) > MOST:
            self._forget()
        modules = modules_of(model)
        before, run = _State(modules), _Run(self._calls)
        with _looking_up(_Signs(self._signs).of_all(modules), run):
            run.on(model, input_size)
        if not (before.restored() or run.reshaped):
            return run.macs
        self._forget()
        counter = Products()
        counter.on(model, input_size)
        before.restored()
        return counter.macs

    def _forget(self) -> None:
        self._signs.clear()
        self._calls.clear()


@final
class _State:
    """All that modules hold, but for what is in lists and other objects."""

    def __init__(self, modules: Iterable[nn.Module]):
        self._holders = [kept for one in modules for kept in (one.__dict__, one._parameters, one._buffers) if kept]
        self._names, self._values = list(chain(*self._holders)), self._now()
        self._counts = list(map(len, self._holders))

    def _now(self) -> list[Any]:
        return list(chain.from_iterable(kept.values() for kept in self._holders))

    def restored(self) -> bool:
        """Brings the modules back to it; whether they were otherwise."""
        now = self._now()
        if len(now) == len(self._values) and all(map(operator.is_, now, self._values)):
            return False
        items = zip(self._names, self._values, strict=True)
        for kept, count in zip(self._holders, self._counts, strict=True):
            kept.clear()
            kept.update(islice(items, count))
        return True


class _Call:
    """What a module or an operator does with what it is given: so much work, and a result of this form.

    Attributes:
        given: which of its arguments it returns, if any.
        results: one for each time that it was called in one forward pass, since no two results are one object.
    """

    __slots__ = ("given", "macs", "results")

    def __init__(self, macs: int, given: int | None, result: Any):
        self.macs, self.given, self.results = macs, given, [result]


@final
class _Run(Products):  # type: ignore[no-untyped-call]
    """One forward pass, of which known calls are left out."""

    def __init__(self, calls: dict[Hashable, _Call]):
        super().__init__()
        self._calls = calls
        self._times: dict[Hashable, int] = {}

    def __torch_dispatch__(self, func: Any, types: Iterable[type], args: Any = (), kwargs: Any = None) -> Any:
        run = super().__torch_dispatch__
        if not _is_function(func):
            return run(func, types, args, kwargs)
        return self.call(func, lambda *args, **kwargs: run(func, types, args, kwargs), *args, **(kwargs or {}))

    def call(self, sign: Hashable, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            key = (sign, *map(_form, args), *((name, _form(value)) for name, value in kwargs.items()))
        except _Unknown:
            return forward(*args, **kwargs)
        known = self._calls.get(key)
        if known is None:
            before = self.macs
            result = forward(*args, **kwargs)
            self._learn(key, self.macs - before, args, result)
            return result
        self.macs += known.macs
        if known.given is not None:
            return args[known.given]
        times = self._times[key] = self._times.get(key, 0) + 1
        if times > len(known.results):
            known.results.append(_again(known.results[0]))
        return known.results[times - 1]

    def _learn(self, key: Hashable, macs: int, args: tuple[Any, ...], result: Any) -> None:
        try:
            _form(result)
        except _Unknown:
            return
        given = next((place for place, value in enumerate(args) if value is result), None)
        self._calls[key] = _Call(macs, given, _again(result))


@cache
def _is_function(func: Any) -> bool:
    """Whether an operator gives a tensor of its own, or what it is given first."""
    aliased = any(one.alias_info is not None for one in func._schema.returns) and torch.Tag.inplace not in func.tags
    return not (aliased or is_composite(func) or reshapes(func))


def _form(value: Any) -> Hashable:
    """What can be known of a tensor without data, or of a structure of such."""
    kind = type(value)
    if kind in _TENSORS and value.is_meta:
        return tuple(value.shape), value.stride(), value.dtype
    if kind in _VALUES:
        return kind.__name__, value
    if kind in (tuple, list, torch.Size):
        return kind.__name__, tuple(map(_form, value))
    if kind is dict:
        return kind.__name__, tuple((name, _form(one)) for name, one in value.items())
    raise _Unknown


def _again(result: Any) -> Any:
    """Another result of the same form."""
    if isinstance(result, Tensor):
        return result.detach()
    if isinstance(result, list | tuple):
        return type(result)([_again(one) for one in result])
    return {name: _again(one) for name, one in result.items()} if isinstance(result, dict) else result


@contextmanager
def _looking_up(signs: Mapping[nn.Module, int], run: _Run) -> Iterator[None]:
    """Each module asks `run` before it runs; its hooks run in any case."""
    for module, sign in signs.items():
        module.__dict__["forward"] = partial(run.call, sign, module.forward)
    try:
        yield
    finally:
        for module in signs:
            del module.__dict__["forward"]


@final
class _Signs:
    """A number for each module: the same for modules that do the same."""

    def __init__(self, known: dict[Hashable, int]):
        self._known = known
        self._found: dict[nn.Module, int | None] = {}

    def of_all(self, modules: Iterable[nn.Module]) -> dict[nn.Module, int]:
        """Without those that have to run."""
        return {module: sign for module in modules if (sign := self._of(module)) is not None}

    def _of(self, module: nn.Module) -> int | None:
        if module not in self._found:
            inside = {name: part for name, part in module._modules.items() if part is not None}
            parts = [(name, self._of(part)) for name, part in inside.items()]
            hidden = any(sign is None for _, sign in parts) or any(map(_hooked, inside.values()))
            looks = None if hidden else _looks(module)
            self._found[module] = None if looks is None else self._known.setdefault((*looks, *parts), len(self._known))
        return self._found[module]


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _looks(module: nn.Module) -> list[Any] | None:
    """Type, settings and shapes of a module itself; None where they do not tell what it does."""
    words: list[Any] = [type(module)]
    try:
        for name, value in module.__dict__.items():
            kind = type(value)
            if kind in _VALUES:
                words.append((name, kind.__name__, value))
            elif name not in _RECORDS:
                words.append((name, _setting(value)))
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                words.append((name, _form(tensor)))
    except _Unknown:
        return None
    return words


def _setting(value: Any) -> Hashable:
    """What a value that cannot change is; functions and classes are what they are."""
    kind = type(value)
    if kind is tuple and _WHOLE.issuperset(map(type, value)):
        return value  # type: ignore[no-any-return]
    if kind in (tuple, torch.Size):
        return kind.__name__, tuple(map(_setting, value))
    if isinstance(value, type | Enum):
        return value
    if kind is FunctionType and value.__closure__ is None:
        return value  # type: ignore[no-any-return]
    if kind is BuiltinFunctionType and isinstance(value.__self__, ModuleType | type | None):
        return value  # type: ignore[no-any-return]
    if kind is partial:
        return kind.__name__, _setting(value.func), _setting(value.args), _setting(tuple(value.keywords.items()))
    if kind in _VALUES or kind in _TENSORS:
        return _form(value)
    raise _Unknown
