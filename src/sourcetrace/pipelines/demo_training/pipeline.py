"""Plant label errors, then train as any team would."""

from kedro.pipeline import Pipeline, node

from sourcetrace.pipelines.demo_training.nodes import plant_label_errors, train_network


def create_pipeline() -> Pipeline:
    """Return the demo's training run."""
    return Pipeline(
        [
            node(
                plant_label_errors,
                inputs="params:demo",
                outputs=["digits_training_set", "digits_query_set", "planted_label_errors"],
                name="plant_label_errors",
            ),
            node(
                train_network,
                inputs={
                    "training_set": "digits_training_set",
                    "query_set": "digits_query_set",
                    "demo": "params:demo",
                },
                outputs=[
                    "checkpoints",
                    "demo_model",
                    "digits_recipe",
                    "demo_training_metrics",
                    "trained_data_digest",
                ],
                name="train_network",
            ),
        ]
    )
