"""`Region`: the entries of a model's parameters that some sites stand for, down to single value vectors.

`workbench.parameters` knows whole parts and single experts; a region also knows the value vectors of single neurons
(asked for, what they read by too), and what a single head's output is multiplied by, so that what acts on weights can
be driven by any localiser. `only`
trains a region: the gradient elsewhere is dropped as it arrives, and when the block ends every entry outside holds the
very bits it held before, whatever an optimizer did (AdamW's weight decay moves entries whose gradient is zero).

Read it as: `with only(model, region): model.train(..., trainable=region.names)`.
Does not show: that the knowledge lies there. A head stands for what it writes alone: queries, keys and values stay as
they are (heads may share the latter two).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from workbench.experts import slice_name, split_name, whole_names
from workbench.model import HookedModel
from workbench.parameters import parameters_of
from workbench.reading_rows import reading_rows
from workbench.sites import Site


@dataclass(frozen=True)
class Region:
    """Some parameters, some of them only in part."""

    names: tuple[str, ...]
    """Parameters, or one expert's slices of them, in the form that training takes."""
    masks: Mapping[str, Tensor]
    """Parameter -> True for the entries that belong (its own shape); a parameter that belongs whole has none."""

    @property
    def parameters(self) -> list[str]:
        """The parameters it lies in, each once."""
        return whole_names(self.names)

    def count(self, model: HookedModel) -> int:
        """Number of entries."""
        masked = sum(int(mask.sum()) for mask in self.masks.values())
        return masked + sum(model.parameter(n).numel() for n in self.parameters if n not in self.masks)


NeuronParts = Literal["written", "all"]
"""What a neuron stands for: its value vector, or with it the rows of gate and up-projection and their biases."""


def region_of(model: HookedModel, where: Sequence[Site] | None, neuron_parts: NeuronParts = "written") -> Region:
    """The entries that some sites stand for.

    Args:
        model: the model.
        where: neurons (`L5.mlp_act[412]`: their value vectors), heads (`L3.head[2]`: their share of the output
            projection), and whatever `parameters_of` takes; None for all.
        neuron_parts: whether neurons stand for what they write alone, or for what they read by too.

    Raises:
        BadInput: for no site at all, a site that is not there, or one that no entries can be named for.
    """
    inside = [site for site in where or () if is_inside(site)]
    neurons = [site for site in inside if site.part == "mlp_act"]
    others = None if where is None else [site for site in where if site not in inside]
    names = parameters_of(model, others) if others or not inside else []
    whole = {name for name in names if split_name(name)[1] is None}
    masks = _slices(model, names)
    stores = dict(model.down_projections())
    for site, (name, _) in zip(neurons, model.stored_at(neurons), strict=True):
        if name not in whole:
            mask = masks.setdefault(name, _nothing_of(model.parameter(name)))
            rows = stores[site.whole].as_rows(mask)
            (rows if site.expert is None else rows[site.expert])[site.index] = True
            names.append(name if site.expert is None else slice_name(name, site.expert))
        if neuron_parts == "all":
            names += _add_reading(model, site, masks, whole)
    for site in inside:
        if site.part == "head":
            names += _add_head(model, site, masks, whole)
    return Region(tuple(dict.fromkeys(names)), masks)


def _add_reading(model: HookedModel, neuron: Site, masks: dict[str, Tensor], whole: Collection[str]) -> list[str]:
    """Mark what a neuron reads by; gives the names of the parameters that do not move whole anyway."""
    found = [rows for rows in reading_rows(model, neuron) if rows.name not in whole]
    for rows in found:
        rows.mark(masks.setdefault(rows.name, _nothing_of(model.parameter(rows.name))))
    return [rows.name if rows.expert is None else slice_name(rows.name, rows.expert) for rows in found]


def _add_head(model: HookedModel, site: Site, masks: dict[str, Tensor], whole: Collection[str]) -> list[str]:
    """Mark what a head's output is multiplied by; gives the name of the parameter if it does not move whole anyway."""
    span, path = model.span(site), model.tap(site.whole).path
    name = f"{path}.weight"
    if name in whole or span is None:
        return []
    mask = masks.setdefault(name, _nothing_of(model.parameter(name)))
    by_row = type(model.hf.get_submodule(path)).__name__ == "Conv1D"
    (mask if by_row else mask.T)[span[0] : span[1]] = True
    return [name]


def is_inside(site: Site) -> bool:
    """Whether a site is part of a matrix: a neuron or a head."""
    return site.index is not None and site.part in ("mlp_act", "head")


def masks_of(model: HookedModel, names: Sequence[str], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which entries some names and masks stand for together: one mask for every parameter, those that move whole too.

    Args:
        model: the model.
        names: parameters, or single experts' slices of them.
        masks: of parameters that move in part only.
    """
    parts = {**_slices(model, names), **masks}
    return {
        name: parts[name] if name in parts else torch.ones_like(model.parameter(name), dtype=torch.bool)
        for name in whole_names(names)
    }


def _slices(model: HookedModel, names: Sequence[str]) -> dict[str, Tensor]:
    """Masks of the fused tensors of which single experts are named."""
    masks: dict[str, Tensor] = {}
    for name, expert in map(split_name, names):
        if expert is not None:
            masks.setdefault(name, _nothing_of(model.parameter(name)))[expert] = True
    return masks


def _nothing_of(parameter: Tensor) -> Bool[Tensor, "*shape"]:
    return torch.zeros(parameter.shape, dtype=torch.bool, device=parameter.device)


@contextmanager
def only(model: HookedModel, region: Region) -> Iterator[None]:
    """While the block runs, let gradients reach a region only; afterwards all else is the same bits as before.

    A parameter that belongs whole is left alone, and parameters that the region does not touch are not looked at.
    """
    parameters = {name: model.parameter(name) for name in region.masks}
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        with ExitStack() as hooks:
            for name, parameter in parameters.items():
                hooks.enter_context(_masked(parameter, region.masks[name]))
            yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(torch.where(region.masks[name], parameter, before[name]))


@contextmanager
def _masked(parameter: nn.Parameter, mask: Tensor) -> Iterator[None]:
    """Drop the gradient outside a mask, so that the norm it is clipped to is over what is trained."""
    flag = parameter.requires_grad
    handle = parameter.requires_grad_(True).register_hook(partial(torch.mul, mask))
    try:
        yield
    finally:
        handle.remove()
        parameter.requires_grad_(flag)
