"""The queries' gradients."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sourcetrace.core.engine.gradient_engine import GradientEngine
from sourcetrace.core.gradients.per_example import LayerGradient, concatenate, squared_norms
from sourcetrace.core.model.examples import Examples
from sourcetrace.core.plan.plan import EnsembleMember
from sourcetrace.errors import InputError


@dataclass(frozen=True)
class QueryGradients:
    """Gradients of Q queries at a member's final weights, by layer.

    Attributes:
        measured: Of the measurements, Q rows.
        mean_loss: Of their mean training loss, [1, groups, D_out, D_in]: one more query, whose
            score is what removing an example does to all of them together.
    """

    measured: Mapping[str, LayerGradient]
    mean_loss: Mapping[str, Tensor]

    @classmethod
    def of(
        cls, engine: GradientEngine, member: EnsembleMember, queries: Examples
    ) -> "QueryGradients":
        """Measure the queries.

        Raises:
            InputError: If a gradient is NaN or infinite.
        """
        measured: list[Mapping[str, LayerGradient]] = []
        totals: dict[str, Tensor] = {}
        for block in queries.blocks(engine.batch_size):
            gradients, losses = engine.query_gradients(queries, member.final, block)
            finite = (squared_norms(gradients) + squared_norms(losses)).isfinite()
            if not bool(finite.all()):
                name = queries.ids[block.start + int(finite.int().argmin())]
                raise InputError(
                    f"The query {name!r} has a NaN or infinite gradient. Check its inputs and "
                    "label for missing values, and the measurement for log(0)."
                )
            measured.append(gradients)
            for name, layer in losses.items():
                total = layer.summed()
                totals[name] = totals[name] + total if name in totals else total
        return cls(
            concatenate(measured), {name: total / len(queries) for name, total in totals.items()}
        )

    def dense(self) -> dict[str, Tensor]:
        """Return both, the mean loss behind the measurements, [Q + 1, groups, D_out, D_in]."""
        return {
            name: torch.cat([gradient.dense(), self.mean_loss[name]])
            for name, gradient in self.measured.items()
        }
