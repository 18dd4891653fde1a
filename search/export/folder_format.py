"""safetensors: a model folder of this project (`search.model`), of the simplified network."""

from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from search.export.format import Format
from search.export.predict import Run
from search.model import KIND, Model, fill, read_model
from spaces.simplify import Simple


@final
class Safetensors(Format):
    name = "safetensors"
    kind = KIND
    usage = (
        "`python predict.py IMAGE` says what is on a picture; it needs archsearch, and executes nothing that stands in"
        " the folder. The weights are in `model.safetensors`, the network is in `architecture.json`."
    )

    def write(self, folder: Path, model: Model, simple: Simple) -> tuple[str, ...]:
        """Where no architecture says the simplified network, the network is written as it was trained."""
        if simple.architecture is None:
            fill(folder, model, {})
            return ("written as trained, since no architecture says the simplified network",)
        fill(folder, replace(model, module=simple.model, architecture=simple.architecture), {})
        return simple.notes

    def load(self, folder: Path) -> Run:
        model = read_model(folder)

        def run(squares: NDArray[np.uint8]) -> NDArray[np.float32]:
            probabilities: NDArray[np.float32] = model.predict(squares).numpy()
            return probabilities

        return run
