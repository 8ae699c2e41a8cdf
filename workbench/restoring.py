"""`restored`: parameters of an open model lent the values they have in another checkpoint, read from its files.

A checkpoint does not store its tensors as the model holds them (experts are fused when they are loaded), so what is
stored is put where transformers' own conversion says it lies: the conversion is run once on the positions of the
parameter's entries instead of on their values.

Read it as: inside `with restored(model, names, shards)` these parameters are the other checkpoint's, afterwards they
are the same bits as before. In memory are the parameters named, twice, and one stored tensor.
Does not show: what a value was before it was rounded to the dtype the model is open in.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from workbench.changes import kept
from workbench.checkpoint import Checkpoint
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.parameters import parameters_of
from workbench.receipts import parameter_of, raw, stored_as
from workbench.shards import Shards, open_shards
from workbench.sites import Site

GROUPS = ("value_vectors", "mlp", "attention", "layer")
"""What of a layer can be named: its down-projections (of every expert), its MLP or experts with router, its attention,
all of it with the norms."""


def weights_of(model: HookedModel, layers: Sequence[int], group: str) -> list[str]:
    """Names of the parameters of some layers, as the open model calls them.

    Args:
        model: the open model.
        layers: numbers of the layers.
        group: one of `GROUPS`.

    Raises:
        BadInput: when a layer has no such place.
    """
    if group == "value_vectors":
        return list(dict.fromkeys(store.name for site, store in model.down_projections() if site.layer in layers))
    part = {"mlp": "mlp_out", "attention": "attn_out", "layer": "resid_post"}[group]
    return parameters_of(model, [Site(layer, part) for layer in layers])


def way_out(model: HookedModel) -> list[str]:
    """Names of the parameters between the last residual state and the logits: final norm and unembedding."""
    paths = [path for path in (model.anatomy.norm, model.anatomy.unembed) if path is not None]
    return [f"{path}.{name}" for path in paths for name, _ in model.hf.get_submodule(path).named_parameters()]


def digest_of_way_out(model: HookedModel) -> str:
    """sha256 over `way_out`: two models in which it is the same decode a state alike."""
    total = hashlib.sha256()
    for name in way_out(model):
        total.update(raw(parameter_of(model.hf, name)))
    return total.hexdigest()


@contextlib.contextmanager
def stored_weights(checkpoint: Checkpoint) -> Iterator[Shards]:
    """The weight files of a checkpoint, none of them read yet.

    Raises:
        BadInput: for a base with an adapter, whose stored tensors are not the model.
    """
    if any(name.startswith("adapter/") for name in checkpoint.shards):
        raise BadInput(
            f"{checkpoint.name!r} is a base with an adapter, and its weights are stored nowhere as they act. Merge the "
            "adapter (PEFT's `merge_and_unload`, then `save_pretrained`) and give the merged folder"
        )
    with open_shards(checkpoint.folder) as shards:
        yield shards


def own_folder(model: HookedModel) -> Path:
    """The folder that stores exactly the open model.

    Raises:
        BadInput: for a model that was made in memory, wears an edit, or was opened with an adapter.
    """
    if model.folder is None:
        raise BadInput(
            f"{model.name} is not open from a folder, so its stored tensors cannot be read. Save it "
            "(workbench.checkpoint.save_checkpoint) and open that"
        )
    if model.identity != model.digest:
        raise BadInput(
            f"{model.name} wears an edit, which its folder does not hold. Write the edit (`edit.write`) and open that"
        )
    if Checkpoint(model.folder).digest != model.digest:
        raise BadInput(
            f"{model.name} is not what {str(model.folder)!r} stores: it was opened with an adapter, or the files have "
            "changed since. Merge an adapter (PEFT's `merge_and_unload`, then `save_pretrained`) and give that folder"
        )
    return model.folder


def stored_value(model: HookedModel, name: str, shards: Shards) -> Tensor:
    """What another checkpoint stores for one parameter of the open model, in its shape and dtype, on the CPU.

    Raises:
        BadInput: when it is not stored there, or in another shape.
    """
    parameter = parameter_of(model.hf, name)
    whole = torch.int32 if parameter.numel() < 2**31 else torch.int64
    place = torch.arange(parameter.numel(), dtype=whole).view(parameter.shape)
    value = torch.empty(parameter.shape, dtype=parameter.dtype)
    missing = torch.ones(parameter.numel(), dtype=torch.bool)
    for disk, where in stored_as(model.hf, name, place, set(shards.names)):
        found = shards.tensor(disk)
        if found.shape != where.shape:
            raise BadInput(
                f"{disk} has the shape {tuple(found.shape)} in {str(shards.folder)!r} and {tuple(where.shape)} in "
                f"{model.name}: they are not of one architecture"
            )
        at = where.reshape(-1).long()
        value.view(-1)[at] = found.reshape(-1).to(parameter.dtype)
        missing[at] = False
    if missing.any():
        raise BadInput(f"{str(shards.folder)!r} does not store {name} ({int(missing.sum())} entries are missing)")
    return value


@contextlib.contextmanager
def restored(model: HookedModel, names: Sequence[str], shards: Shards) -> Iterator[None]:
    """Lend some parameters the values another checkpoint stores, for the length of a `with` block.

    Raises:
        BadInput: when one is not stored there.
    """
    with kept(model, names):
        with torch.no_grad():
            for name in names:
                parameter = parameter_of(model.hf, name)
                parameter.copy_(stored_value(model, name, shards))
        yield
