"""A PyTorch model logged to MLflow and registered as a version."""

from typing import Any

from kedro.io import AbstractDataset


class RegisteredModelDataset(AbstractDataset[Any, Any]):
    """Logs a `torch.nn.Module` with an example of its input, an array, and registers it.

    kedro-mlflow's own data set imports the model's flavour, here torch, whenever the catalog
    is made.

    YAML:
        demo_model:
          type: sourcetrace.tracking.registered_model.RegisteredModelDataset
          name: sourcetrace-digits

    Python:
        RegisteredModelDataset(name="digits").save((model, input_example))
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def _save(self, data: Any) -> None:
        import mlflow.pytorch
        import torch

        model, input_example = data
        mlflow.pytorch.log_model(
            model,
            input_example=input_example,
            name="model",
            registered_model_name=self._name,
            # Stated, because MLflow would otherwise import the model in a second process to see.
            pip_requirements=[f"torch=={torch.__version__.split('+')[0]}"],
        )

    def _load(self) -> Any:
        import mlflow.pytorch

        return mlflow.pytorch.load_model(f"models:/{self._name}/latest")

    def _describe(self) -> dict[str, Any]:
        return {"name": self._name}
