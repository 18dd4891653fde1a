"""Bytes of a model on disk: as `safetensors.torch.save_model` writes it, counted without writing.

Eight bytes, a header in JSON that names every tensor and every name left out, padded to a multiple of eight, then
the tensors one after the other (https://github.com/huggingface/safetensors, "Format"). Buffers count; what several
names share is stored once.
"""

import json
from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from search.costs.cost import InputSize, Reading
from spaces import InputError

_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.float64: "F64",
    torch.int64: "I64",
}
"""As the header has them; what is later here is stored earlier."""
_RANKS = {dtype: -rank for rank, dtype in enumerate(_DTYPES)}


def model_bytes(model: nn.Module) -> int:
    """
    Raises:
        InputError: a tensor of a type that the format does not have.
    """
    tensors, left_out = _stored(model.state_dict())
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise InputError(f"{name} is of {tensor.dtype}, which safetensors cannot store")
    entries = [f'"__metadata__":{_text(left_out)}'] if left_out else []
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: _RANKS[item[1].dtype]):
        begin, end = end, end + tensor.numel() * tensor.element_size()
        shape = ",".join(map(str, tensor.shape))
        entries.append(
            f'{_text(name)}:{{"dtype":"{_DTYPES[tensor.dtype]}","shape":[{shape}],"data_offsets":[{begin},{end}]}}'
        )
    header = len(f"{{{','.join(entries)}}}".encode())
    return 8 + header + -header % 8 + end


def _text(value: str | Mapping[str, str]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _stored(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What is stored, in alphabetical order; and by name what is not, the first name of the same tensor."""
    first: dict[int, str] = {}
    stored, left_out = {}, {}
    for name in sorted(state):
        stands = first.setdefault(state[name].untyped_storage()._cdata, name)
        if stands == name or not state[name].numel():
            stored[name] = state[name]
        else:
            left_out[name] = stands
    return stored, left_out


@final
class ModelBytes:
    unit = "bytes"
    timed = False

    def __init__(self, *, name: str = "model_bytes"):
        self.name = name

    def __call__(self, model: nn.Module, input_size: InputSize) -> Reading:
        return Reading(value=model_bytes(model))
