"""Small networks with layer attention, of every layout that a block may put out."""

from typing import Any

import torch
from torch import Tensor, nn

from spaces import Architecture, build
from spaces.anatomy import anatomy_of
from spaces.techniques.layer_attention.mrla import BaseAttention, LightAttention

SMALL = {"layers": [3, 2, 2], "channels": [8, 8, 8]}
TOKENS = {"img_size": 32, "patch_size": 8, "depth": 7, "embed_dim": 48}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("cifar_resnet20", SMALL),
    "convnext": ("convnext_atto", {"depths": [1, 1, 3, 1], "dims": [8, 16, 24, 32]}),
    "mobilenet": ("mobilenetv3_small_050", {}),
    "vit": ("vit_tiny_patch16_224", TOKENS),
    "mixer": ("mixer_s32_224", {"img_size": 64}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]},
    ),
}


def network(family: str, seed: int = 0, in_chans: int = 3, **choices: object) -> nn.Module:
    backbone, kwargs = FAMILIES[family]
    torch.manual_seed(seed)
    return build(Architecture(backbone=backbone, kwargs=kwargs, choices=choices), 4, in_chans)


def images_for(family: str, in_chans: int = 3) -> Tensor:
    side = anatomy_of(*FAMILIES[family]).image_size
    return torch.randn(2, in_chans, side, side, generator=torch.Generator().manual_seed(1))


def attentions(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, BaseAttention | LightAttention)]


def awake(model: nn.Module) -> nn.Module:
    """Nothing at zero: gains that start there would hide what comes before them."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.5)
    return model
