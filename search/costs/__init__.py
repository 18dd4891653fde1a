"""What a network costs, known before it is trained: one file a cost, one line in COSTS.

    from search.costs import macs, params
    macs(model, (3, 224, 224)), params(model)

Knows modules and input sizes, nothing of architectures, data or the search.
"""

from collections.abc import Callable, Mapping

from torch import nn
from torch.optim import Optimizer

from search.costs.cost import Cost, InputSize
from search.costs.function import Function
from search.costs.latency_ms import latency_ms
from search.costs.macs import Macs, macs
from search.costs.params import Params, params
from spaces.schema import CostEntry

__all__ = ["COSTS", "Cost", "Function", "InputSize", "Macs", "Params", "latency_ms", "macs", "made", "params"]


def made(name: str, entry: CostEntry, *, batch: int, images: int, optimizer: Callable[[nn.Module], Optimizer]) -> Cost:
    """A cost with the setting that a space file gives it.

    Args:
        batch: of a training step, where the setting does not say it.
        images: in the training split.
        optimizer: of the recipe.
    """
    kinds: dict[str, Callable[..., Cost]] = {"params": Params, "macs": Macs}
    return kinds[entry.cost](name)


COSTS: Mapping[str, Cost] = {cost.name: cost for cost in (Params(), Macs())}
