"""What a user implements: the task protocol and base classes that give the losses."""

from sourcetrace.tasks.classification import ClassificationTask
from sourcetrace.tasks.protocol import Task, TaskBase
from sourcetrace.tasks.regression import RegressionTask

__all__ = ["ClassificationTask", "RegressionTask", "Task", "TaskBase"]
