"""Finding the layers of a model, by one forward pass over it.

Each module offers slots: a weight and perhaps a bias at one site. A parameter in several
slots is shared by them, and is attributed once, as the sum. Weight and bias make one layer
where they are used together everywhere and are trained alike.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field, replace

from torch import nn

from sourcetrace.core.layers.attention import attention_offer
from sourcetrace.core.layers.coverage import Coverage, Unattributed
from sourcetrace.core.layers.kinds.registry import LAYER_TYPES
from sourcetrace.core.layers.layer import Layer, Offer, Site, Slot, join_names
from sourcetrace.core.layers.rehearsal import Rehearsal, refuse_compiled
from sourcetrace.errors import InputError


@dataclass
class _Use:
    """A parameter: its names in the model, and what is done with it."""

    parameter: nn.Parameter
    names: list[str] = field(default_factory=list)
    as_weight: list[Slot] = field(default_factory=list)
    as_bias: list[Slot] = field(default_factory=list)
    reasons: list[tuple[str, str]] = field(default_factory=list)  # name, why it has no slot

    @property
    def slots(self) -> list[Slot]:
        return self.as_weight or self.as_bias


def find_layers(
    model: nn.Module,
    run_forward: Callable[[], object],
    settings_of: Callable[[str], Hashable] | None = None,
    *,
    examples: int | None = None,
) -> Coverage:
    """Find the layers of `model` that can be attributed.

    Args:
        model: The model, in evaluation mode.
        run_forward: Runs one forward pass of the model, which shows the calls of modules.
        settings_of: Name of a parameter -> its optimiser's settings. A weight and a bias that
            differ become two layers, so that each layer has one setting.
        examples: How many examples that pass has, where it is known. Layers whose input does
            not say which example it belongs to are then named instead of refused later.

    Raises:
        InputError: If no parameter at all can be attributed, a module is compiled, or a layer
            runs without gradients.
    """
    refuse_compiled(model.named_modules())
    rehearsal = Rehearsal.of(model, run_forward)
    uses = _uses(model)
    reasons: dict[int, str] = {}
    sites: dict[int, Site] = {}  # by slot
    for key, use in uses.items():
        for slot in use.slots:
            if id(slot) not in sites and use.parameter.requires_grad:
                module = model.get_submodule(slot.site.module)
                dimension = rehearsal.example_dimension(slot.site, module, examples)
                if isinstance(dimension, str):
                    reasons[key] = dimension
                else:
                    sites[id(slot)] = replace(slot.site, example_dimension=dimension)
        reasons[key] = _reason(use, rehearsal) or reasons.get(key, "")
    taken = {key: use for key, use in uses.items() if not reasons[key]}
    layers = _layers(taken, sites, settings_of or (lambda _: None))
    unattributed = tuple(
        Unattributed(use.names[0], use.parameter.numel(), reasons[key])
        for key, use in uses.items()
        if reasons[key]
    )
    if not layers:
        names = ", ".join(f"{p.name} ({p.reason})" for p in unattributed[:5])
        raise InputError(
            "No parameter of the model can be attributed: expected at least one trainable "
            "layer of a known kind (nn.Linear, a convolution, a normalisation, nn.Embedding, "
            f"nn.MultiheadAttention) that a forward pass calls, found {names or 'none'}."
        )
    rehearsal.refuse_without_gradient(site.module for layer in layers for site in layer.sites)
    tied = {use.names[0]: tuple(use.names[1:]) for use in taken.values() if use.names[1:]}
    return Coverage(layers, unattributed, tied)


def _uses(model: nn.Module) -> dict[int, _Use]:
    """Return every parameter by its id, in the model's order."""
    uses: dict[int, _Use] = {}
    offers = list(_offers(model))
    for name, module, offer in offers:
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            use = uses.setdefault(id(parameter), _Use(parameter))
            use.names.append(join_names(name, key))
            if offer.reason:
                use.reasons.append((join_names(name, key), offer.reason))
    for _, _, offer in offers:
        for slot in offer.slots:
            uses[id(slot.weight)].as_weight.append(slot)
            if slot.bias is not None:
                uses[id(slot.bias)].as_bias.append(slot)
    return uses


def _offers(model: nn.Module) -> Iterable[tuple[str, nn.Module, Offer]]:
    """Yield every module with parameters of its own; an out_proj comes with its attention."""
    inside: dict[int, str] = {}  # id of an out_proj -> why it cannot be attributed
    for name, module in model.named_modules():
        # The exact class, as everywhere: a subclass may compute something else.
        if type(module) is nn.MultiheadAttention:
            offer = attention_offer(name, module)
            inside[id(module.out_proj)] = offer.reason
            yield name, module, offer
        elif id(module) in inside:
            yield name, module, Offer(reason=inside[id(module)])
        elif next(module.parameters(recurse=False), None) is not None:
            yield name, module, _offered(name, module)


