"""The demo: plant label errors among digits, then train as any team would."""

from kedro.pipeline import Pipeline

from sourcetrace.pipelines.demo_training.nodes import plant_label_errors, train_network
from sourcetrace.pipelines.shared.step import step


def create_pipeline() -> Pipeline:
    """Return the demo's training run."""
    return Pipeline(
        [
            step(
                plant_label_errors,
                ["digits_training_set", "digits_query_set", "planted_label_errors"],
                demo="params:demo",
            ),
            step(
                train_network,
                [
                    "checkpoints",
                    "demo_model",
                    "digits_recipe",
                    "demo_training_metrics",
                    "trained_data_digest",
                ],
                training_set="digits_training_set",
                query_set="digits_query_set",
                demo="params:demo",
            ),
        ]
    )
