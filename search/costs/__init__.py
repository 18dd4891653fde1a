"""What a network costs, known before it is trained: one file a cost, one line in COSTS.

    from search.costs import macs, params
    macs(model, (3, 224, 224)), params(model)

Knows modules and input sizes, nothing of architectures, data or the search.
"""

from collections.abc import Mapping

from search.costs.cost import Cost, InputSize
from search.costs.latency import latency_ms
from search.costs.macs import Macs, macs
from search.costs.params import Params, params

__all__ = ["COSTS", "Cost", "InputSize", "Macs", "Params", "latency_ms", "macs", "params"]

COSTS: Mapping[str, Cost] = {cost.name: cost for cost in (Params(), Macs())}
