"""What a network knows: BatchNorm statistics made right, predictions in full precision, accuracy and loss.

And beyond clean accuracy: how much of it is left on corrupted images, and whether it knows how sure it may be.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from search.data.batches import Batch, Batches
from search.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a network does on some images.

    Attributes:
        accuracy: share of them whose highest logit is their label, in [0, 1].
        loss: mean cross entropy, nats.
        calibration_error: see the function of that name.
    """

    accuracy: float
    loss: float
    calibration_error: float


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global generators start from `seed` inside, and are as before outside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 that is float32: without TF32, which keeps 10 of 23 bits in convolutions on recent GPUs."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def has_batch_norm(model: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules())


@full_precision()
def recalibrate(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Replace running BatchNorm statistics by the plain average over `batches`, under the weights as they are.

    The running ones trail behind fast moving weights: after its first epoch a ResNet validates at chance.
    """
    update_bn(batches, model)


@full_precision()
def predict(model: nn.Module, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Logits float32 `[N, num_classes]` and labels int64 `[N]` of all batches, in evaluation mode, fp32."""
    training = model.training
    model.eval()
    with torch.inference_mode():
        parts = [(model(images).float(), labels) for images, labels in batches]
    model.train(training)
    return torch.cat([logits for logits, _ in parts]), torch.cat([labels for _, labels in parts])


def score(logits: Tensor, labels: Tensor) -> Score:
    """Of `predict`'s answer."""
    accuracy = (logits.argmax(dim=1) == labels).float().mean()
    return Score(
        accuracy=accuracy.item(),
        loss=F.cross_entropy(logits, labels).item(),
        calibration_error=calibration_error(logits, labels),
    )


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error, in [0, 1], of `predict`'s answer (1706.04599, eq. 3).

    The mean distance between confidence, the highest probability, and accuracy: over `bins` of equal width by
    confidence, weighted by how many images are in each.
    """
    confidence, answer = logits.double().softmax(dim=1).max(dim=1)
    gap = (answer == labels).double() - confidence
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=logits.device)
    place = torch.bucketize(confidence, edges[1:-1])  # bin m has the confidences in ((m - 1) / bins, m / bins]
    sums = torch.bincount(place.cpu(), weights=gap.cpu(), minlength=bins)
    return (sums.abs().sum() / len(labels)).item()


def corruption_accuracy(
    model: nn.Module, views: Mapping[str, Dataset], batch_size: int, device: torch.device
) -> dict[str, float]:
    """Accuracy in [0, 1] on the images of each view: `accuracy_jpeg_3` and so on, for the view `jpeg_3`.

    And `corruption_accuracy`, their mean.

    Args:
        views: of `search.data.corruptions.corrupted`.
    """
    found = {
        f"accuracy_{name}": score(*predict(model, Batches(view, view.val, batch_size, device))).accuracy
        for name, view in views.items()
    }
    return {"corruption_accuracy": fmean(found.values()), **found}
