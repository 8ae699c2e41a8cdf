"""Gradient methods with low-rank adapters: the weights stand still, thin matrices beside them are trained.

Read it as: `Npo(adapter="lora", adapter_rank=8).fit(model, concept)`. The edit holds the matrices; `edit.write(model,
out)` adds them to the weights, `edit.write_adapter(model, out)` writes them in PEFT's format.

Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685 (LoRA); fila.py says where FILA's adapters begin. There the
edit is what was trained less what it began with, so it is an adapter of twice the rank on the model as it was.
Expect: learning rates ten times those of full training or more.
Cannot do: single neurons and heads, masks, embeddings, norms, and the experts of a mixture, which are no linear maps.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from interventions.gradient.fila import beginning, row_weights
from interventions.retaining import retain_facts
from workbench.concepts import Concept
from workbench.edits import WeightEdit, kept
from workbench.errors import BadInput
from workbench.experts import whole_names
from workbench.fisher import answer_squares
from workbench.intervention import Intervention
from workbench.low_rank import adapted, linear_maps, stored_transposed
from workbench.low_rank_change import LowRank
from workbench.model import HookedModel


class Adaptable(Intervention):
    """Options of a method that can train adapters."""

    adaptable: ClassVar[bool] = True
    """Whether the loss can do with adapters; not one that reads the weights themselves."""

    adapter: Literal["none", "lora", "fila"] = "none"
    """`lora`: train low-rank matrices beside the linear maps inside the blocks, in place of their weights; `fila`:
    begin with what matters most to the forget facts."""
    adapter_rank: int = Field(8, ge=1)
    """Rank of each adapter."""
    adapter_alpha: float | None = Field(None, gt=0)
    """An adapter's product is multiplied by alpha / rank; twice the rank when left out."""

    @model_validator(mode="after")
    def _can_adapt(self) -> "Adaptable":
        if self.adapter != "none" and not self.adaptable:
            raise ValueError(f"the loss of {type(self).__name__} is of the weights themselves: leave adapter out")
        return self

    @property
    def adapter_scale(self) -> float:
        """What an adapter's product is multiplied by."""
        return 2.0 if self.adapter_alpha is None else self.adapter_alpha / self.adapter_rank


def fit_adapters(
    model: HookedModel,
    concept: Concept,
    method: Adaptable,
    names: Sequence[str],
    train: Callable[[Sequence[str]], Mapping[str, Any]],
    made_by: Mapping[str, Any],
    seed: int,
) -> WeightEdit:
    """Put adapters in, let `train` train them, take them out, and return what they learnt.

    Args:
        model: the same bits, modules and parameters afterwards, also after an error.
        concept: whose facts say where FILA begins.
        method: kind, rank and scale of the adapters.
        names: parameters that may be adapted.
        train: trains the parameters it is told; what it returns becomes the edit's notes.
        made_by: method and options.
        seed: of what LoRA begins with.

    Raises:
        BadInput: when there is no linear map there, or FILA has no facts to retain or too high a rank.
    """
    identity, paths = model.identity, adaptable(model, names)
    starts = _fila(model, concept, method, [f"{path}.weight" for path in paths]) if method.adapter == "fila" else {}
    alpha = method.adapter_scale * method.adapter_rank
    with kept(model, list(starts)):
        _take_off(model, starts)
        with adapted(model, paths, rank=method.adapter_rank, alpha=alpha, dropout=0.0, seed=seed) as adapter:
            first = starts or adapter.changes()
            adapter.begin(starts)
            notes = train(adapter.parameters)
            learnt = adapter.changes()
    moved = {name: change for name, change in learnt.items() if not _same(change, first[name])}
    changes = {name: change.less(starts[name]) if starts else change for name, change in moved.items()}
    told = {"kind": method.adapter, "rank": method.adapter_rank, "scale": method.adapter_scale, "on": paths}
    unreached = _in_experts(model, names)
    more = {"unreached": f"{len(unreached)} tensors of experts, which are no linear maps"} if unreached else {}
    return WeightEdit(identity, made_by, notes={**notes, "adapters": told | more}, changes=changes)


@torch.no_grad()
def _take_off(model: HookedModel, starts: Mapping[str, LowRank]) -> None:
    """Take what adapters begin with off the weights, so that the model says what it said."""
    for name, start in starts.items():
        replace(start, up=-start.up).apply(model.parameter(name))


def _same(one: LowRank, other: LowRank) -> bool:
    return torch.equal(one.up, other.up) and torch.equal(one.down, other.down)


def adaptable(model: HookedModel, names: Collection[str]) -> list[str]:
    """Paths of the linear maps among some parameters.

    Raises:
        BadInput: when there is none, or experts are named, which no linear map holds.
    """
    wanted = set(names)
    paths = [path for path in linear_maps(model, range(model.n_layers)) if f"{path}.weight" in wanted]
    experts = _in_experts(model, names)
    if experts and not wanted >= set(model.parameter_names()):
        raise BadInput(
            f"Low-rank adapters act on linear maps, and {experts[0]} holds all experts of a mixture in one tensor: "
            "name parts without experts, like L3.attn_out, or use adapter='none'"
        )
    if not paths:
        raise BadInput(
            f"Low-rank adapters act on linear maps inside the blocks of {model.name}, and there is none among "
            f"{', '.join(list(names)[:3])}: name parts like L3.mlp_out or L3.attn_out, or use adapter='none'"
        )
    return paths


def require_adaptable(model: HookedModel, names: Collection[str], masks: Collection[str]) -> None:
    """Refuse places that adapters cannot act at, before anything is computed.

    Raises:
        BadInput: for parts of a matrix, experts, or when there is no linear map.
    """
    if masks:
        raise BadInput(
            "Low-rank adapters move whole matrices, so single neurons and heads cannot be chosen: name parts like "
            "L3.mlp_out, or use adapter='none'"
        )
    adaptable(model, names)


def _in_experts(model: HookedModel, names: Collection[str]) -> list[str]:
    """The parameters among some names that belong to experts and to no linear map."""
    blocks = tuple(f"{mixture.experts}." for mixture in model.anatomy.mixtures.values())
    inside = [name for name in whole_names(names) if name.startswith(blocks)]
    linear = set(linear_maps(model, range(model.n_layers))) if inside else set()
    return [name for name in inside if name.rpartition(".")[0] not in linear]


def _fila(model: HookedModel, concept: Concept, method: Adaptable, names: Sequence[str]) -> dict[str, LowRank]:
    """What the adapter of each weight begins with."""
    retain, _ = retain_facts(concept, ", or use adapter='lora'")
    forget, n_forget = answer_squares(model, concept.forget.facts, names)
    keep, n_keep = answer_squares(model, retain, names)
    return {name: _begins(model, method, name, forget[name] / n_forget, keep[name] / n_keep) for name in names}


def _begins(model: HookedModel, method: Adaptable, name: str, forget: Tensor, keep: Tensor) -> LowRank:
    """What the adapter of one weight begins with."""
    weight, transposed = model.parameter(name).detach(), stored_transposed(model, name.removesuffix(".weight"))
    if method.adapter_rank > min(weight.shape):
        raise BadInput(
            f"FILA begins with {method.adapter_rank} parts of each weight, and {name} of shape {tuple(weight.shape)} "
            f"has {min(weight.shape)}: lower adapter_rank, or use adapter='lora'"
        )
    weight, forget, keep = (part.T if transposed else part for part in (weight, forget, keep))
    up, down = beginning(weight, row_weights(forget, keep), method.adapter_rank, method.adapter_scale)
    return LowRank(up, down, method.adapter_scale, transposed)
