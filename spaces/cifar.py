"""Bottleneck ResNets for images of 32 x 32 as timm models: `cifar_resnet20`, `cifar_resnet56`, `cifar_resnet110`.

Importing this module adds them to timm's registry, so that `timm.create_model` and all that is built on it know
them in every process that imports `spaces`. Knows timm, nothing of anatomies or techniques.
"""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

__all__ = ["CifarResNet", "cifar_resnet20", "cifar_resnet56", "cifar_resnet110"]

_DEPTHS = (20, 56, 110)


class CifarResNet(ResNet):  # type: ignore[misc]
    """ResNet of depth 9n + 2 for small images: 1512.03385, section 4.2, with bottlenecks in place of pairs.

    A 3x3 stem without pooling, then three stages of n bottlenecks with 16, 32 and 64 planes (times 4 at the end of
    a bottleneck) at strides 1, 2 and 4. [N, in_chans, H, W] -> [N, num_classes].

    Args:
        layers: bottlenecks of each stage.
        channels: planes of each stage; the stem has as many as the first.
        kwargs: as timm's ResNet takes them, but for those of the stem.
    """

    def __init__(
        self,
        layers: tuple[int, int, int],
        channels: tuple[int, int, int] = (16, 32, 64),
        in_chans: int = 3,
        **kwargs: Any,
    ) -> None:
        stem = channels[0]
        super().__init__(
            Bottleneck,
            (*layers, 0),  # timm's forward has four stages: the last one is empty
            channels=(*channels, channels[-1]),
            in_chans=in_chans,
            stem_type="deep",  # the stem whose width can be chosen; replaced below
            stem_width=stem // 2,
            **kwargs,
        )
        self.conv1 = nn.Conv2d(in_chans, stem, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.maxpool = nn.Identity()
        for info, reduction in zip(self.feature_info, (1, 1, 2, 4, 4), strict=True):
            info["reduction"] = reduction


def _config() -> dict[str, Any]:
    """What timm's data pipeline reads; mean and standard deviation are those of CIFAR-10's training images."""
    return {
        "num_classes": 10,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
        "first_conv": "conv1",
        "classifier": "fc",
    }


default_cfgs = generate_default_cfgs({f"cifar_resnet{depth}": _config() for depth in _DEPTHS})


def _create(depth: int, pretrained: bool, kwargs: dict[str, Any]) -> CifarResNet:
    layers = ((depth - 2) // 9,) * 3
    model: CifarResNet = build_model_with_cfg(
        CifarResNet, f"cifar_resnet{depth}", pretrained, **{"layers": layers, **kwargs}
    )
    return model


@register_model  # type: ignore[untyped-decorator]
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """2 bottlenecks a stage; 0.24M parameters with 100 classes."""
    return _create(20, pretrained, kwargs)


@register_model  # type: ignore[untyped-decorator]
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """6 bottlenecks a stage; 0.61M parameters with 100 classes."""
    return _create(56, pretrained, kwargs)


@register_model  # type: ignore[untyped-decorator]
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """12 bottlenecks a stage; 1.17M parameters with 100 classes."""
    return _create(110, pretrained, kwargs)
