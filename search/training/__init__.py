"""Training one network on one data set: a plain loop, exact resume, honest validation.

    trainer = Trainer(model, dataset, Train(lr=1e-3), horizon=9, seed=0)
    while trainer.epoch < 9:
        print(trainer.train_epoch())
    print(trainer.validate())

Works on any classifier; knows nothing of architectures or of the search.
"""

from search.training.checkpoint import (
    REDUCED,
    STRENGTHS,
    WEIGHTS,
    check_whole,
    finished,
    load_strengths,
    load_weights,
    save_strengths,
    save_weights,
    saved_epoch,
)
from search.training.evaluation import (
    Score,
    calibration_error,
    corruption_accuracy,
    predict,
    recalibrate,
    score,
    seeded,
)
from search.training.heritage import begun, inherited, put_inherited
from search.training.schedule import learning_rate
from search.training.trainer import RECALIBRATION_IMAGES, Trainer, TrainingDiverged, optimizer_of

__all__ = [
    "RECALIBRATION_IMAGES",
    "REDUCED",
    "STRENGTHS",
    "WEIGHTS",
    "Score",
    "Trainer",
    "TrainingDiverged",
    "begun",
    "calibration_error",
    "check_whole",
    "corruption_accuracy",
    "finished",
    "inherited",
    "learning_rate",
    "load_strengths",
    "load_weights",
    "optimizer_of",
    "predict",
    "put_inherited",
    "recalibrate",
    "save_strengths",
    "save_weights",
    "saved_epoch",
    "score",
    "seeded",
]
