"""Affine parameters of normalisations: every feature is a group of its own.

y = weight ∘ x̂ + bias acts on each feature alone: D_out = 1, D_in = 1, and one more with a
bias. The layer input is the normalised x̂, so that the existing frame serves.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F  # noqa: N812, the name everybody reads
from torch import Tensor, nn

from sourcetrace.core.layers.kinds.types import LayerType
from sourcetrace.errors import InputError


def _features(module: Any) -> int:
    return int(module.weight.numel())


def _last_dimensions(module: Any, values: Tensor) -> Tensor:
    """Lay out [N, …, *normalized_shape] as [N, features, S, 1]."""
    positions = values.reshape(values.shape[0], -1, _features(module))
    return positions.transpose(1, 2).unsqueeze(-1)


def _channels(module: Any, values: Tensor) -> Tensor:
    """Lay out [N, C, …] as [N, C, S, 1]."""
    return values.reshape(values.shape[0], _features(module), -1, 1)


def _normalised(normalise: Callable[..., Tensor], module: Any, inputs: Tensor) -> Tensor:
    shape = list(module.normalized_shape)
    return _last_dimensions(module, normalise(inputs, shape, eps=module.eps))


def _group_norm(module: nn.GroupNorm, inputs: Tensor) -> Tensor:
    return _channels(module, F.group_norm(inputs, module.num_groups, eps=module.eps))


def _batch_norm(module: Any, inputs: Tensor) -> Tensor:
    if module.training:
        raise InputError(
            f"A {type(module).__name__} is in training mode, where examples of a batch depend on "
            "each other. Call model.eval() first."
        )
    normalised = F.batch_norm(inputs, module.running_mean, module.running_var, eps=module.eps)
    return _channels(module, normalised)


def _instance_norm(module: Any, inputs: Tensor) -> Tensor:
    if inputs.ndim == module._get_no_batch_dim():
        raise InputError(
            f"A {type(module).__name__} is given a single example, {list(inputs.shape)}, whose "
            "channels cannot be told from examples. Give it a batch, with the example first."
        )
    mean, variance = module.running_mean, module.running_var
    own = module.training or mean is None
    # Without momentum the running statistics stay as they are.
    normalised = F.instance_norm(
        inputs, mean, variance, use_input_stats=own, momentum=0.0, eps=module.eps
    )
    return _channels(module, normalised)


def _without_statistics(module: Any) -> str:
    if module.running_mean is None or module.running_var is None:
        return (
            f"{type(module).__name__} without running statistics (track_running_stats is "
            "False): its examples depend on each other"
        )
    return ""


NORMALISATIONS = (
    *(
        LayerType(
            kind,
            partial(_normalised, normalise),
            _last_dimensions,
            _features,
            feature_dimensions=lambda module: len(module.normalized_shape),
        )
        for kind, normalise in ((nn.LayerNorm, F.layer_norm), (nn.RMSNorm, F.rms_norm))
    ),
    LayerType(nn.GroupNorm, _group_norm, _channels, _features),
    *(
        LayerType(kind, _instance_norm, _channels, _features)
        for kind in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    ),
    *(
        LayerType(kind, _batch_norm, _channels, _features, refusal=_without_statistics)
        for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    ),
)
