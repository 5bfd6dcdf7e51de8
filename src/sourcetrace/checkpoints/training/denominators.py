"""By what an optimiser divided each parameter's gradient, from its state in a checkpoint.

Its step is θ ← θ − η ∘ (∇ℓ, or an average of it) / denominator, so that 1 / denominator is the
diagonal of P (`core.curvature.preconditioner`); infinite where no gradient ever came. What an
optimiser multiplies the rate by, tensor by tensor, is in the denominator as well.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

QUANTISED = "__bnb_optimizer_quant_state__"
"""Where newer versions of bitsandbytes put the tensors of a parameter's state."""

_LIKE_PARAMETER = (
    *("exp_avg_sq", "momentum_buffer", "exp_inf", "square_avg", "sum", "variance", "state2"),
    "exp_avg",
)

_AVERAGES = ("exp_avg", "momentum_buffer", "grad_avg")
"""Of the gradients, or of the steps."""

_SINGLE = 4
"""Bytes of a number in float32."""

_BLOCKS = (256, 2048)
"""Entries that share a scale in bitsandbytes since 0.44, and before."""


class NotFiniteError(Exception):
    """A second moment that is negative or not finite."""


@dataclass(frozen=True)
class ParameterState:
    """What the optimiser's state has of one parameter.

    Attributes:
        entry: Its state.
        group: The settings of its group.
        weights_rms: Gives the root mean square of the parameter itself.
    """

    entry: Mapping[str, Any]
    group: Mapping[str, Any]
    weights_rms: Callable[[], float]

    def moment(self, key: str) -> Tensor:
        """Return a tensor of the state in float32 or better.

        Raises:
            NotFiniteError: If it is negative somewhere or not finite.
        """
        tensor: Tensor = self.entry[key]
        tensor = tensor.float() if tensor.element_size() < _SINGLE else tensor
        if not bool((tensor.isfinite() & (tensor >= 0)).all()):
            raise NotFiniteError(key)
        return tensor

    def ever_moved(self, second: Tensor, *, least: float = 0.0) -> Tensor:
        """Return where a gradient ever came.

        Where the average of the gradients is kept, it says so as well: in 16 bits the square of a
        small gradient is 0. In 16 bits without one, every entry counts.

        Args:
            second: The second moment.
            least: What it is without a gradient.
        """
        averages = (self.entry.get(key) for key in _AVERAGES)
        first = next((one for one in averages if isinstance(one, Tensor)), None)
        if first is not None:
            return (second > least) | (first != 0)
        kept = [one for one in self.entry.values() if isinstance(one, Tensor)]
        is_short = any(one.is_floating_point() and one.element_size() < _SINGLE for one in kept)
        return torch.ones_like(second, dtype=torch.bool) if is_short else second > least

    @property
    def correction(self) -> float:
        """1 − β₂^t, of an average that began with 0."""
        beta = float(self.group["betas"][1])
        return 1.0 - math.pow(beta, self.step)

    @property
    def step(self) -> float:
        """How many steps the parameter has made."""
        return float(self.entry["step"])


