"""Which checkpoint tensors make which parameters, by the conversion table of transformers itself.

transformers renames what older code called otherwise, adds or drops the base model's prefix, stacks
one tensor per expert into one per layer, splits fused projections, and so on. Its table and its
operations are called here, not copied: ``plan_recipes`` follows the name matching of its loader
(``core_model_loading.convert_and_load_state_dict_in_model``) but records instead of reading, and
``run`` carries out one record, on real tensors or, to learn shapes, on meta tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphopt.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one parameter, or a group that is made together, comes from checkpoint tensors.

    Args:
        target: the (first) parameter made.
        sources: checkpoint tensors in the order in which they are stacked, by the pattern of the
            table that each matched.
        converter: the table's entry, never run itself but copied; None for a plain copy.
    """

    target: str
    sources: Mapping[str, tuple[str, ...]]
    converter: Any

    @property
    def names(self) -> tuple[str, ...]:
        """Every checkpoint tensor that is used."""
        return tuple(name for names in self.sources.values() for name in names)


@dataclass(frozen=True, slots=True)
class Recipes:
    """The result of matching names.

    Args:
        recipes: what can be made.
        unmatched: for each checkpoint tensor that makes nothing, the parameter names it stands for.
    """

    recipes: tuple[Recipe, ...]
    unmatched: Mapping[str, tuple[str, ...]]


def plan_recipes(
    model: PreTrainedModel, parameters: Mapping[str, torch.Tensor], stored: Iterable[str]
) -> Recipes:
    """Matches the names of checkpoint tensors with those of a model's parameters.

    Args:
        model: the model; its weights are not looked at, it may be on meta.
        parameters: its parameters and persistent buffers by name.
        stored: the names of the checkpoint's tensors.

    Raises:
        CheckpointError: two tensors claim one parameter, or a list of experts has a gap.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import (
        WeightConverter,
        WeightRenaming,
        dot_natural_key,
        rename_source_key,
    )

    table = get_model_conversion_mapping(model)
    renamings = [entry for entry in table if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in table if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    known = dict(parameters)
    prefix = model.base_model_prefix

    groups: dict[str, tuple[Any, dict[str, list[str]]]] = {}
    unmatched: dict[str, tuple[str, ...]] = {}
    # The table counts on this order: experts by number, and the guard of a group before the rest.
    for name in sorted(stored, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, prefix, known)
        if target not in known and name in known:
            target, pattern = rename_source_key(name, [], [], prefix, known)
        converter = None if pattern is None else by_pattern[pattern]
        if target not in known:
            unmatched[name] = _targets(target, converter)
            continue
        kept, sources = groups.setdefault(target, (converter, {}))
        if kept is not converter or (converter is None and sources):
            others = [other for names in sources.values() for other in names]
            raise CheckpointError(
                f"two tensors of the checkpoint are both {target!r}",
                got=f"{others[0]} and {name}",
                next="save the checkpoint again with transformers: it keeps one of them",
            )
        sources.setdefault(name if pattern is None else pattern, []).append(name)
    recipes = tuple(
        Recipe(target, {pattern: tuple(names) for pattern, names in sources.items()}, converter)
        for target, (converter, sources) in groups.items()
    )
    for recipe in recipes:
        _check_lists(recipe)
    return Recipes(recipes, unmatched)


def run(
    recipe: Recipe, model: PreTrainedModel, fetch: Callable[[str], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Makes the recipe's parameters.

    Args:
        recipe: what to make.
        model: the model, for operations that look at its configuration and shapes.
        fetch: gives a checkpoint tensor by name.

    Raises:
        CheckpointError: the operation cannot take these tensors.
    """
    if recipe.converter is None:
        (name,) = recipe.names
        return {recipe.target: fetch(name)}
    converter = deepcopy(recipe.converter)
    for pattern, names in recipe.sources.items():
        for name in names:
            converter.add_tensor(recipe.target, name, pattern, fetch(name))
    try:
        made = converter.convert(recipe.target, model=model, config=model.config)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"cannot make {recipe.target!r} from the checkpoint's tensors",
            where=", ".join(recipe.names[:4]) + (" ..." if len(recipe.names) > 4 else ""),
            got=str(error)[:300],
            expected=f"tensors that {converter} can combine",
        ) from error
    return {name: value[0] if isinstance(value, list) else value for name, value in made.items()}


def _targets(renamed: str, converter: Any) -> tuple[str, ...]:
    """The parameters that a tensor stands for, one or the several that it is split into."""
    if converter is None:
        return (renamed,)
    first = converter.target_patterns[0]
    return tuple(renamed.replace(first, target) for target in converter.target_patterns)


def _check_lists(recipe: Recipe) -> None:
    """Stacked tensors must be numbered 0, 1, 2, ...: a gap would shift every expert after it."""
    for names in recipe.sources.values():
        if len(names) < 2:
            continue
        columns = list(zip(*(name.split(".") for name in names), strict=False))
        varying = [column for column in columns if len(set(column)) > 1]
        if len(varying) != 1 or not all(part.isdecimal() for part in varying[0]):
            continue
        numbers = [int(part) for part in varying[0]]
        if numbers != list(range(len(numbers))):
            gap = next(i for i, number in enumerate(numbers) if number != i)
            raise CheckpointError(
                f"{recipe.target!r} is stacked from numbered tensors and number {gap} is missing",
                got=f"{names[0]} ... {names[-1]}, {len(names)} tensors",
                next="download the checkpoint again: it is incomplete",
            )
