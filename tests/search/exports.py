"""Models to export: architectures of the catalog with moved weights, and real images to tell them apart."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search.data import load_data
from search.data.folder import open_picture, pictures_in
from search.data.preprocessing import Preprocessing
from search.model import Model
from search.results import Inputs
from spaces import Architecture, SearchSpace, build, load
from spaces.questions import Label, Parameter
from spaces.techniques.layer_attention.ela import SkipController
from tests.search.pictures import SHARED, data_of

CATALOG = Path(__file__).parents[2] / "spaces" / "catalog"
CLASSES = tuple("abcdefghij")
MOST_STEPS = 60


def member(space: str, answers: Mapping[str, Label]) -> Architecture:
    """The architecture of a catalog space that these answers lead to, and the first choice of everything else."""
    asked = set[str]()

    def choose(parameter: Parameter) -> Label:
        name = parameter.name.partition("(")[0]
        asked.add(name)
        answer = answers.get(name, parameter.choices[0])
        assert answer in parameter.choices, f"{space}: {name} has no {answer}, only {parameter.choices}"
        return answer

    found = SearchSpace(load(CATALOG / f"{space}.yaml")).decide(choose)
    assert answers.keys() <= asked, f"{space} never asks {answers.keys() - asked}"
    return found


def digits(side: int) -> Inputs:
    """Grey, as a search keeps them: classes, preprocessing and eight examples."""
    return Inputs.of(load_data(data_of("digits", image_size=side)))


def photographs(side: int) -> Inputs:
    """Flowers in colour, with a crop, where they are here; digits as if they were in colour elsewhere."""
    preprocessing = Preprocessing(
        image_size=side, resize_size=side + 5, in_chans=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)
    )
    folder = SHARED / "flowers12" / "train"
    if folder.exists():
        squares = [preprocessing.square(open_picture(path)) for path in pictures_in(folder)[::90][:8]]
        return Inputs(classes=CLASSES, preprocessing=preprocessing, examples=np.stack(squares))
    grey = digits(side + 5).examples
    assert grey is not None
    return Inputs(classes=CLASSES, preprocessing=preprocessing, examples=np.repeat(grey, 3, axis=3))


def model_of(architecture: Architecture, inputs: Inputs) -> Model:
    """Briefly trained on its examples; one layer attention is skipped where it can be."""
    torch.manual_seed(0)
    preprocessing, examples = inputs.preprocessing, inputs.examples
    assert examples is not None
    module = build(architecture, len(inputs.classes), preprocessing.in_chans)
    images = preprocessing.normalise(preprocessing.crop(torch.from_numpy(examples)))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.eq(parameter.flatten()[0]).all():  # zeros and ones would hide what is lost on the way
                parameter.add_(0.2 * torch.randn_like(parameter))
    _train(module, images)
    for controller in module.modules():
        if isinstance(controller, SkipController):
            controller.gates[0].skip(True)
    return Model(
        module=module,
        architecture=architecture,
        classes=inputs.classes,
        preprocessing=preprocessing,
        examples=examples,
    )


def _train(module: nn.Module, images: Tensor) -> None:
    """Until it tells its images apart; in eval mode afterwards, with statistics of all images."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(MOST_STEPS):
        loss = nn.functional.cross_entropy(module.train()(images), torch.arange(len(images)))
        if loss < 1.2:  # 2.1 says nothing
            break
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        for norm in module.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                norm.momentum = 0.5
        for _ in range(4):
            module(images)
    module.eval()


def probabilities(model: Model) -> NDArray[np.float32]:
    """Of the examples; told apart by much more than any tolerance."""
    assert model.examples is not None
    found: NDArray[np.float32] = model.predict(model.examples).numpy()
    assert np.ptp(found, axis=0).max() > 0.05, "the model says the same of every image"
    return found