def shape_of(entry: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return the shape of the parameter that a state is of; None where nothing in it has one."""
    state = {**entry, **entry.get(QUANTISED, {})}
    whole = next((state[key] for key in _LIKE_PARAMETER if hasattr(state.get(key), "shape")), None)
    if whole is not None:
        return tuple(whole.shape)
    if hasattr(state.get("row_var"), "shape"):
        return (*state["row_var"].shape[:-1], state["col_var"].shape[-1])
    if hasattr(state.get("exp_avg_sq_row"), "shape"):
        return (*state["exp_avg_sq_row"].shape, state["exp_avg_sq_col"].shape[-1])
    return None


def of_adam(of: ParameterState) -> Tensor:
    """Return √v̂ + ε, v̂ being v / (1 − β₂^t); amsgrad's largest v where it was used. NAdam's too."""
    second = of.moment("max_exp_avg_sq" if of.group.get("amsgrad") else "exp_avg_sq")
    return _moved(of.ever_moved(second), (second / of.correction).sqrt() + float(of.group["eps"]))


def of_transformers_adamw(of: ParameterState) -> Tensor:
    """Return (√v + ε) / √(1 − β₂^t), without the root where `correct_bias` is off."""
    second = of.moment("exp_avg_sq")
    corrected = of.correction if of.group["correct_bias"] else 1.0
    divided = (second.sqrt() + float(of.group["eps"])) / math.sqrt(corrected)
    return _moved(of.ever_moved(second), divided)


def of_radam(of: ParameterState) -> Tensor:
    """Return (√v + ε) / (√(1 − β₂^t) r), r the rectification; 1 while RAdam adapts nothing."""
    second, beta = of.moment("exp_avg_sq"), float(of.group["betas"][1])
    limit = 2 / (1 - beta) - 1
    length = limit - 2 * of.step * beta**of.step / of.correction
    if length <= 5:  # noqa: PLR2004, as RAdam has it
        return torch.ones_like(second)
    shares = ((one - 4) * (one - 2) / one for one in (length, limit))
    rectified = math.sqrt(next(shares) / next(shares))
    scale = math.sqrt(of.correction) * rectified
    return _moved(of.ever_moved(second), (second.sqrt() + float(of.group["eps"])) / scale)


def of_adamax(of: ParameterState) -> Tensor:
    """Return u, the decaying largest |g| + ε."""
    largest = of.moment("exp_inf")
    return _moved(of.ever_moved(largest, least=float(of.group["eps"])), largest)


def of_rmsprop(of: ParameterState) -> Tensor:
    """Return √v + ε, or √(v − ḡ²) + ε where centred: v begins with 0 and is not corrected."""
    second = of.moment("square_avg")
    spread = second - of.entry["grad_avg"].to(second) ** 2 if of.group["centered"] else second
    return _moved(of.ever_moved(second), spread.clamp(min=0).sqrt() + float(of.group["eps"]))


def of_adagrad(of: ParameterState) -> Tensor:
    """Return (√Σg² + ε) (1 + (t − 1) d), with d the decay of the rate."""
    total = of.moment("sum")
    decayed = 1 + (of.step - 1) * float(of.group["lr_decay"])
    # Beside what it began with, small gradients are lost in rounding: then all entries count.
    return _moved(of.ever_moved(total), (total.sqrt() + float(of.group["eps"])) * decayed)


def of_adadelta(of: ParameterState) -> Tensor:
    """Return √(v + ε) / √(u + ε), u the average of the squared steps."""
    second, steps, eps = of.moment("square_avg"), of.moment("acc_delta"), float(of.group["eps"])
    return _moved(of.ever_moved(second), ((second + eps) / (steps + eps)).sqrt())


def of_adafactor(of: ParameterState) -> Tensor:
    """Return √v η/α, with α = max(ε₂, RMS of the weights) min(η, 1/√t), of torch's Adafactor."""
    smallest, scale = of.group["eps"]
    smallest = torch.finfo(torch.float32).eps if smallest is None else float(smallest)
    if of.entry.get("variance") is None:
        second = _product(of.moment("row_var"), of.moment("col_var"), smallest)
    else:
        second = of.moment("variance")
    rate = float(of.group["lr"])
    slowed = rate / min(rate, of.step**-0.5) if rate else 1.0
    spread = second.clamp(min=smallest**2).sqrt()
    return _moved(of.ever_moved(second), spread * slowed / max(float(scale), of.weights_rms()))


def of_transformers_adafactor(of: ParameterState) -> Tensor:
    """Return √v / max(ε₂, RMS of the weights), the latter with `scale_parameter`."""
    least, scale = map(float, of.group["eps"])
    if "exp_avg_sq" in of.entry:
        second = of.moment("exp_avg_sq")
    else:
        rows, columns = of.moment("exp_avg_sq_row"), of.moment("exp_avg_sq_col")
        second = _product(rows.unsqueeze(-1), columns.unsqueeze(-2), torch.finfo(rows.dtype).tiny)
    scaled = max(scale, float(of.entry["RMS"])) if of.group["scale_parameter"] else 1.0
    # It is the average of g² + least, which least alone is but for its rounding.
    return _moved(of.ever_moved(second, least=1.001 * least), second.sqrt() / scaled)


def of_quantised_adam(of: ParameterState) -> Tensor:
    """Return √v̂ + ε of bitsandbytes' Adam, in 32 or, block by block, 8 bits."""
    state = {**of.entry, **of.entry.get(QUANTISED, {})}
    moments = {"exp_avg": _whole_numbers(state, "1"), "exp_avg_sq": _whole_numbers(state, "2")}
    return of_adam(ParameterState({**moments, "step": of.step}, of.group, lambda: 0.0))


def _whole_numbers(state: Mapping[str, Any], which: str) -> Tensor:
    """Return a moment of bitsandbytes, of the codes and scales that it has in 8 bits."""
    moment: Tensor = state[f"state{which}"]
    if moment.dtype != torch.uint8:
        return moment
    scales = state[f"absmax{which}"].float()
    (block, *_) = [one for one in _BLOCKS if math.ceil(moment.numel() / one) == len(scales)]
    each = scales.repeat_interleave(block)[: moment.numel()].view_as(moment)
    values: Tensor = state[f"qmap{which}"].float()[moment.long()] * each
    return values


def of_lion(of: ParameterState) -> Tensor:
    """Return the RMS of the averaged gradient: Lion's step has an RMS of 1."""
    return _whole(of.entry["exp_avg"], 1.0)


def of_muon(of: ParameterState) -> Tensor:
    """Return the RMS of the averaged gradient, as a multiple of the step's."""
    rows, columns = of.entry["momentum_buffer"].shape
    ratio = {"match_rms_adamw": 0.2 * math.sqrt(max(rows, columns))}.get(
        of.group["adjust_lr_fn"], math.sqrt(max(1, rows / columns))
    )
    # Orthogonal: min(rows, columns) singular values of 1.
    return _whole(of.entry["momentum_buffer"], ratio / math.sqrt(max(rows, columns)))


def _whole(average: Tensor, step_rms: float) -> Tensor:
    size = average.float().square().mean().sqrt()
    if not bool(size.isfinite()):
        raise NotFiniteError("average")
    return _moved(size > 0, size / step_rms).expand(average.shape)


def _product(rows: Tensor, columns: Tensor, smallest: float) -> Tensor:
    """Return rowᵢ columnⱼ / mean(row), v of [..., D_out, 1] and [..., 1, D_in]."""
    return rows * columns / rows.mean(-2, keepdim=True).clamp(min=smallest)


def _moved(where: Tensor, denominator: Tensor) -> Tensor:
    return denominator.masked_fill(~where, torch.inf)
