"""How new weights spread where a layer changes its size: by the initialisation law that its model follows.

The law is read from the weights that timm's initialisation gave. Knows anatomy, nothing of choices.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from spaces.anatomy import Anatomy
from spaces.anatomy.dims import SizeOf


def gain_of(model: nn.Module, anatomy: Anatomy, size_of: SizeOf) -> Callable[[str, Sequence[int]], float]:
    """How much wider new weights spread than old ones, by the initialisation law that the model follows.

    The law of a kind of layer is the one under which its weights' standard deviations vary least: constant
    (0.02 in ViT, ConvNeXt), by fan in, by fan out (ResNet, EfficientNet), or by both.
    """
    weights = {
        f"{path}.weight": module.weight
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and f"{path}.weight" in anatomy.dims
    }
    kinds: dict[tuple[int, bool], list[str]] = defaultdict(list)
    for name, weight in weights.items():
        if not weight.is_meta and float(weight.detach().std()) > 0:
            kinds[weight.ndim, weight.shape[1] == 1].append(name)
    laws: dict[str, Callable[[Sequence[int], int], float]] = {}
    for names in kinds.values():
        spread = {
            law: _spread(
                [math.log(float(weights[n].detach().std()) / law(weights[n].shape, _groups(model, n))) for n in names]
            )
            for law in _LAWS
        }
        best = min(_LAWS, key=lambda law: spread[law]) if len(names) > 1 else _law_of_one(weights[names[0]])
        laws.update(dict.fromkeys(names, best))

    def gain(name: str, shape: Sequence[int]) -> float:
        if name not in laws:
            return 1.0
        old, groups = weights[name].shape, _groups(model, name)
        new_groups = max(1, groups * _groups_ratio(anatomy, name, size_of))
        return laws[name](shape, round(new_groups)) / laws[name](old, groups)

    return gain


def _groups_ratio(anatomy: Anatomy, name: str, size_of: SizeOf) -> float:
    """New groups over old groups of the convolution with this weight."""
    if name not in anatomy.conv_inputs:
        return 1.0
    channels, inner = anatomy.conv_inputs[name], anatomy.dims[name][1]
    new = channels.evaluate(size_of) / inner.evaluate(size_of)
    return new / (channels.find().size / inner.find().size)


def _groups(model: nn.Module, name: str) -> int:
    return int(getattr(model.get_submodule(name.rpartition(".")[0]), "groups", 1))


def _law_of_one(weight: Tensor) -> Callable[[Sequence[int], int], float]:
    """By fan in where the spread is that of LeCun (1), He (sqrt 2) or torch's default (sqrt 1/3), else constant."""
    relative = float(weight.detach().std()) / _fan_in(weight.shape, 1)
    return _fan_in if any(math.isclose(relative, k**0.5, rel_tol=0.1) for k in (1, 2, 1 / 3)) else _constant


def _spread(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values)


def _fan_in(shape: Sequence[int], groups: int) -> float:
    return 1 / math.sqrt(math.prod(shape[1:]))


def _fan_out(shape: Sequence[int], groups: int) -> float:
    return 1 / math.sqrt(shape[0] // groups * math.prod(shape[2:]))


def _fan_sum(shape: Sequence[int], groups: int) -> float:
    return 1 / math.sqrt((shape[0] + shape[1]) * math.prod(shape[2:]))


def _constant(shape: Sequence[int], groups: int) -> float:
    return 1.0


_LAWS = (_fan_in, _fan_out, _fan_sum, _constant)
