"""A model folder as a LoggedModel of MLflow: files of data that load by `search.model`, nothing pickled.

Knows records, nothing of studies or Ray.
"""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from search.tracking import mlflow_store  # noqa: F401  before mlflow, which reads the environment that it sets

# isort: split
import mlflow.models
import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.types import Schema, TensorSpec

from search.examples import EXAMPLES, read_examples
from search.model import read_classes, read_json, read_preprocessing
from search.record import TrialRecord
from search.report.labels import label_of, params_of
from search.tracking import tracker as told


def log(
    client: MlflowClient, experiment: str, record: TrialRecord, folder: Path, run_id: str, tags: Mapping[str, str]
) -> LoggedModel:
    """Log a model folder as the output of a run; it is READY only when it is all there."""
    name = re.sub(r"[/:.%\"']", "_", label_of(record.architecture))  # which MLflow refuses in names
    params = params_of(record.architecture)
    model = client.create_logged_model(experiment, name, run_id, dict(tags), params, "archsearch")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "model"
        _package(folder, path, mlflow.models.Model(model_id=model.model_id, run_id=run_id))
        client.log_model_artifacts(model.model_id, str(path))
    ready: LoggedModel = client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, record.fidelity)])
    return ready


def _package(folder: Path, path: Path, model: mlflow.models.Model) -> None:
    """The model folder as an MLflow model, with a signature and one image to try it on."""
    names, preparation = folder / "classes.json", folder / "preprocessing.json"
    classes = read_classes(read_json(names), names)
    preprocessing = read_preprocessing(read_json(preparation), preparation)
    side, channels = preprocessing.resize_size, preprocessing.in_chans
    images = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, channels))
    probabilities = TensorSpec(np.dtype(np.float32), (-1, len(classes)))
    examples = read_examples(folder / EXAMPLES, preprocessing)
    example = np.zeros((1, side, side, channels), np.uint8) if examples is None else examples[:1]
    mlflow.pyfunc.save_model(
        path=str(path),
        loader_module="search.model",
        data_path=str(folder),
        mlflow_model=model,
        signature=mlflow.models.ModelSignature(inputs=Schema([images]), outputs=Schema([probabilities])),
        input_example=example,
        pip_requirements=[f"{name}=={number}" for name, number in told.versions(told.MODEL_NEEDS).items()],
    )
