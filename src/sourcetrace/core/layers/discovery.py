"""Finding the layers of a model, by forward passes over it.

Each module offers slots: a weight and perhaps a bias at one site. A parameter in several
slots is shared by them, and is attributed once, as the sum. Weight and bias make one layer
where they are used together everywhere and are trained alike.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from torch import nn

from sourcetrace.core.layers.kinds.registry import kind_of
from sourcetrace.core.layers.layer import WITHOUT_GRADIENTS, Layer, Slot
from sourcetrace.core.layers.offers import offers
from sourcetrace.core.layers.rehearsal import Rehearsal, refuse_compiled
from sourcetrace.errors import InputError


@dataclass(frozen=True)
class _Unattributed:
    """A parameter that carries no attribution, and why."""

    name: str
    size: int
    reason: str


@dataclass(frozen=True)
class Coverage:
    """Which parameters of a model are attributed; nothing is skipped in silence.

    Attributes:
        layers: Each parameter of a layer belongs to that one alone.
        unattributed: The other parameters.
        tied: An attributed parameter that has several names -> the others; its gradient is
            the sum over all its uses.
    """

    layers: tuple[Layer, ...]
    unattributed: tuple[_Unattributed, ...]
    tied: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def alone(self) -> tuple[Layer, ...]:
        """The layers that take passes of every example alone, bare parameters among them."""
        return tuple(layer for layer in self.layers if layer.alone)

    @property
    def share(self) -> float:
        """Share of the model's parameters that carry attribution, 0 to 1."""
        attributed = sum(layer.size for layer in self.layers)
        total = attributed + sum(parameter.size for parameter in self.unattributed)
        return attributed / total if total else 0.0


@dataclass
class _Use:
    """A parameter: its names in the model, what is done with it, and why nothing is, if so."""

    parameter: nn.Parameter
    names: list[str] = field(default_factory=list)
    as_weight: list[Slot] = field(default_factory=list)
    as_bias: list[Slot] = field(default_factory=list)
    without_slot: list[tuple[str, str]] = field(default_factory=list)  # name, why
    reason: str = ""
    alone: bool = False
    refused: bool = False  # by its module's kind, and so for good

    @property
    def slots(self) -> list[Slot]:
        return self.as_weight or self.as_bias


def find_layers(
    model: nn.Module,
    run_forward: Callable[[], object],
    settings_of: Callable[[str], Hashable] | None = None,
    *,
    examples: int | None = None,
    further: Sequence[tuple[Callable[[], object], int]] = (),
    bare: int | None = None,
    hidden: Set[str] = frozenset(),
) -> Coverage:
    """Find the layers of `model` that can be attributed.

    Args:
        model: The model, in evaluation mode.
        run_forward: Runs one forward pass of the model, which shows the calls of modules.
        settings_of: Name of a parameter -> its optimiser's settings. A weight and a bias that
            differ become two layers, so that each layer has one setting.
        examples: How many examples that pass has, where it is known. Layers whose input does
            not say which example it belongs to are then named instead of refused later.
        further: More forward passes, of other numbers of examples: what counts examples in one
            pass by chance does not in all, and what the data decides shows.
        bare: How many numbers all parameters together may have that no known kind of module
            covers; the smallest are taken first, and each is a layer by itself. None, where no
            example can be passed alone: neither they nor the layers that do not say which
            example their input belongs to are attributed.
        hidden: Parameters that are used where no module shows it, which are bare at most.

    Raises:
        InputError: If no parameter at all can be attributed, a module is compiled, or a layer
            runs without gradients.
    """
    refuse_compiled(model.named_modules())
    rehearsal = Rehearsal(model, [(run_forward, examples), *further])
    uses = _uses(model, rehearsal)
    for use in uses.values():
        if use.parameter.requires_grad:
            for slot in use.slots:
                module = model.get_submodule(slot.site.module)
                dimension = rehearsal.example_dimension(slot.site, module)
                if not isinstance(dimension, str):
                    slot.site = replace(slot.site, example_dimension=dimension)
                elif bare is not None and rehearsal.shows_alone(slot.site, module):
                    use.alone = True
                else:
                    use.reason = dimension
        if not use.reason and not hidden.isdisjoint(use.names):
            use.reason = "used where no module shows it"
        use.reason = _reason(use, rehearsal) or use.reason
    known = {key: use for key, use in uses.items() if not use.reason}
    layers = _layers(known, settings_of or (lambda _: None))
    needed = {site.module for layer in layers for site in layer.sites}
    if found := needed.intersection(rehearsal.without_gradient):
        raise InputError(
            f"{', '.join(sorted(n or 'The model' for n in found))} {WITHOUT_GRADIENTS}"
        )
    taken = _take_bare(uses.values(), rehearsal, bare or 0)
    layers += tuple(_bare_layer(use) for use in taken)
    unattributed = tuple(
        _Unattributed(use.names[0], use.parameter.numel(), use.reason)
        for use in uses.values()
        if use.reason
    )
    if not layers:
        names = ", ".join(f"{p.name} ({p.reason})" for p in unattributed[:5])
        raise InputError(
            "No parameter of the model can be attributed: expected at least one trainable "
            "layer of a known kind (nn.Linear, a convolution, a normalisation, nn.Embedding, "
            f"nn.MultiheadAttention, nn.LSTM) that a forward pass calls, found {names or 'none'}."
        )
    tied = {
        use.names[0]: tuple(use.names[1:])
        for use in uses.values()
        if not use.reason and use.names[1:]
    }
    return Coverage(layers, unattributed, tied)


