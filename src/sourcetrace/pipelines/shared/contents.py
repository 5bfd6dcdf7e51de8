"""What every training example is: by it, what was computed of one is known again in other data.

That is its name, its stages of training, and the content that the ingest digested.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import polars as pl
import torch
from torch import Tensor

from sourcetrace.audit.identity.data_digest import exchange_label, split_label
from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.engine.samples import spread
from sourcetrace.core.machine.nested import map_tensors
from sourcetrace.core.model.objective import ExampleGenerator, sampled_loss
from sourcetrace.pipelines.shared.inputs import Ingested

_LABELS = 256
"""Different ones at most that are tried; of more, all count."""

_TRIED = 2
"""Examples that are given every label."""


@dataclass(frozen=True)
class Contents:
    """Name and content of every training example.

    Attributes:
        names: Ids, [N].
        whole: All of it, [N].
        inputs: All by which it takes part in the curvature: without its label, unless that makes
            a difference with sampled labels, too, as an ignored one does, [N].
    """

    names: pl.Series
    whole: pl.Series
    inputs: pl.Series

    @classmethod
    def of(cls, inputs: Ingested, engine: GradientEngine) -> "Contents":
        """Return those of an audit.

        Where an example has no digest of its own, that of all data stands for it; so too where the
        task says what of an example counts (`inputs_of`), which need not be all that passes read.
        """
        ids, digests = pl.Series(engine.training.ids), inputs.example_digests
        if (
            digests is None
            or digests["input_digest"].null_count()
            or hasattr(inputs.task, "inputs_of")
        ):
            whole = ids + f"\0{inputs.data}"
            return cls(ids, whole, whole)
        stages = inputs.train_table["stage"].list.join(",")
        names = pl.concat_str("example_id", stages, "input_digest", separator="\0")
        target = "target_digest"
        read = pl.col(target).is_in(_read_labels(engine, digests[target]))
        labels = pl.when(read).then(target).fill_null(""), pl.col(target).fill_null("")
        return cls(
            ids,
            *digests.select(
                whole=pl.concat_str(names, labels[1], separator="\0"),
                inputs=pl.concat_str(names, labels[0], separator="\0"),
            ),
        )

    @cached_property
    def all_inputs(self) -> str:
        """The digest of all examples, as far as the curvature knows them."""
        return digest_contents(self.inputs)

    @cached_property
    def all_labelled(self) -> str:
        """The digest of all examples."""
        return digest_contents(self.whole)

    def digest(self, rows: Tensor, *, labels: bool) -> str:
        """Return the digest of some examples, in their order.

        Args:
            rows: Their numbers.
            labels: Whether labels count that sampled labels do not.
        """
        return digest_contents((self.whole if labels else self.inputs).gather(rows.numpy()))


def digest_contents(contents: pl.Series) -> str:
    """Return the digest of what some examples are, in their order."""
    return hashlib.sha256("\n".join(contents).encode()).hexdigest()


def _read_labels(engine: GradientEngine, targets: pl.Series) -> list[str]:
    """Return the labels with which a sampled loss is not what it is with the most frequent one.

    Args:
        engine: The examples, and the loss.
        targets: Digest of every example's label.
    """
    items, numbered = engine.training.items, pl.DataFrame({"target": targets}).with_row_index()
    found = numbered.drop_nulls().group_by("target").agg(pl.len(), pl.col("index").min())
    digests, _, firsts = found.sort("len", "target", descending=True)
    if not len(digests) or len(digests) > _LABELS:
        return digests.to_list()
    try:
        read = torch.zeros(len(digests), dtype=torch.bool)
        for number in spread(torch.arange(len(targets)), _TRIED).tolist():
            labels = [split_label(items[first])[1] for first in firsts]
            losses = [_sampled_loss(engine, exchange_label(items[number], one)) for one in labels]
            read |= torch.tensor([not torch.equal(one, losses[0]) for one in losses])
    except Exception:  # what does not go with another's label may read it
        return digests.to_list()
    return digests.filter(pl.Series(read.numpy())).to_list()


def _sampled_loss(engine: GradientEngine, item: object) -> Tensor:
    batch = map_tensors(engine.training.collate([item]), lambda one: one.to(engine.device))
    with torch.no_grad():
        outputs = engine.objective.forward(engine.model, batch)
        generator = ExampleGenerator.for_examples([0])
        return sampled_loss(engine.objective, outputs, generator, batch)
