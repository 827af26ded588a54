"""Bind every parameter of a model to the checkpoint tensors it is made of.

before:  a model without weights (on meta, or fake), and a checkpoint of unread tensors
after:   a ``Binding``: each parameter can be made on its own, exactly as transformers would load it

Everything that transformers would only warn about is an error here: a parameter without a tensor
would be random numbers, a tensor without a parameter means that the model is not what was trained.
But where only a part of the model is used, as when a text becomes a vector, a checkpoint may lack
the other parameters and may have heads that the model lacks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from graphopt.errors import CheckpointError

from .checkpoint import Checkpoint
from .recipes import Recipe, plan_recipes, run
from .ties import all_equal, tied_groups
from .weights import WeightIndex

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_SHOWN = 5
# Buffers that old checkpoints stored and every model computes.
_COMPUTED = re.compile(r"(^|\.)((original_)?inv_freq|position_ids)$")
# Causal masks that old checkpoints stored under the name of a bias: told from one by their shape.
_MASK = re.compile(r"(^|\.)(attn|attention|self_attn|self_attention)\.(bias|masked_bias)$")


class Binding:
    """Every parameter of one model, each to be made from the checkpoint when it is wanted.

    Attributes:
        names: parameters and persistent buffers that the checkpoint gives, in the model's order.
        aliases: names that are the same tensor as another, and that other.
        unused: checkpoint tensors that nobody needs, all of a kind known to be computed.
        unbound: buffers that the checkpoint need not have: the model's own values hold.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        index: WeightIndex,
        parameters: Mapping[str, torch.Tensor],
        recipes: Mapping[str, Recipe],
        aliases: Mapping[str, str],
        unused: tuple[str, ...],
        unbound: tuple[str, ...],
    ) -> None:
        self._model = model
        self._index = index
        self._recipes = dict(recipes)
        self._dtypes = {name: tensor.dtype for name, tensor in parameters.items()}
        self.names = tuple(n for n in parameters if n in recipes or n in aliases)
        self.aliases = dict(aliases)
        self.unused = unused
        self.unbound = unbound

    def sources(self, name: str) -> tuple[str, ...]:
        """The checkpoint tensors that the parameter ``name`` is made of.

        Raises:
            CheckpointError: no such parameter.
        """
        return self._recipe(name).names

    def load(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Makes the parameter ``name``; the memory used is this parameter's (and its group's).

        A plain copy in its own type is the file mapped into memory: do not write to the result.

        Args:
            name: a name of the model's ``state_dict``.
            dtype: the floating-point type wanted, instead of the one the model declares.

        Raises:
            CheckpointError: no such parameter, or its file changed.
        """
        recipe = self._recipe(name)
        return self._make(recipe, dtype)[self.aliases.get(name, name)]

    def tensors(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """Every distinct parameter once, aliases left out; what is made together is made once."""
        done: set[str] = set()
        for name in self.names:
            if name in self.aliases or name in done:
                continue
            for made, tensor in self._make(self._recipes[name], dtype).items():
                if made not in self.aliases:
                    done.add(made)
                    yield made, tensor

    def _recipe(self, name: str) -> Recipe:
        recipe = self._recipes.get(self.aliases.get(name, name))
        if recipe is None:
            raise CheckpointError(f"the model has no parameter {name!r} in the checkpoint")
        return recipe

    def _make(self, recipe: Recipe, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
        """Runs a recipe, casting its sources first, as transformers does."""
        declared = self._dtypes[recipe.target]
        wanted = dtype if dtype is not None and declared.is_floating_point else declared
        made = run(recipe, self._model, lambda name: self._index.get(name).to(wanted))
        return {name: tensor.contiguous() for name, tensor in made.items()}


def bind(
    model: PreTrainedModel, checkpoint: Checkpoint, *, used: Collection[str] | None = None
) -> Binding:
    """Finds, for every parameter of ``model``, the tensors of ``checkpoint`` it is made of.

    Reads no weights, except to compare tensors that the model says are one and the checkpoint
    stores twice.

    Args:
        model: an instance of transformers' class for the checkpoint; may be on meta or fake.
        checkpoint: the opened checkpoint.
        used: the parameters that the checkpoint must have; None for all of them. Given, tensors of
            modules beside the model's own are passed over.

    Raises:
        CheckpointError: missing or superfluous tensors, wrong shapes or kinds of element, tensors
            that are tied in the model and different in the checkpoint.
    """
    index = checkpoint.index
    where = str(checkpoint.folder)
    parameters: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
    plan = plan_recipes(model, parameters, index)
    recipes: dict[str, Recipe] = {}
    for recipe in plan.recipes:
        for name in _check_outputs(recipe, model, parameters, index):
            if name in recipes:
                raise CheckpointError(
                    f"two tensors of the checkpoint are both {name!r}",
                    where=where,
                    got=f"{recipes[name].names[0]} and {recipe.names[0]}",
                )
            recipes[name] = recipe
    groups = tied_groups(model, parameters)
    aliases = _resolve_ties(groups, recipes, model, parameters, index, where)
    superfluous = _superfluous(plan.unmatched, model, index)
    if used is not None:
        own = {name.partition(".")[0] for name in parameters}
        heads = {name for name in superfluous if _module(name, model).isdisjoint(own)}
        superfluous = tuple(name for name in superfluous if name not in heads)
    needed = parameters if used is None else [name for name in parameters if name in used]
    unbound = _check_missing(model, needed, recipes.keys() | aliases, superfluous, where)
    if superfluous:
        raise CheckpointError(
            f"{len(superfluous)} tensors of the checkpoint have no place in {_name(model)}",
            where=where,
            got=_some(superfluous),
            next="the checkpoint is of another model than config.json says, or has parts that this "
            "class leaves out: load it with transformers and save what it keeps",
        )
    return Binding(model, index, parameters, recipes, aliases, tuple(plan.unmatched), unbound)


def keep_in_float32(model: PreTrainedModel, dtype: torch.dtype) -> tuple[str, ...]:
    """Names of parameters that transformers loads in float32 although the rest is ``dtype``.

    transformers applies this when it loads weights, not when it builds a model: a model built
    without weights has them in ``dtype`` until its owner changes that.
    """
    from transformers.core_model_loading import build_glob_alternation

    plan = model._get_dtype_plan(dtype)
    if not plan:
        return ()
    pattern = build_glob_alternation(list(plan))[0]
    return tuple(name for name in model.state_dict() if pattern.search(name))


def _check_outputs(
    recipe: Recipe,
    model: PreTrainedModel,
    parameters: Mapping[str, torch.Tensor],
    index: WeightIndex,
) -> tuple[str, ...]:
    """What a recipe makes, found by running it on meta tensors; every shape must be right."""
    import torch

    declared = parameters[recipe.target].dtype
    for source in recipe.names:
        info = index.info(source)
        same_kind = info.is_float if declared.is_floating_point else info.torch_dtype == declared
        if not same_kind:
            raise CheckpointError(
                f"tensor {source!r} has the wrong kind of element for {recipe.target!r}",
                where=str(info.file),
                got=info.dtype,
                expected="floating point" if declared.is_floating_point else declared,
                next="quantized or packed weights are not supported: use the plain checkpoint",
            )
    made = run(
        recipe,
        model,
        lambda name: torch.empty(index.info(name).shape, dtype=declared, device="meta"),
    )
    for name, tensor in made.items():
        if name not in parameters:
            raise CheckpointError(
                f"the checkpoint's tensors make {name!r}, which {_name(model)} does not have",
                where=_some(recipe.names),
            )
        expected = tuple(parameters[name].shape)
        if tuple(tensor.shape) != expected:
            count = len(recipe.names)
            raise CheckpointError(
                f"parameter {name!r} has the wrong shape",
                where=str(index.info(recipe.names[0]).file),
                got=f"{list(tensor.shape)} from {_some(recipe.names)}"
                + (f" ({count} tensors)" if count > 1 else ""),
                expected=list(expected),
                next="config.json and the weights are not of the same model",
            )
    return tuple(made)


def _resolve_ties(
    groups: tuple[tuple[str, ...], ...],
    recipes: dict[str, Recipe],
    model: PreTrainedModel,
    parameters: Mapping[str, torch.Tensor],
    index: WeightIndex,
    where: str,
) -> dict[str, str]:
    """Names that share another's tensor, whichever of them the checkpoint stores.

    Removes the recipes of names that turn out to be the same as another's.
    """
    aliases: dict[str, str] = {}
    for group in groups:
        stored = [name for name in group if name in recipes]
        if not stored:
            continue

        def fetch(name: str) -> torch.Tensor:
            dtype = parameters[name].dtype
            return run(recipes[name], model, lambda source: index.get(source).to(dtype))[name]

        if not all_equal(stored, fetch):
            raise CheckpointError(
                "the model ties parameters that differ in the checkpoint",
                where=where,
                got=" and ".join(stored),
                expected="equal tensors, or only one of them",
                next='set "tie_word_embeddings": false in config.json if they were trained apart',
            )
        for name in group:
            if name != stored[0]:
                recipes.pop(name, None)
                aliases[name] = stored[0]
    return aliases


def _superfluous(
    unmatched: Mapping[str, tuple[str, ...]], model: PreTrainedModel, index: WeightIndex
) -> tuple[str, ...]:
    """Unmatched tensors that are neither computed by every model nor ignored by this class."""
    ignored = _patterns(model, "_keys_to_ignore_on_load_unexpected")

    def harmless(name: str, targets: tuple[str, ...]) -> bool:
        if _COMPUTED.search(name):
            return True
        shape = index.info(name).shape
        is_mask = shape in ((), (1,)) or (
            len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
        )
        if is_mask and _MASK.search(name):
            return True
        return any(pattern.search(key) for pattern in ignored for key in (name, *targets))

    return tuple(name for name, targets in unmatched.items() if not harmless(name, targets))


def _check_missing(
    model: PreTrainedModel,
    needed: Iterable[str],
    given: set[str],
    superfluous: tuple[str, ...],
    where: str,
) -> tuple[str, ...]:
    """Raises for parameters that nothing gives; returns the buffers that may keep their values."""
    ignored = _patterns(model, "_keys_to_ignore_on_load_missing")
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    missing, unbound = [], []
    for name in needed:
        if name in given:
            continue
        if name in buffers and any(pattern.search(name) for pattern in ignored):
            unbound.append(name)
        else:
            missing.append(name)
    if missing:
        raise CheckpointError(
            f"{len(missing)} parameters of {_name(model)} have no tensor in the checkpoint",
            where=where,
            got=f"{len(superfluous)} tensors that fit nowhere: {_some(superfluous)}"
            if superfluous
            else "no tensor that is left over",
            expected=_some(missing),
            next="the checkpoint is incomplete, or of another model than config.json says",
        )
    return tuple(unbound)


def _module(name: str, model: PreTrainedModel) -> set[str]:
    """The module that a tensor belongs to, whether or not its name begins with the base model's."""
    first, _, rest = name.partition(".")
    return {first, rest.partition(".")[0]} if first == model.base_model_prefix else {first}


def _patterns(model: PreTrainedModel, attribute: str) -> list[re.Pattern[str]]:
    """The regular expressions that a model's class keeps in ``attribute``."""
    return [re.compile(pattern) for pattern in getattr(model, attribute, None) or ()]


def _name(model: PreTrainedModel) -> str:
    return type(model).__name__


def _some(names: tuple[str, ...] | list[str]) -> str:
    """The first few names."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN))
