"""Fold static scales into the weights before them: the same outputs, no operator more than without scales.

Where the weights are is read from one forward pass (`spaces.fold.flow`). Knows scales, nothing of architectures.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from spaces.anatomy.meta import InputSize, meta_image, on_meta
from spaces.anatomy.trace import Trace
from spaces.fold.flow import Flow
from spaces.techniques.scaling.ends import remove_own
from spaces.techniques.scaling.scales import Static, own_scales
from spaces.techniques.wrapping import After


def fold(model: nn.Module, input_size: InputSize | None = None) -> list[str]:
    """Fold every static scale of `model`, learned, fixed or its own, in place; for inference.

    In evaluation mode the outputs stay the same up to rounding. A scale that is folded leaves the model.

    Args:
        input_size: (C, H, W) of an image; by default what the model itself says.

    Returns:
        What could not be folded, a line each: its place and why.
    """
    image = meta_image(model, input_size)
    shadow = on_meta(model)
    static = {path: module for path, module in model.named_modules() if isinstance(module, Static)}
    flow = Flow(shadow, image, watched=static)
    left: list[str] = []
    for path in sorted(static, key=flow.order):
        reason = flow.fold_module(model, path, static[path].factor(image))
        if reason is None:
            _take_out(model, path)
        else:
            left.append(f"{static[path].place}: {reason}")
    own = own_scales(Trace(shadow, image), shadow)
    return [*left, *_fold_own(model, list(own), flow, shadow, image)]


def fold_own(model: nn.Module, names: Sequence[str], image_size: int) -> list[str]:
    """Fold scales of the model's own, by name, in place; returns what could not be folded, and why."""
    kernel = next(parameter for parameter in model.parameters() if parameter.ndim == 4)
    image = meta_image(model, (kernel.shape[1], image_size, image_size))
    shadow = on_meta(model)
    return _fold_own(model, names, Flow(shadow, image), shadow, image)


def _fold_own(model: nn.Module, names: Sequence[str], flow: Flow, shadow: nn.Module, image: Tensor) -> list[str]:
    reasons = {name: flow.fold_parameter(model, name) for name in names}
    remove_own(model, [name for name, reason in reasons.items() if reason is None], shadow, image)
    return [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]


def _take_out(model: nn.Module, path: str) -> None:
    """Leave the network as it is without the scale at `path`: `After(layer, scale)` is the layer again."""
    parent, _, name = path.rpartition(".")
    if name == "1" and isinstance(model.get_submodule(parent), After):
        model.set_submodule(parent, model.get_submodule(f"{parent}.0"))
    else:
        model.set_submodule(path, nn.Identity())