def _reason(use: _Use, rehearsal: Rehearsal) -> str:
    """Return why a parameter is not attributed, or ""."""
    if not use.parameter.requires_grad:
        return "frozen (requires_grad is False)"
    if use.reasons:
        name, reason = use.reasons[0]
        return reason if len(use.names) == 1 else f"tied, and for {name}: {reason}"
    if use.as_weight and use.as_bias:
        return "tied: it is a weight and a bias"
    if not any(rehearsal.calls(slot.site.module) for slot in use.slots):
        return "called 0 times in one forward pass"
    if not _frames_agree(use.as_weight):
        return "tied: its modules lay it out differently"
    return ""


def _frames_agree(slots: list[Slot]) -> bool:
    frames = {slot.frame for slot in slots if not slot.site.kind.indexed}
    indexed = {slot.frame for slot in slots if slot.site.kind.indexed}
    if not (frames and indexed):
        return len(frames) + len(indexed) <= 1
    # An embedding's [D, V] is a linear output layer's [V, D].
    mirrored = {(groups, inputs, outputs, False) for groups, outputs, inputs, _ in indexed}
    return len(frames) == 1 and frames == mirrored


def _layers(
    uses: dict[int, _Use], sites: dict[int, Site], settings_of: Callable[[str], Hashable]
) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    folded: set[int] = set()
    for key, use in uses.items():
        if key in folded:
            continue
        if use.as_weight:
            bias = _bias_of(use, uses, settings_of)
            if bias is not None:
                folded.add(id(bias.parameter))
            layers.append(_weight_layer(use, bias, sites))
        else:
            layers.append(_bias_layer(use, sites))
    return tuple(layers)


def _bias_of(
    use: _Use, uses: dict[int, _Use], settings_of: Callable[[str], Hashable]
) -> _Use | None:
    """Return the bias that makes one layer with a weight, or None."""
    bias = uses.get(id(use.as_weight[0].bias))
    if bias is None or bias.as_bias != use.as_weight:
        return None
    alike = settings_of(use.names[0]) == settings_of(bias.names[0])
    return bias if alike else None


def _weight_layer(use: _Use, bias: _Use | None, sites: dict[int, Site]) -> Layer:
    # Where an embedding shares it, the other module's layout stands.
    slots = sorted(use.as_weight, key=lambda slot: slot.site.kind.indexed)
    first = slots[0]
    alone = bias is None and any(slot.bias is not None for slot in slots)
    return Layer(
        name=use.names[0] if alone else use.as_weight[0].name,
        # A bias's groups may be shared out over several weights; a weight's are all its own.
        sites=tuple(replace(sites[id(slot)], first_group=0) for slot in slots),
        groups=first.groups,
        outputs=first.outputs,
        inputs=first.inputs + (bias is not None),
        weight=use.names[0],
        bias=bias.names[0] if bias else None,
        transposed=first.transposed,
    )


def _bias_layer(use: _Use, sites: dict[int, Site]) -> Layer:
    first = use.as_bias[0]
    return Layer(
        name=use.names[0],
        sites=tuple(sites[id(slot)] for slot in use.as_bias),
        groups=first.bias_groups,
        outputs=first.outputs,
        inputs=1,
        weight=None,
        bias=use.names[0],
    )


def _offered(name: str, module: nn.Module) -> Offer:
    """Return what a module with parameters of its own offers."""
    own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    kind = next((one for one in LAYER_TYPES if one.fits(module)), None)
    if kind is None or "weight" not in own or not own.keys() <= {"weight", "bias"}:
        return Offer(reason=f"{type(module).__name__} is not supported")
    if reason := kind.refusal(module):
        return Offer(reason=reason)
    weight, bias = own["weight"], own.get("bias")
    groups = kind.groups(module)
    # A normalisation's groups may spread over several dimensions of its weight.
    outputs = weight.shape[1] if kind.transposed else max(1, weight.shape[0] // groups)
    slot = Slot(
        name=name,
        site=Site(name, kind),
        weight=weight,
        groups=groups,
        outputs=outputs,
        inputs=weight.numel() // (groups * outputs),
        transposed=kind.transposed,
        bias=bias,
        bias_groups=groups,
    )
    return Offer((slot,))
