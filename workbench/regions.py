"""`Region`: the entries of a model's parameters that some sites stand for, down to single value vectors.

`workbench.parameters` knows whole parts and single experts; a region also knows the value vectors of single neurons, so
that what acts on weights can be driven by any localiser. `only` trains a region: the gradient elsewhere is dropped as
it arrives, and when the block ends every entry outside holds the very bits it held before, whatever an optimizer did
(AdamW's weight decay moves entries whose gradient is zero).

Read it as: `with only(model, region): model.train(..., trainable=region.names)`.
Does not show: that the knowledge lies there. A neuron stands for what it writes, not for what makes it fire.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from workbench.experts import slice_name, split_name, whole_names
from workbench.model import HookedModel
from workbench.parameters import parameters_of
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


def region_of(model: HookedModel, where: Sequence[Site] | None) -> Region:
    """The entries that some sites stand for.

    Args:
        model: the model.
        where: neurons (`L5.mlp_act[412]`: their value vectors), and whatever `parameters_of` takes; None for all.

    Raises:
        BadInput: for no site at all, a site that is not there, or one that no entries can be named for (a head).
    """
    neurons = [site for site in where or () if site.part == "mlp_act" and site.index is not None]
    others = None if where is None else [site for site in where if site not in neurons]
    names = parameters_of(model, others) if others or not neurons else []
    whole = {name for name in names if split_name(name)[1] is None}
    masks = _slices(model, names)
    stores = dict(model.down_projections())
    for site, (name, _) in zip(neurons, model.stored_at(neurons), strict=True):
        if name in whole:
            continue
        mask = masks.setdefault(name, _nothing_of(model.parameter(name)))
        rows = stores[site.whole].as_rows(mask)
        (rows if site.expert is None else rows[site.expert])[site.index] = True
        names.append(name if site.expert is None else slice_name(name, site.expert))
    return Region(tuple(dict.fromkeys(names)), masks)


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
