"""Looking at how a huge backbone starts takes no memory of its size."""

import resource

import pytest
import torch

from spaces.anatomy import anatomy_of
from spaces.anatomy.meta import SMALL
from spaces.backbone import create
from spaces.techniques.scaling.ends import light_model, own_starts

pytestmark = pytest.mark.usefixtures("one_thread")


def test_seven_billion_weights_are_not_made() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    anatomy = anatomy_of("vit_7b_patch16_dinov3", {})
    starts = own_starts(anatomy)
    assert len(starts) == 80
    assert all(wide and start == pytest.approx(1e-5) for wide, start in starts.values())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000, "of 27 GB, in kB"


@pytest.mark.parametrize("backbone", ["convnext_atto", "dm_nfnet_f0", "swinv2_tiny_window8_256", "cait_xxs24_224"])
def test_what_is_small_is_as_the_model_makes_it(backbone: str) -> None:
    light = light_model(anatomy_of(backbone, {}))
    whole = create(backbone, {}, num_classes=10, in_chans=3)
    assert all(tensor.is_meta == (tensor.numel() > SMALL) for tensor in light.parameters())
    same = dict(whole.named_parameters()) | dict(whole.named_buffers())
    for name, tensor in [*light.named_parameters(), *light.named_buffers()]:
        assert tensor.shape == same[name].shape
        if tensor.ndim <= 1 or not tensor.is_floating_point():  # tables and what is not drawn
            assert torch.equal(tensor, same[name]), name


def test_a_model_that_computes_while_it_is_made_is_made_whole() -> None:
    assert not any(tensor.is_meta for tensor in light_model(anatomy_of("vit_tiny_r_s16_p8_384", {})).parameters())
