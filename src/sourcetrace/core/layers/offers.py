"""What the modules of a model offer to be attributed."""

from collections.abc import Iterable

from torch import nn

from sourcetrace.core.layers.attention import attention_offer
from sourcetrace.core.layers.kinds.registry import kind_of, unknown
from sourcetrace.core.layers.kinds.types import LayerType
from sourcetrace.core.layers.layer import Offer, Site, Slot
from sourcetrace.core.layers.recurrent import is_recurrent, recurrent_offer
from sourcetrace.core.layers.rehearsal import Rehearsal


def offers(model: nn.Module, rehearsal: Rehearsal) -> Iterable[tuple[str, nn.Module, Offer]]:
    """Yield every module with parameters of its own; an out_proj comes with its attention."""
    inside: dict[int, Offer] = {}  # id of an out_proj -> what is left for it to say
    for name, module in model.named_modules():
        # The exact class, as everywhere: a subclass may compute something else.
        if type(module) is nn.MultiheadAttention:
            offer = attention_offer(name, module)
            inside[id(module.out_proj)] = offer if isinstance(offer, str) else []
            yield name, module, offer
        elif is_recurrent(module):
            yield name, module, recurrent_offer(name, module)
        elif id(module) in inside:
            yield name, module, inside[id(module)]
        elif next(module.parameters(recurse=False), None) is not None:
            yield name, module, _offered(name, module, rehearsal.tried.get(name))


def _offered(name: str, module: nn.Module, found: LayerType | None) -> Offer:
    """Return what a module with parameters of its own offers, with the kind found by trying it."""
    own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    kind = kind_of(module) or found
    if kind is None or kind.names[0] not in own or not own.keys() <= set(kind.names):
        return unknown(module)
    if reason := kind.refusal(module):
        return reason
    weight, bias = own[kind.names[0]], own.get(kind.names[1])
    groups = kind.groups(module)
    # A normalisation's groups may spread over several dimensions of its weight.
    rows = weight.shape[0] if weight.ndim else 1
    outputs = weight[0].numel() if kind.transposed else max(1, rows // groups)
    slot = Slot(
        site=Site(name, kind),
        weight=weight,
        groups=groups,
        outputs=outputs,
        inputs=weight.numel() // (groups * outputs),
        bias=bias,
        bias_groups=groups,
    )
    if bias is None or kind.bias is None:
        return [slot]
    slot.bias = None
    return [slot, Slot(Site(name, kind.bias), None, 1, bias.numel(), 0, bias, bias_groups=1)]