def _uses(model: nn.Module, rehearsal: Rehearsal) -> dict[int, _Use]:
    """Return every parameter by its id, in the model's order."""
    uses: dict[int, _Use] = {}
    offered = list(offers(model, rehearsal))
    for name, module, offer in offered:
        kind = kind_of(module)
        refused = kind is not None and offer == kind.refusal(module)
        for key, parameter in module.named_parameters(name, recurse=False, remove_duplicate=False):
            use = uses.setdefault(id(parameter), _Use(parameter))
            use.names.append(key)
            if isinstance(offer, str):
                use.without_slot.append((key, offer))
                use.refused |= refused
    for _, _, offer in offered:
        for slot in () if isinstance(offer, str) else offer:
            if slot.weight is not None:
                uses[id(slot.weight)].as_weight.append(slot)
            if slot.bias is not None:
                uses[id(slot.bias)].as_bias.append(slot)
    return uses


def _reason(use: _Use, rehearsal: Rehearsal) -> str:
    """Return why a parameter is not attributed, or ""."""
    if not use.parameter.requires_grad:
        return "frozen (requires_grad is False)"
    # Modules that are not called do nothing with what others share with them.
    without = [
        (name, reason)
        for name, reason in use.without_slot
        if not use.slots or name.rpartition(".")[0] in rehearsal.calls
    ]
    if without:
        name, reason = without[0]
        return reason if len(use.names) == 1 else f"tied, and for {name}: {reason}"
    if use.as_weight and use.as_bias:
        return "tied: it is a weight and a bias"
    if not any(slot.site.module in rehearsal.calls for slot in use.slots):
        return "called 0 times in one forward pass"
    if len({slot.frame for slot in use.as_weight}) > 1:
        return "tied: its modules lay it out differently"
    return ""


def _take_bare(uses: Iterable[_Use], rehearsal: Rehearsal, most: int) -> list[_Use]:
    """Return the uses that are attributed by themselves, and say why the others are not."""
    trainable = [
        use
        for use in uses
        if most
        and use.reason
        and not use.refused
        and use.parameter.dtype.is_floating_point
        and use.parameter.requires_grad
    ]
    reached = rehearsal.reached([use.parameter for use in trainable])
    for use, used in sorted(
        zip(trainable, reached, strict=True), key=lambda one: one[0].parameter.numel()
    ):
        if not used:
            use.reason = f"the outputs of the first examples do not depend on it ({use.reason})"
        elif use.parameter.numel() > most:
            use.reason += ", and attribution.bare_parameters leaves no room for its numbers"
        else:
            most -= use.parameter.numel()
            use.reason = ""
    return [use for use in trainable if not use.reason]


def _layers(uses: Mapping[int, _Use], settings_of: Callable[[str], Hashable]) -> tuple[Layer, ...]:
    folded = {}  # weight -> the bias that makes one layer with it
    for key, use in uses.items():
        bias_key = id(use.as_weight[0].bias) if use.as_weight else 0
        bias = uses.get(bias_key)
        if (
            bias is not None
            and bias.as_bias == use.as_weight
            and settings_of(use.names[0]) == settings_of(bias.names[0])
        ):
            folded[key] = bias_key
    biases = set(folded.values())
    return tuple(
        _weight_layer(use, uses[folded[key]].names[0] if key in folded else None)
        if use.as_weight
        else _bias_layer(use)
        for key, use in uses.items()
        if key not in biases
    )


def _weight_layer(use: _Use, bias: str | None) -> Layer:
    # Where an embedding shares it, the other module's layout stands.
    slots = sorted(use.as_weight, key=lambda slot: slot.site.kind.indexed)
    first = slots[0]
    alone = bias is None and any(slot.bias is not None for slot in slots)
    return Layer(
        name=use.names[0] if alone else use.as_weight[0].site.key,
        # A bias's groups may be shared out over several weights; a weight's are all its own.
        sites=tuple(replace(slot.site, first_group=0) for slot in slots),
        groups=first.groups,
        outputs=first.outputs,
        inputs=first.inputs + (bias is not None),
        weight=use.names[0],
        bias=bias,
        alone=use.alone,
    )


def _bias_layer(use: _Use) -> Layer:
    first = use.as_bias[0]
    return Layer(
        name=use.names[0],
        sites=tuple(slot.site for slot in use.as_bias),
        groups=first.bias_groups,
        outputs=first.outputs,
        inputs=1,
        weight=None,
        bias=use.names[0],
        alone=use.alone,
    )


def _bare_layer(use: _Use) -> Layer:
    return Layer(
        name=use.names[0],
        sites=(),
        groups=1,
        outputs=use.parameter.numel(),
        inputs=1,
        weight=None,
        bias=use.names[0],
        alone=True,
    )
