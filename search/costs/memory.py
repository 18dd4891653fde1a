"""How memory is counted: the bytes of all tensors that live at one moment, and the most that they ever were.

What runs is the network's own code, on tensors that have sizes and no data, so that any machine counts the same
and the largest network takes no memory. Each storage counts from the operation that makes it until the last
tensor, view or saved activation lets go of it; one that several share counts once. It is the number that torch's own
`torch.distributed._tools.MemTracker` finds in several times the time, that of a run with data on a CPU, and that of
`torch.cuda.max_memory_allocated` but for what the allocator rounds up (to 512 bytes a tensor), copies into other
memory formats, and what a kernel works with while it runs. It may be a little more where a shape function of torch's
gives other strides than the kernel: the way back through the layer norms of a MaxViT adds a copy, 0.3%.

Knows modules and tensors, nothing of what they are for.
"""

import weakref
from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spaces.anatomy.meta import on_meta


@final
class Memory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is made under it, and what is there already.

    Args:
        held: tensors from before.

    Attributes:
        live_bytes: of the storages that somebody holds now.
        peak_bytes: the highest `live_bytes` since the start, or since `restart`.
    """

    def __init__(self, held: Iterable[Tensor]):
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = 0
        self._sizes: dict[int, int] = {}  # bytes, by the identity of a living storage
        for tensor in held:
            self._see(tensor)

    def restart(self) -> None:
        self.peak_bytes = self.live_bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return made

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()  # one Python object as long as anyone holds the memory, also in C++
        key = id(storage)
        if key not in self._sizes:
            weakref.finalize(storage, self._forget, key)
        self.live_bytes += storage.nbytes() - self._sizes.get(key, 0)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self._sizes[key] = storage.nbytes()

    def _forget(self, key: int) -> None:
        self.live_bytes -= self._sizes.pop(key)


def without_data() -> FakeTensorMode:
    """Tensors made under it have no data, and yet all that the CPU would choose by: fused attention, fused steps."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def hollow(model: nn.Module, *, training: bool) -> nn.Module:
    """A copy to run under `without_data`; tied tensors stay tied, and `model` may be on any device, meta included."""
    copy = on_meta(model).train(training)
    twins: dict[int, Tensor] = {}
    tables: list[dict[str, Any]] = [
        table for module in copy.modules() for table in (module._parameters, module._buffers)
    ]
    for table in tables:
        for name, tensor in table.items():
            if tensor is not None:
                table[name] = twins.setdefault(id(tensor), _twin(tensor))
    return copy


def _twin(tensor: Tensor) -> Tensor:
    twin = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    return nn.Parameter(twin, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else twin


def tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers."""
    return [*model.parameters(), *model.buffers()]
