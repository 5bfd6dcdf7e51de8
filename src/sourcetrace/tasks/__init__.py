"""What a user implements: the task protocol and base classes that give the losses."""

from sourcetrace.core.model.objective import signs
from sourcetrace.tasks.classification import ClassificationTask
from sourcetrace.tasks.protocol import Task, TaskBase
from sourcetrace.tasks.regression import RegressionTask
from sourcetrace.tasks.training import SGDRecipe, train_with_sgd

__all__ = [
    "ClassificationTask",
    "RegressionTask",
    "SGDRecipe",
    "Task",
    "TaskBase",
    "signs",
    "train_with_sgd",
]
