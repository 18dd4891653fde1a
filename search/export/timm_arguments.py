"""What timm's own arguments can say of a network, found by trying.

Arguments are read off the network, and count where a network of timm's then has the same tensors, by name and shape,
and gives the same outputs. Knows timm and networks, nothing of files.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from timm.models import ConvNeXt, ResNet, SwinTransformer, VisionTransformer, model_entrypoint
from torch import Tensor, nn

from spaces import Architecture, build
from spaces.anatomy.meta import InputSize
from spaces.simplify import Simple, simplify

CLOSE = 1e-3  # of the largest output: what tells a candidate apart; the export itself is compared more closely
_NORMS = ("batchnorm2d", "layernorm2d", "layernorm", "groupnorm", "groupnorm1", "rmsnorm2d", "rmsnorm")

Arguments = dict[str, Any]


def said(
    module: nn.Module, simple: Simple, architecture: Architecture, size: InputSize
) -> tuple[nn.Module, Arguments, tuple[str, ...]] | None:
    """A network of plain timm with the outputs of `module`, its arguments, and what was done to come to them.

    Tried are the simplified network, the simplified one of what sharing no longer ties, and the network as it is.
    """
    canonical = architecture.canonical
    if not model_entrypoint(canonical.backbone).__module__.startswith("timm."):
        return None
    untied = "weights that are shared stand there once for each use"
    ties = len(list(module.parameters())) < len(list(module.named_parameters(remove_duplicate=False)))
    tied = (untied,) if ties else ()
    yet: list[Callable[[], tuple[nn.Module, tuple[str, ...]]]] = [lambda: (simple.model, simple.notes + tied)]
    if ties:
        again = simplify(_untied(module), architecture, size)
        yet.append(lambda: (again.model, again.notes + tied))
    yet.append(lambda: (module, tied))
    for make in yet:
        candidate, notes = make()
        if found := _spoken(candidate, str(canonical.backbone), dict(canonical.kwargs), size):
            return *found, notes
    return None


def _untied(model: nn.Module) -> nn.Module:
    """A copy in which each use of a tensor has one of its own."""
    own, seen = copy.deepcopy(model), set[int]()
    for path, module in list(own.named_modules(remove_duplicate=False)):
        if path and id(module) in seen:
            module = copy.deepcopy(module)
            own.set_submodule(path, module)
        seen.add(id(module))
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
            seen.add(id(parameter))
    return own


def _spoken(module: nn.Module, name: str, given: Arguments, size: InputSize) -> tuple[nn.Module, Arguments] | None:
    """timm's network with the tensors of `module` and the same outputs, and its arguments; None where there is none.

    An attempt is kept where fewer tensors differ with it. Norms may have the same tensors and other axes: each is run.
    """
    state = module.state_dict()
    image = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = copy.deepcopy(module).eval()(image)
    classes, arguments = wanted.shape[1], given
    least = _differing(_made(name, given, classes, size, "meta"), state)
    for attempt in _attempts(module):
        if least and (now := _differing(_made(name, arguments | attempt, classes, size, "meta"), state)) < least:
            arguments, least = arguments | attempt, now
    for norm in ({}, *({"norm_layer": norm} for norm in _NORMS)):
        if _differing(_made(name, arguments | norm, classes, size, "meta"), state) == 0:
            network = _made(name, arguments | norm, classes, size, "cpu")
            assert network is not None
            network.load_state_dict({key: tensor.detach().clone() for key, tensor in state.items()})
            if _equal(network, image, wanted):
                return network, arguments | norm
    return None


def _equal(network: nn.Module, image: Tensor, wanted: Tensor) -> bool:
    try:
        with torch.no_grad():
            apart = (network.eval()(image) - wanted).abs().max()
    except RuntimeError:  # a norm of other axes
        return False
    return bool(apart <= CLOSE * wanted.abs().max())


def _made(name: str, arguments: Mapping[str, Any], classes: int, size: InputSize, device: str) -> nn.Module | None:
    """As `timm.create_model` makes it from a folder, where None counts as given; None where it cannot."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            model: nn.Module = model_entrypoint(name)(num_classes=classes, in_chans=size[0], **arguments)
    except Exception:  # whatever a constructor raises for arguments that it does not have, or that do not fit together
        return None
    return model


def _differing(model: nn.Module | None, state: Mapping[str, Tensor]) -> float:
    """How many tensors one has and the other has not, by name and shape."""
    if model is None:
        return float("inf")
    there = {(name, tensor.shape) for name, tensor in model.state_dict().items()}
    return len(there ^ {(name, tensor.shape) for name, tensor in state.items()})


def _attempts(module: nn.Module) -> Iterator[Arguments]:
    """Arguments of timm's that may say what was changed, those that go together in one."""
    yield {"ls_init_value": None}
    yield {"init_values": None}
    yield {"init_values": 1e-5}
    with suppress(AttributeError):  # of a block of which not all is left
        yield from _sizes(module)


def _sizes(module: nn.Module) -> Iterator[Arguments]:
    if isinstance(module, ResNet):
        blocks = [stage[-1] for stage in (module.layer1, module.layer2, module.layer3, module.layer4)]
        widths = [(block.conv3 if block.expansion > 1 else block.conv2).out_channels for block in blocks]
        channels = [width // block.expansion for width, block in zip(widths, blocks, strict=True)]
        yield {"channels": channels}
        if isinstance(module.conv1, nn.Sequential):
            yield {"channels": channels, "stem_width": module.conv1[3].out_channels}
    if isinstance(module, ConvNeXt):
        yield {"dims": [stage.blocks[-1].conv_dw.out_channels for stage in module.stages]}
    if isinstance(module, VisionTransformer):
        block, width = module.blocks[0], module.patch_embed.proj.out_channels
        hidden = block.mlp.fc1.out_features / width
        yield {"embed_dim": width, "num_heads": block.attn.num_heads}
        yield {"embed_dim": width, "num_heads": block.attn.num_heads, "mlp_ratio": hidden}
    if isinstance(module, SwinTransformer):
        heads = [stage.blocks[0].attn.num_heads for stage in module.layers]
        yield {"embed_dim": module.patch_embed.proj.out_channels, "num_heads": heads}


def refusal(architecture: Architecture, classes: int, size: InputSize) -> str:
    """Which choices, each alone, are already more than timm's arguments can say."""
    canonical = architecture.canonical
    if not model_entrypoint(canonical.backbone).__module__.startswith("timm."):
        return f"{canonical.backbone} is a network of archsearch, which plain timm does not have; give another --format"
    ways = []
    for name, choice in canonical.choices.items():
        alone = Architecture(backbone=canonical.backbone, kwargs=dict(canonical.kwargs), choices={name: choice})
        with torch.random.fork_rng(devices=[]):
            network = build(alone, classes, size[0]).eval()
        if said(network, simplify(network, alone, size), alone, size) is None:
            ways.append(f"{name} {choice}")
    reason = ", ".join(ways) or ", ".join(f"{name} {choice}" for name, choice in canonical.choices.items())
    return (
        f"the arguments of timm's {canonical.backbone} cannot say {architecture.label}; in the way: {reason};"
        " give another --format (allowed for every architecture: safetensors, onnx, pt2)"
    )
