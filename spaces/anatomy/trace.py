"""One forward pass on the meta device, watched: how sizes depend on each other, where branches are added.

Reads any module that runs on meta tensors; knows tensors and `spaces.anatomy.dims`, nothing of timm. An operator
without a rule fixes the sizes that go in, which is always safe, and is noted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from spaces.anatomy.dims import Dim, DimError
from spaces.anatomy.operators import aten, dims_after

_LAYERS = {aten.convolution, aten.mm, aten.addmm, aten.bmm, aten.matmul, aten.linear}
_ALIASES = {
    aten.view, aten._unsafe_view, aten.reshape, aten.permute, aten.transpose, aten.clone, aten.alias,
    aten.unsqueeze, aten.squeeze, aten.detach, aten._to_copy, aten.contiguous,
}  # fmt: skip
_SOFTMAX = {aten._softmax, aten._safe_softmax}


@dataclass
class Facts:
    """What is known of one tensor.

    Attributes:
        dims: one `Dim` an axis.
        weighted: the fewest weighted layers between the input and it; None where only parameters went in.
        parameter: the one parameter it is made of, where it is made of nothing else.
        producers: modules that returned it, scaled or not since, the innermost first.
        scale: the parameter that it was last multiplied by, if nothing but aliases and constants came after.
        through: every parameter on any way from the input to it.
        product: whether it is a product of two tensors of data, reshaped or changed value by value since.
    """

    dims: list[Dim]
    weighted: int | None = None
    parameter: str | None = None
    producers: list[str] = field(default_factory=list)
    scale: str | None = None
    through: frozenset[str] = frozenset()
    product: bool = False


@dataclass(frozen=True, kw_only=True)
class Addition:
    """A branch added to a shortcut inside the forward of `module`.

    Attributes:
        producers: the modules whose output is the branch as it is added, the innermost first.
        scale: the name of the model's own scale at the end of the branch, if it has one.
        dims: the dimensions of the sum.
        parameters: those that the branch goes through and the shortcut does not.
        shortcut: the modules that put out the shortcut, the innermost first; none where it is the input of `module`.
    """

    module: str
    producers: tuple[str, ...]
    scale: str | None
    dims: tuple[Dim, ...]
    parameters: frozenset[str]
    shortcut: tuple[str, ...]


class Trace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs `model` once and keeps what it saw.

    Attributes:
        dims: for every parameter and buffer that was used, its dimensions.
        additions: the residual additions, in order of execution.
        order: modules by their first call.
        inputs: the dimensions of the first tensor that a module was given in its first call.
        outputs: the dimensions of what a module returned in its first call, where that was one tensor.
        attentions: modules that turn products of data into weights by a softmax, the innermost with parameters.
        notes: operators that had no rule, and sizes that could not be followed.
    """

    def __init__(self, model: nn.Module, image: Tensor):
        super().__init__()  # type: ignore[no-untyped-call]
        self.dims: dict[str, list[Dim]] = {}
        self.conv_inputs: dict[str, Dim] = {}
        self.additions: list[Addition] = []
        self.order: list[str] = []
        self.inputs: dict[str, tuple[Dim, ...]] = {}
        self.outputs: dict[str, tuple[Dim, ...]] = {}
        self.attentions: set[str] = set()
        self.notes: list[str] = []
        self._facts: dict[int, Facts] = {}
        self._weighty = {path for path, module in model.named_modules() if any(True for _ in module.parameters())}
        self._alive: list[Tensor] = []
        self._stack: list[str] = []
        self._names = {id(t): name for name, t in [*model.named_parameters(), *model.named_buffers()]}
        self._know(image, Facts([Dim(size, fixed=True) for size in image.shape], weighted=0))
        hooks = []
        for name, module in model.named_modules():
            hooks.append(module.register_forward_pre_hook(self._entering(name)))
            hooks.append(module.register_forward_hook(self._leaving(name)))
        try:
            with torch.no_grad(), self:
                output = model(image)
        finally:
            for hook in hooks:
                hook.remove()
        for tensor in tree_flatten(output)[0]:
            for dim in self.facts(tensor).dims:
                dim.fix()

    def _entering(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            self._stack.append(name)
            if name not in self.order:
                self.order.append(name)
            if args and isinstance(args[0], Tensor):
                self.inputs.setdefault(name, tuple(self.facts(args[0]).dims))

        return hook

    def _leaving(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._stack.pop()
            if isinstance(output, Tensor):
                self.facts(output).producers.append(name)
                self.outputs.setdefault(name, tuple(self.facts(output).dims))

        return hook

    def _know(self, tensor: Tensor, facts: Facts) -> Facts:
        self._alive.append(tensor)
        self._facts[id(tensor)] = facts
        return facts

    def facts(self, tensor: Tensor) -> Facts:
        """What is known of a tensor; a parameter met for the first time gets fresh dimensions."""
        if id(tensor) in self._facts:
            return self._facts[id(tensor)]
        name = self._names.get(id(tensor))
        dims = [Dim(size, fixed=name is None) for size in tensor.shape]
        if name is not None:
            self.dims[name] = dims
        through = frozenset() if name is None else frozenset([name])
        return self._know(tensor, Facts(dims, parameter=name, through=through))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [item for item in tree_flatten((args, kwargs))[0] if isinstance(item, Tensor)]
        outputs = [item for item in tree_flatten(result)[0] if isinstance(item, Tensor)]
        known = [self.facts(tensor) for tensor in inputs]
        if func.overloadpacket is aten.convolution:
            weight = known[1].parameter or f"{self._stack[-1] if self._stack else ''}.weight"  # or made from it
            self.conv_inputs[weight] = known[0].dims[1]
        if func.overloadpacket in _SOFTMAX and known[0].product:
            self.attentions.add(next((path for path in reversed(self._stack) if path in self._weighty), ""))
        if func.overloadpacket in (aten.add, aten.add_) and len(known) == 2:
            self._addition(known, inputs)
        try:
            dims = dims_after(func, args, [fact.dims for fact in known], outputs)
        except DimError as error:
            self.notes.append(f"{func} in {self._stack[-1] if self._stack else 'the model'}: {error}")
            for dim in (dim for fact in known for dim in fact.dims):
                dim.fix()
            dims = [[Dim(size, fixed=True) for size in tensor.shape] for tensor in outputs]
        for tensor, axes in zip(outputs, dims, strict=True):
            self._know(tensor, self._heritage(func, Facts(axes), known, inputs))
        return result

    def _heritage(self, func: Any, facts: Facts, known: Sequence[Facts], inputs: Sequence[Tensor]) -> Facts:
        """Fill in what the output inherits beside its dimensions."""
        facts.through = frozenset().union(*(fact.through for fact in known))
        facts.product = any(fact.product for fact in known) and torch.Tag.pointwise in func.tags
        if func.overloadpacket in _ALIASES:
            facts.product = known[0].product
        elif func.overloadpacket in (aten.bmm, aten.matmul):
            facts.product = all(fact.weighted is not None for fact in known)
        depths = [fact.weighted for fact in known if fact.weighted is not None]
        origins = {fact.parameter for fact in known}
        if not depths:
            facts.parameter = origins.pop() if len(origins) == 1 else None
            return facts
        weights = [tensor for tensor, fact in zip(inputs, known, strict=True) if fact.weighted is None]
        layer = func.overloadpacket in _LAYERS and any(weight.ndim >= 2 for weight in weights)
        facts.weighted = min(depths) + layer
        if func.overloadpacket in (aten.mul, aten.mul_) and len(depths) == 1:
            data = next(fact for fact in known if fact.weighted is not None)
            facts.scale = next((fact.parameter for fact in known if fact.weighted is None), data.scale)
            facts.producers = list(data.producers)
        elif func.overloadpacket in _ALIASES:
            facts.scale = known[0].scale
        return facts

    def _addition(self, known: Sequence[Facts], inputs: Sequence[Tensor]) -> None:
        one, two = known
        if one.weighted is None or two.weighted is None or one.weighted == two.weighted:
            return
        if inputs[0].shape != inputs[1].shape or inputs[0].ndim < 3:
            return
        branch, shortcut = (one, two) if one.weighted > two.weighted else (two, one)
        place = self._stack[-1] if self._stack else ""
        self.additions.append(
            Addition(
                module=place,
                producers=tuple(branch.producers),
                scale=branch.scale,
                dims=tuple(branch.dims),
                parameters=branch.through - shortcut.through,
                shortcut=tuple(path for path in shortcut.producers if path.startswith(f"{place}.")),
            )
        )
