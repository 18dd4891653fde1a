"""onnx and pt2: the whole classifier as a graph (`search.export.program`), with all that a stranger to us needs.

model.onnx or model.pt2
classes.json, preprocessing.json, architecture.json    as in a model folder; ONNX has them inside as well
predict.py                                             a program without this project
"""

import json
import shutil
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray

from search.costs.clock import clocked
from search.costs.cost import Reading
from search.costs.runtimes import installed, session_run, to_onnx
from search.export import predict
from search.export.format import Format
from search.export.program import INPUT, OUTPUT, traced
from search.folder import Kind
from search.model import DATA, Model, write_data
from spaces import InputError
from spaces.backbone import first_line
from spaces.simplify import Simple

OPSET = 20  # what torch translates to by itself; ONNX Runtime takes it from 1.17 on
LIMIT_S = 1.0  # of the measurement of latency: a user waits for it
_GRAPH = (
    " from `images`, uint8 [N, S, S, C] with S = `resize_size`, to `probabilities`, float32 [N, classes]: cropping,"
    " normalisation and softmax are inside, so that a picture needs only its largest centred square resized to"
    " `resize_size` (`preprocessing.json`). `classes.json` names the outputs.\n\n"
)


class _Graph(Format, ABC):
    file: ClassVar[str]

    def write(self, folder: Path, model: Model, simple: Simple) -> tuple[str, ...]:
        self._write(folder / self.file, replace(model, module=simple.model))
        write_data(folder, model)
        shutil.copyfile(predict.__file__, folder / "predict.py")
        return simple.notes

    @abstractmethod
    def _write(self, path: Path, model: Model) -> None:
        """The graph alone."""

    def load(self, folder: Path) -> predict.Run:
        return predict.load(folder)


def _kind(name: str, file: str) -> Kind:
    return Kind(name=f"an export to {name}", files=(file, *DATA, "predict.py", "README.md"), needed=(file, *DATA))


@final
class Onnx(_Graph):
    name = "onnx"
    file = "model.onnx"
    kind = _kind(name, file)
    usage = (
        "`model.onnx` is the whole classifier," + _GRAPH + "`python predict.py IMAGE` needs onnxruntime, numpy and"
        " pillow. Classes, preprocessing and architecture are in the file's `metadata_props` too, as JSON."
    )

    def ready(self) -> None:
        installed()

    def _write(self, path: Path, model: Model) -> None:
        names: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT]}
        try:
            program = to_onnx(traced(model), opset_version=OPSET, dynamic_shapes={INPUT: {0: "batch"}}, **names)
        except RuntimeError as error:
            raise InputError(f"{model.architecture.label}: {first_line(error)}") from None
        for name, content in model.data().items():
            program.metadata_props.add(key=name, value=json.dumps(content))
        path.write_bytes(program.SerializeToString())

    def latency(self, folder: Path, squares: NDArray[np.uint8]) -> Reading:
        run = session_run((folder / self.file).read_bytes(), torch.from_numpy(squares[:1]), threads=1)
        return clocked(run, limit_s=LIMIT_S)


@final
class Pt2(_Graph):
    name = "pt2"
    file = "model.pt2"
    kind = _kind(name, file)
    usage = (
        "`model.pt2` is the whole classifier as torch.export saves it," + _GRAPH + "`python predict.py IMAGE` needs"
        " torch, numpy and pillow. That opening such a file executes no foreign code is for `torch.export.load` to"
        " promise, not for archsearch: open one only from whom you trust."
    )

    def _write(self, path: Path, model: Model) -> None:
        torch.export.save(traced(model), path)
