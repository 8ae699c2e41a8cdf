"""What an edit of the weights does to the tensors of a checkpoint: a row for every stored tensor it changes.

A checkpoint does not store its tensors as the model holds them: transformers fuses the experts of a layer when it loads
them and takes them apart again when it saves. A row is about what is stored; of experts that are stored fused (gpt-oss)
there is a row for each that changed, whose sha256 are those of the whole tensor.

Read it as: rows in `edit_receipt.json` of a written checkpoint, or `WeightEdit.receipt(model)` before it is written.
"Changed" means other bits. `relative` is the norm of the change over the norm of the tensor before.
Does not show: what the change does to the model's behaviour.
"""

import hashlib
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from workbench.errors import BadInput

if TYPE_CHECKING:
    from workbench.changes import Change
    from workbench.low_rank_change import LowRank

LISTED = 64
"""Rows and columns are listed one by one up to this number."""

_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor: Tensor) -> Tensor:
    """The same memory as whole numbers, for comparing bit by bit (NaN equals NaN, 0 is not -0)."""
    return tensor.contiguous().view(_WORDS[tensor.element_size()])


def digest_of(tensor: Tensor) -> str:
    """sha256 of a tensor's bytes as they are stored."""
    return hashlib.sha256(raw(tensor)).hexdigest()


def raw(tensor: Tensor) -> memoryview:
    """A tensor's bytes as they are stored, row by row."""
    numbers: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(numbers)


def on_disk(hf: nn.Module, name: str, tensor: Tensor) -> dict[str, Tensor]:
    """What a checkpoint stores for one parameter: name on disk -> tensor, in transformers' own conversion.

    Raises:
        BadInput: when a checkpoint of this architecture stores the parameter together with others.
    """
    from transformers.core_model_loading import revert_weight_conversion  # what save_pretrained itself calls

    try:
        with torch.no_grad():
            return dict(revert_weight_conversion(hf, {name: tensor.detach()}))
    except (RuntimeError, ValueError, LookupError, AttributeError) as error:
        raise BadInput(
            f"{name} is stored fused with other parameters in checkpoints of {type(hf).__name__}, so it cannot be "
            f"written alone ({str(error)[:120]})"
        ) from None


def names_of(hf: nn.Module, name: str) -> list[str]:
    """Every name of one parameter, the first being its own; tied parameters have several."""
    parameter = parameter_of(hf, name)
    return [other for other, p in hf.named_parameters(remove_duplicate=False) if p is parameter]


def parameter_of(hf: nn.Module, name: str) -> nn.Parameter:
    """A parameter by name.

    Raises:
        BadInput: when the model has none of that name.
    """
    try:
        return hf.get_parameter(name)
    except AttributeError:
        raise BadInput(f"{type(hf).__name__} has no parameter {name!r}, which this edit changes") from None


def edited(hf: nn.Module, changes: "Mapping[str, Change | LowRank]") -> Iterator[tuple[str, Tensor, Tensor]]:
    """Every parameter that is changed, once, by its own name: as it is, and a copy as the changes would leave it.

    They come in the model's order, whatever the order of the changes is, which a file does not keep.
    """
    together: dict[str, list[Change | LowRank]] = {}
    for name, change in changes.items():
        together.setdefault(names_of(hf, name)[0], []).append(change)
    for name in [name for name, _ in hf.named_parameters() if name in together]:
        parts = together[name]
        before = hf.get_parameter(name).detach()
        after = before.clone()
        for change in parts:
            change.apply(after)
        yield name, before, after


def stored_as(
    hf: nn.Module, name: str, tensor: Tensor, stored: Collection[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Name on disk and tensor of one parameter, under each of its names that is `stored` (None: its own)."""
    for alias in names_of(hf, name) if stored is not None else names_of(hf, name)[:1]:
        yield from (found for found in on_disk(hf, alias, tensor).items() if stored is None or found[0] in stored)


def receipt_rows(
    hf: nn.Module, name: str, before: Tensor, after: Tensor, stored: Collection[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The rows of one parameter.

    Args:
        hf: the Hugging Face model, for the names on disk.
        name: the parameter.
        before: its value.
        after: its new value.
        stored: names of the tensors in the checkpoint, where they are known.
    """
    new = dict(stored_as(hf, name, after, stored))
    for disk, old in stored_as(hf, name, before, stored):
        changed = bits(old) != bits(new[disk])
        if not changed.any():
            continue
        head = {"tensor": name, "on_disk": disk}
        tail = {"sha256_before": digest_of(old), "sha256_after": digest_of(new[disk])}
        found = _EXPERT.search(disk)
        fused = found is None and name.rpartition(".")[0].endswith(".experts") and old.ndim > 1
        for expert in changed.flatten(1).any(1).nonzero()[:, 0].tolist() if fused else [None]:
            part = slice(None) if expert is None else expert
            which = int(found[1]) if found else expert
            yield {**head, "expert": which, **_counted(old[part], new[disk][part], changed[part]), **tail}


def _counted(old: Tensor, new: Tensor, changed: Tensor) -> dict[str, Any]:
    matrix = changed.reshape(len(changed), -1) if changed.ndim else changed.reshape(1, 1)
    in_row = matrix.any(1).nonzero()[:, 0].tolist()
    in_column = matrix.any(0).nonzero()[:, 0].tolist() if changed.ndim > 1 else None
    norm = _norm(new.float() - old.float())
    whole = _norm(old.float())
    return {
        "shape": list(old.shape),
        "entries_changed": int(changed.sum()),
        "rows_changed": len(in_row),
        "rows": in_row if len(in_row) <= LISTED else None,
        "columns_changed": None if in_column is None else len(in_column),
        "columns": in_column if in_column is not None and len(in_column) <= LISTED else None,
        "norm_of_change": norm,
        "relative": norm / whole if norm is not None and whole else None,
    }


def _norm(tensor: Tensor) -> float | None:
    """Frobenius norm, summed in double precision; None where it is no number."""
    value = float(torch.linalg.vector_norm(tensor, dtype=torch.float64))
    return value if math.isfinite(value) else None
