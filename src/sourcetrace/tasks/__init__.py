"""What a user implements: the task protocol and base classes that give the losses."""

from sourcetrace.core.model.objective import signs
from sourcetrace.tasks.binary import BinaryTask, MultiLabelTask
from sourcetrace.tasks.classification import ClassificationTask, TokenClassificationTask
from sourcetrace.tasks.data import ArrayData, ImageData, LanguageData, TableData, TextData
from sourcetrace.tasks.diffusion import DiffusionTask
from sourcetrace.tasks.language_model import LanguageModelTask
from sourcetrace.tasks.noise_schedule import NoiseSchedule
from sourcetrace.tasks.protocol import Task, TaskBase
from sourcetrace.tasks.regression import RegressionTask
from sourcetrace.tasks.training import SGDRecipe, train_with_sgd

__all__ = [
    "ArrayData",
    "BinaryTask",
    "ClassificationTask",
    "DiffusionTask",
    "ImageData",
    "LanguageData",
    "LanguageModelTask",
    "MultiLabelTask",
    "NoiseSchedule",
    "RegressionTask",
    "SGDRecipe",
    "TableData",
    "Task",
    "TaskBase",
    "TextData",
    "TokenClassificationTask",
    "signs",
    "train_with_sgd",
]
