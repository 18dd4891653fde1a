"""The weights of one network for another of the same backbone, tensor by tensor, by name.

A tensor whose axes are the traced ones follows its channels: of a wider one the important channels are kept, in a
wider one what is beyond the old channels stays new. Another one is taken over where its shape is equal. What has no
counterpart stays new. Statistics of norms are not taken over: they are found anew. Knows anatomy, nothing of choices.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from spaces.anatomy import Anatomy
from spaces.anatomy.dims import Dim, SizeOf
from spaces.resizing.importance import Scores, most_important
from spaces.resizing.resize import indices, inherited

Follow = Callable[[str, Tensor, Tensor], Tensor | None]
"""The new tensor with what it continues of the old one, by the name of both; None where its axes are not followed."""


def take_over(model: nn.Module, donor: nn.Module, follow: Follow) -> None:
    """Replace weights of `model`, in place, by those of `donor` that they continue."""
    old = dict(donor.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # of blocks that share, the first one's
            if name in old:
                given = old[name].detach().to(parameter.device, parameter.dtype)
                value = follow(name, given, parameter)
                if value is None and given.shape == parameter.shape:
                    value = given
                if value is not None:
                    parameter.copy_(value)


def by_shape(name: str, old: Tensor, new: Tensor) -> None:
    """Follows nothing: for networks whose channels have nothing to do with each other."""


def by_channels(anatomy: Anatomy, before: SizeOf, now: SizeOf, importance: Scores) -> Follow:
    """Follows the channels of an anatomy.

    Args:
        before, now: the size that each leaf had and has.
        importance: of the old channels, by leaf.
    """
    kept: Mapping[Dim, Tensor] = {
        leaf: most_important(score, now(leaf)) for leaf, score in importance.items() if now(leaf) < before(leaf)
    }

    def follow(name: str, old: Tensor, new: Tensor) -> Tensor | None:
        dims = anatomy.dims.get(name, [])
        if not old.ndim == new.ndim == len(dims) or all(dim.is_fixed for dim in dims):
            return None
        for dim, *sizes in zip(dims, old.shape, new.shape, strict=True):
            traced_so = [dim.evaluate(before), dim.evaluate(now)]
            if len(set(sizes)) > 1 if dim.is_fixed else sizes != traced_so:
                return None
        return inherited(old, new, [indices(dim, now, kept, before) for dim in dims])

    return follow
