"""Which parameters of the model each number in an optimiser's state stands for.

torch numbers parameters in the order in which the optimiser was given them, group after group.
The names are in the file (`param_names`, where the optimiser was made from named parameters,
or the checkpoint's own `parameter_names`), or they follow from the model: the only way to
share its parameters, in order, among the groups so that all shapes fit.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

from torch import Tensor, nn

from sourcetrace.checkpoints.prefixes import beside_prefix, without_prefix
from sourcetrace.checkpoints.training.optimizer_state import TrainingState
from sourcetrace.core.training.optimizer_settings import ADAPTIVE, ParameterGroup
from sourcetrace.errors import InputError
from sourcetrace.formats import format_names

_REMEDY = (
    "Make the optimiser from named parameters (torch.optim.AdamW(model.named_parameters(), …)), "
    "or add parameter_names to the checkpoint: the names of the optimiser's parameters, group "
    "after group."
)

_OF_ADAPTERS = re.compile(r"(\.modules_to_save)?\.default(?=\.|$)")
"""What peft takes out of the names of adapters that it saves without the model below them."""


class ModelParameters:
    """The parameters of a model, each with all the names that it has there.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        names: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        self._together = {name: tuple(same) for same in names.values() for name in same}
        # In the model's order, under the first name of each.
        self._shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self._trainable = [name for name, p in model.named_parameters() if p.requires_grad]
        state = model.state_dict()
        self._state = state.keys()
        # Name in a file of adapters alone -> in the model.
        adapted = state if hasattr(model, "peft_config") else ()
        self._adapters = {_OF_ADAPTERS.sub("", name): name for name in adapted}
        trained = {*self._trainable, *(n for own, n in self._adapters.items() if own != n)}
        self._below = {name: state[name] for name in adapted if name not in trained}

    def fill(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights under every name of a parameter that the model ties.

        A file may hold it under one of them, as safetensors' `save_model` and transformers write
        it. What a wrapper put before every name is taken off, and what it had beside the model left
        out. To adapters that were saved alone come the frozen weights that the model has itself.
        """
        if weights.keys() <= self._adapters.keys():
            weights = self._below | {self._adapters[n]: one for n, one in weights.items()}
        beside = set(self.beside(weights))
        plain = zip(without_prefix(list(weights), self._state), weights.items(), strict=True)
        filled = {name: value for name, (own, value) in plain if own not in beside}
        for name, same in self._together.items():
            held = [filled[one] for one in same if one in filled]
            if held:
                filled.setdefault(name, held[0])
        return filled

    def beside(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Return what a wrapper that held the model had beside it, such as a loss's weights."""
        return beside_prefix(list(weights), self._state)

    def name_groups(
        self, file: str, training: TrainingState
    ) -> tuple[tuple[ParameterGroup, ...], dict[int, tuple[str, ...]]]:
        """Return the groups with their parameters, and place in the state -> a parameter's names.

        A parameter that the model has under several names is listed under each. One without a
        state, of an optimiser that keeps states, was never moved, and is left out.

        Raises:
            InputError: If names, shapes or numbers do not fit the model, or several ways would.
        """
        if all(group.names is None and not group.places for group in training.groups):
            # A sidecar of SGD: nothing but the settings, of every parameter.
            every = tuple(self._together)
            return tuple(replace(one.settings, parameters=every) for one in training.groups), {}
        if any(group.names is None for group in training.groups):
            order = self._infer(file, training)
        else:
            order = self._known(file, [group.names or () for group in training.groups])
        places: dict[int, tuple[str, ...]] = {}
        named = []
        for group, names in zip(training.groups, order, strict=True):
            kept: list[str] = []
            keeps_state = training.optimizer in ADAPTIVE or group.settings.momentum > 0
            for index, name in enumerate(names):
                if group.places:
                    place = group.places[index]
                    shape = training.shapes.get(place)
                    if shape not in (None, self._shapes[name]):
                        raise InputError(
                            f"{file}: the optimiser's state of {name} has shape "
                            f"{list(shape or ())}, the model's parameter "
                            f"{list(self._shapes[name])}. {_REMEDY} A state that was flattened or "
                            "split over processes must be saved whole."
                        )
                    if keeps_state and training.shapes and shape is None:
                        continue
                    places[place] = self._together[name]
                kept += self._together[name]
            named.append(replace(group.settings, parameters=tuple(kept)))
        return tuple(named), places

    def _known(self, file: str, groups: Sequence[Sequence[str]]) -> list[list[str]]:
        plain = without_prefix([name for names in groups for name in names], self._together)
        unknown = [name for name in plain if name not in self._together]
        if unknown:
            raise InputError(
                f"{file}: the optimiser has parameters that the model does not: "
                f"{format_names(unknown)}. Let build_model() return the architecture that was "
                "trained."
            )
        following = iter(plain)
        return [[self._together[name][0] for name in islice(following, len(n))] for n in groups]

    def _infer(self, file: str, training: TrainingState) -> list[list[str]]:
        """Share the model's parameters among the groups, each group in the model's order."""
        counts = [len(group.places) for group in training.groups]
        shapes = self._shapes
        whole = [names for names in (list(shapes), self._trainable) if len(names) == sum(counts)]
        if whole and len(counts) == 1:
            return [whole[0]]
        ways = _ways(whole[0] if whole else list(shapes), training, shapes)
        if len(ways) == 1:
            return ways[0]
        raise InputError(
            f"{file}: the optimiser's {sum(counts)} parameters in {len(counts)} groups have no "
            f"names and {'can' if ways else 'cannot'} be matched to the model's {len(shapes)}"
            f"{' in several ways' if ways else ''}. {_REMEDY}"
        )


def _ways(
    names: Sequence[str], training: TrainingState, shapes: Mapping[str, tuple[int, ...]]
) -> list[list[list[str]]]:
    """Return up to two ways in which every group takes parameters in order and all shapes fit."""
    groups = [group.places for group in training.groups]
    full = tuple(map(len, groups))
    may_skip = len(names) > sum(full)
    # How many each group has taken -> up to two ways there, each (owner of the last name, rest);
    # -1 owns what no group has.
    reached: dict[tuple[int, ...], list[_Way]] = {(0,) * len(groups): [None]}
    for position, name in enumerate(names):
        following: dict[tuple[int, ...], list[_Way]] = {}
        for taken, ways in reached.items():
            owners = [-1] if may_skip else []
            for number, places in enumerate(groups):
                if taken[number] < full[number]:
                    shape = training.shapes.get(places[taken[number]])
                    owners += [number] if shape in (None, shapes[name]) else []
            for owner in owners:
                more = tuple(n + (index == owner) for index, n in enumerate(taken))
                if sum(full) - sum(more) < len(names) - position:
                    known = following.setdefault(more, [])
                    known += [(owner, way) for way in ways][: 2 - len(known)]
        reached = following
    return [_shared_out(names, way, len(groups)) for way in reached.get(full, [])]


_Way = tuple[int, "_Way"] | None


def _shared_out(names: Sequence[str], way: "_Way", groups: int) -> list[list[str]]:
    shares: list[list[str]] = [[] for _ in range(groups)]
    for name in reversed(names):
        assert way is not None  # noqa: S101, one link a name
        owner, way = way
        if owner >= 0:
            shares[owner].insert(0, name)
    return shares
