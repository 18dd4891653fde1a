"""One small model of every family that a technique must know how to treat, as timm makes it.

A new family is one line here. Sizes are the smallest at which the family still is itself: two or more stages,
a stage of two or more blocks.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from spaces import Architecture, SpaceError, build
from spaces.anatomy import Anatomy, anatomy_of

CLASSES, IMAGES = 4, 8
_CHANNELS = {"layers": [1, 2, 1, 1], "channels": [16, 24, 32, 48]}
_STAGES = {"depths": [1, 1, 2, 1], "dims": [16, 32, 48, 64]}
_TOKENS = {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 48}


@dataclass(frozen=True)
class Family:
    """A backbone with the side of the images that the tests feed it."""

    name: str
    backbone: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    side: int = 64

    def architecture(self, **choices: Any) -> Architecture:
        return Architecture(backbone=self.backbone, kwargs=self.kwargs, choices=choices)

    @property
    def anatomy(self) -> Anatomy:
        return anatomy_of(self.backbone, self.kwargs)

    def network(self, seed: int = 0, **choices: Any) -> nn.Module:
        torch.manual_seed(seed)
        return build(self.architecture(**choices), CLASSES)

    def batch(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(1)
        images = torch.randn(IMAGES, 3, self.side, self.side, generator=generator)
        return images, torch.arange(IMAGES) % CLASSES


def explained(error: SpaceError) -> None:
    """A refusal says why, in a sentence."""
    assert len(error.reason) > 20, error.reason


FAMILIES = (
    Family("resnet", "resnet18", _CHANNELS),
    Family("resnext", "resnext50_32x4d", {**_CHANNELS, "cardinality": 8}),
    Family("wide_resnet", "wide_resnet50_2", _CHANNELS),
    Family("se_resnet", "seresnet18", _CHANNELS),
    Family("regnet", "regnety_002", {"depth": 6, "w0": 16, "wa": 16.0, "wm": 2.0}),
    Family("convnext", "convnext_atto", _STAGES),
    Family("convnextv2", "convnextv2_atto", _STAGES),
    Family("efficientnet", "test_efficientnet"),
    Family("mobilenetv2", "mobilenetv2_035", {"depth_multiplier": 0.5}),
    Family("mobilenetv3", "mobilenetv3_small_050", {"depth_multiplier": 0.5}),
    Family("vit", "vit_tiny_patch16_224", _TOKENS, 32),
    Family("deit", "deit3_small_patch16_224", {**_TOKENS, "num_heads": 3}, 32),
    Family(
        "swin",
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]},
        32,
    ),
    Family("nfnet", "test_nfnet"),
    Family("repvgg", "repvgg_a0"),
    Family("byobnet", "test_byobnet"),
    Family("densenet", "densenet121", {"block_config": [2, 3], "growth_rate": 8}),
    Family("vgg", "vgg11_bn", {"mlp_ratio": 0.0625}),
    Family("mixer", "mixer_s32_224", {"img_size": 64, "mlp_ratio": [0.25, 0.5]}),
    Family(
        "coatnet",
        "coatnet_pico_rw_224",
        {"img_size": 64, "depths": [1, 1, 2, 1], "embed_dim": [16, 32, 32, 64], "stem_width": 16},
    ),
    Family("maxvit", "maxvit_pico_rw_256", {"img_size": 64, "depths": [1, 2], "embed_dim": [32, 64], "stem_width": 16}),
    Family("edgenext", "edgenext_xx_small", {"depths": [1, 2, 2, 1], "dims": [16, 24, 32, 48]}),
    Family("efficientformer", "efficientformer_l1", {"depths": [1, 1, 1, 2], "embed_dims": [16, 24, 32, 48]}, 224),
)
