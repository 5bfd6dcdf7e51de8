"""Dattri-llm's EK-FAC on a language model's first stage; `language_model_peers.py` runs it.

    python -m benchmarks.gpt_dattri DIR --measurement FILE --scores FILE

Needs dattri-llm, and of this repository only what needs torch alone. The last checkpoint, matrices
and biases of attention and MLP; its curvature is of the given labels, for it draws none, and the
damping a share of a layer's mean eigenvalue, as everywhere here, not its own 1e-3.
"""

import tempfile
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F  # noqa: N812, the name everybody reads
from benchmarks.gpt_data import parser_of, read_first_stage, write_run
from benchmarks.measurement import Stopwatch
from dattri_llm import (
    AttributionArguments,
    AttributionTask,
    EKFACAttributor,
    HookManagerConfig,
    hash_sample,
)
from torch import Tensor, nn
from transformers import AutoModelForCausalLM


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one run."""
    given = parser_of(__doc__).parse_args(arguments)
    stage = read_first_stage(given.folder)
    model = AutoModelForCausalLM.from_pretrained(stage.checkpoints[-1])
    train, query = (
        [{"input_ids": row} for row in tokens]
        for tokens in (stage.train_tokens, stage.query_tokens)
    )
    watch = Stopwatch()
    watch.start("all")
    with tempfile.TemporaryDirectory() as output:
        options = AttributionArguments(
            output_dir=output,
            per_device_train_batch_size=given.batch_size,
            per_device_eval_batch_size=given.batch_size,
            seed=given.seed,
            use_cpu=True,
        )
        attributor = EKFACAttributor(options, task=AttributionTask(_loss, model))
        found = attributor.attribute(
            train,
            query,
            hook_config=HookManagerConfig(linear_io=[r"\.h\.\d+\.(attn|mlp)\."]),
            damping=0.1,
            relative_damping=True,
        )
    watch.stop()
    scores = found.query([hash_sample(one) for one in train], [hash_sample(one) for one in query])
    write_run(given, scores.T, watch)


def _loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the loss of the next tokens, summed, so that no example's depends on its batch."""
    tokens = batch["input_ids"]
    logits = model(input_ids=tokens).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")


if __name__ == "__main__":
    main()
