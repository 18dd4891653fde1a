"""One forward pass as a graph of operators, in which factors are moved back into weights.

Knows modules and operators (`spaces.fold.moves`), nothing of what a scale is.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from spaces.anatomy.operators import aten
from spaces.fold.moves import MULTIPLY, Stuck, Value, absorbed, root


class Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs `model` on `image`, both on the meta device, and writes every operator down.

    Args:
        watched: the modules that `fold_module` will be asked for.
    """

    def __init__(self, model: nn.Module, image: Tensor, *, watched: Collection[str] = ()):
        super().__init__()  # type: ignore[no-untyped-call]
        self._values: dict[int, Value] = {}
        self._made: list[Value] = []
        self._alive: list[Tensor] = []
        self._calls: dict[str, list[tuple[Value, Value]]] = {path: [] for path in watched}
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._order: list[str] = []
        self._given: dict[str, Value] = {}
        hooks = [model.get_submodule(path).register_forward_pre_hook(self._entering(path)) for path in watched]
        hooks += [model.get_submodule(path).register_forward_hook(self._leaving(path)) for path in watched]
        try:
            with torch.no_grad(), self:
                output = model(image)
        finally:
            for hook in hooks:
                hook.remove()
        for tensor in tree_flatten(output)[0]:
            self._value(tensor).uses += 1

    def _entering(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._given[path] = self._value(args[0])  # here, as the call may change it in place

        return hook

    def _leaving(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            self._calls[path].append((self._given[path], self._value(output)))
            self._order.append(path)

        return hook

    def order(self, path: str) -> int:
        """The place of a watched module in order of execution."""
        return self._order.index(path) if path in self._order else len(self._order)

    def _value(self, tensor: Tensor) -> Value:
        if id(tensor) not in self._values:
            self._alive.append(tensor)
            self._values[id(tensor)] = Value(tuple(tensor.shape), name=self._names.get(id(tensor)))
        return self._values[id(tensor)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        values = tree_map_only(Tensor, self._value, args)
        for item in tree_flatten((values, tree_map_only(Tensor, self._value, kwargs)))[0]:
            if isinstance(item, Value):
                item.uses += 1
        result = func(*args, **(kwargs or {}))
        for index, tensor in enumerate(item for item in tree_flatten(result)[0] if isinstance(item, Tensor)):
            self._alive.append(tensor)
            self._values[id(tensor)] = Value(tuple(tensor.shape), func.overloadpacket, tuple(values), index)
            self._made.append(self._values[id(tensor)])
        return result

    def fold_module(self, model: nn.Module, path: str, factor: Tensor) -> str | None:
        """Move the factor by which a watched module multiplies into the weights of `model`; why not, if it cannot be.

        Args:
            factor: in a shape that broadcasts to the module's input.
        """
        calls = self._calls[path]
        if len(calls) != 1:
            return f"it runs {len(calls)} times in a forward pass"
        return self._fold(model, *calls[0], factor)

    def fold_parameter(self, model: nn.Module, name: str) -> str | None:
        """The same for a parameter of `model` that multiplies."""
        found = [
            (value, data, factor)
            for value in self._made
            if value.op in MULTIPLY and all(isinstance(operand, Value) for operand in value.args)
            for data, factor in (value.args, value.args[::-1])
            if root(factor).name == name
        ]
        if len(found) != 1:
            return f"it multiplies {len(found)} times in a forward pass"
        product, data, factor = found[0]
        return self._fold(model, data, product, model.get_parameter(name).detach().reshape(factor.shape))

    def _fold(self, model: nn.Module, data: Value, product: Value, factor: Tensor) -> str | None:
        factor = factor.detach().reshape((1,) * (len(data.shape) - factor.ndim) + tuple(factor.shape))
        try:
            edits = absorbed(data, factor)
        except Stuck as reason:
            return str(reason)
        with torch.no_grad():
            for name, change in edits:
                model.get_parameter(name).mul_(change)
        product.op, product.args, product.index = aten.alias, (data,), 0
        return None
