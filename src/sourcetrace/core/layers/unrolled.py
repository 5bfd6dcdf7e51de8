"""Recurrent layers written of linear functions, in place of torch's fused kernels.

A fused kernel hides what happens between its time steps. Its function is replaced by one with the
same arguments and results that makes every projection a call of its own: of all inputs at once,
[T, N, D], and of the hidden state step by step, [1, N, H]. The modules around it stay as they
are, with their checks and their order of packed sequences.

A packed batch is padded. Behind its end an example's state stands still, so that the positions of
padding have a gradient of exactly 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Takes values [S, N, D], a weight and a bias."""

Order = Callable[[], Tensor | None]
"""The places of the examples in the packed batch that is running; None where they lie in order."""

_State = tuple[Tensor, ...]
"""h, and c of an LSTM."""

_Step = Callable[[Tensor, Tensor, _State], _State]
"""Takes both projections of a step, [N, gates · H], and the state before, [N, H] each."""


def unrolled_functions(linear: Linear, order: Order) -> dict[str, Callable[..., Any]]:
    """Return what stands for torch's functions of layers and of cells, by their names."""
    steps: dict[str, _Step] = {
        "rnn_tanh": partial(_simple, torch.tanh),
        "rnn_relu": partial(_simple, torch.relu),
        "gru": _gru,
        "lstm": _lstm,
    }
    layers = {name: _Layers(step, linear, order) for name, step in steps.items()}
    return layers | {f"{name}_cell": partial(_cell, step, linear) for name, step in steps.items()}


def _simple(activation: Callable[[Tensor], Tensor], i: Tensor, h: Tensor, _: _State) -> _State:
    return (activation(i + h),)


def _gru(i: Tensor, h: Tensor, state: _State) -> _State:
    reset_i, update_i, new_i = i.chunk(3, -1)
    reset_h, update_h, new_h = h.chunk(3, -1)
    # The bias of new_h is inside the product.
    new = (new_i + (reset_i + reset_h).sigmoid() * new_h).tanh()
    return (new + (update_i + update_h).sigmoid() * (state[0] - new),)


def _lstm(i: Tensor, h: Tensor, state: _State) -> _State:
    entering, kept, new, leaving = (i + h).chunk(4, -1)
    cell = kept.sigmoid() * state[1] + entering.sigmoid() * new.tanh()
    return leaving.sigmoid() * cell.tanh(), cell


def _cell(
    step: _Step,
    linear: Linear,
    values: Tensor,
    state: Tensor | _State,
    *weights: Any,
) -> Any:
    """Return the state after a step; weights and biases as torch orders them."""
    before = (state,) if isinstance(state, Tensor) else tuple(state)
    w_ih, w_hh, b_ih, b_hh = weights
    inputs = linear(values.unsqueeze(0), w_ih, b_ih)[0]
    after = step(inputs, linear(before[0].unsqueeze(0), w_hh, b_hh)[0], before)
    return after[0] if isinstance(state, Tensor) else after


class _Options(NamedTuple):
    """What torch's functions take behind the weights."""

    bias: bool
    layers: int
    dropout: float
    training: bool
    bidirectional: bool
    batch_first: bool = False


@dataclass(frozen=True)
class _Layers:
    """Stands for torch's function of a kind of layers."""

    step: _Step
    linear: Linear
    order: Order

    def __call__(self, values: Tensor, *arguments: Any) -> Any:
        """Return the outputs and every layer's last state.

        Args:
            values: [T, N, D], or [N, T, D], or those of all sequences of a packed batch, [M, D].
            *arguments: The state, the weights and `_Options`, behind a packed batch's sizes.
        """
        if isinstance(arguments[2], bool):
            state, weights, *rest = arguments
            options = _Options(*rest)
            swapped = values.transpose(0, 1) if options.batch_first else values
            outputs, *ends = self._stack(swapped, None, _tuple(state), weights, options)
            return outputs.transpose(0, 1) if options.batch_first else outputs, *ends
        sizes, state, weights, *rest = arguments
        rows = torch.arange(int(sizes[0]), device=values.device)
        mask = rows < sizes.to(values.device).unsqueeze(1)
        padded = values.new_zeros(*mask.shape, values.shape[-1])
        padded = padded.masked_scatter(mask.unsqueeze(-1), values)
        places = self.order()
        places = rows if places is None else places
        outputs, *ends = self._stack(
            padded[:, places],
            mask[:, places],
            tuple(one[:, places] for one in _tuple(state)),
            weights,
            _Options(*rest),
        )
        back = places.argsort()
        return outputs[:, back][mask], *(one[:, back] for one in ends)

    def _stack(
        self,
        values: Tensor,
        taken: Tensor | None,
        state: _State,
        weights: Sequence[Tensor],
        options: _Options,
    ) -> tuple[Tensor, ...]:
        """Return the last layer's outputs, [T, N, directions · H], and every layer's last state.

        Args:
            values: [T, N, D].
            taken: Which positions are no padding, [T, N]; None for all.
            state: Of every layer and direction, [layers · directions, N, H].
            weights: As many times those of one, in torch's order.
            options: Of the module.
        """
        directions = 1 + options.bidirectional
        each = len(weights) // (options.layers * directions)
        ends: list[_State] = []
        for layer in range(options.layers):
            outputs = []
            for place in range(layer * directions, (layer + 1) * directions):
                own = _Weights.of(weights[place * each : (place + 1) * each], bias=options.bias)
                before = tuple(one[place] for one in state)
                backwards = place > layer * directions
                found, end = self._scan(values, taken, before, own, backwards=backwards)
                outputs.append(found)
                ends.append(end)
            values = torch.cat(outputs, -1)
            if layer + 1 < options.layers:
                values = F.dropout(values, options.dropout, options.training)
        return values, *(torch.stack(column) for column in zip(*ends, strict=True))

    def _scan(
        self,
        values: Tensor,
        taken: Tensor | None,
        state: _State,
        weights: "_Weights",
        *,
        backwards: bool,
    ) -> tuple[Tensor, _State]:
        """Return one layer's outputs in one direction, [T, N, H], and its last state."""
        # All at once: a gradient of each step's row by itself would be as large as all of them.
        projected = self.linear(values, weights.w_ih, weights.b_ih).unbind()
        outputs = []
        for time in reversed(range(len(values))) if backwards else range(len(values)):
            hidden = self.linear(state[0].unsqueeze(0), weights.w_hh, weights.b_hh)[0]
            after = self.step(projected[time], hidden, state)
            if weights.w_hr is not None:
                after = (self.linear(after[0].unsqueeze(0), weights.w_hr, None)[0], *after[1:])
            if taken is not None:
                here = taken[time].unsqueeze(-1)
                both = zip(after, state, strict=True)
                after = tuple(torch.where(here, new, old) for new, old in both)
            state = after
            outputs.append(state[0])
        return torch.stack(outputs[::-1] if backwards else outputs), state


@dataclass(frozen=True)
class _Weights:
    """One layer's, in one direction; w_hr projects an LSTM's output."""

    w_ih: Tensor
    w_hh: Tensor
    b_ih: Tensor | None
    b_hh: Tensor | None
    w_hr: Tensor | None

    @classmethod
    def of(cls, weights: Sequence[Tensor], *, bias: bool) -> "_Weights":
        w_ih, w_hh, *rest = weights
        biases = rest[:2] if bias else (None, None)
        return cls(w_ih, w_hh, *biases, *(rest[2 * bias :] or (None,)))


def _tuple(state: Tensor | _State) -> _State:
    return (state,) if isinstance(state, Tensor) else tuple(state)
