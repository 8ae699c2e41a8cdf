"""Writing an edited checkpoint so that exactly the edited tensors differ, and proving on disk that it is so.

The weight files of the source folder are copied byte for byte, and the bytes of the edited tensors are then put in
their place inside the copies: same shards, same header, and the sha256 of every shard without an edited tensor stays
what it was. Nothing is held in memory but the tensor being written.

Read it as: `edit_receipt.json` in the new folder (`workbench.receipts`); it was checked against both folders, tensor by
tensor, before the folder appeared.
Does not show: that the source folder was the model it says it was; its digest does (`Checkpoint.digest`).
"""

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench.checkpoint import COPIED, Checkpoint, save_checkpoint
from workbench.errors import BadInput, RunError
from workbench.receipts import bits, digest_of, edited, names_of, raw, receipt_rows, stored_as
from workbench.store import write_json

if TYPE_CHECKING:
    from workbench.edits import WeightEdit
    from workbench.model import HookedModel

RECEIPT = "edit_receipt.json"
INDEX = "model.safetensors.index.json"
SCHEMA = 1

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""What safetensors calls them."""

Files = dict[str, Any]
"""Name of a stored tensor -> the open safetensors file it lies in."""


def write_edited(edit: "WeightEdit", model: "HookedModel", out: Path) -> Checkpoint:
    """Write a model as a new checkpoint folder in which exactly the tensors that the edit changes differ.

    The folder appears whole and checked, or not at all.

    Raises:
        BadInput: when `out` exists or cannot be written, another edit is on, or an edited tensor is open in another
            dtype than it is stored in.
        RunError: when what lies on disk is not what the edit says.
    """
    if out.exists():
        raise BadInput(f"{str(out)!r} exists already; name a new folder")
    if model.identity != model.digest:
        raise BadInput(
            f"{model.name} wears another edit, which this folder would not hold. Write that edit first, open what was "
            "written, and fit this one on it"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            source = _source(edit, model, Path(temporary))
            building = Path(temporary) / "checkpoint"
            _copy(source, building)
            rows = _put(edit, model, source, building)
            require_only(source, building, rows)
            write_json(building / RECEIPT, receipt_of(edit, model, rows))
            os.rename(building, out)
    except OSError as error:
        raise BadInput(f"Cannot write the checkpoint to {str(out)!r}: {error.strerror or error}") from None
    return Checkpoint(out)


def receipt_of(edit: "WeightEdit", model: "HookedModel", rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The receipt as it is stored."""
    return {
        "schema": SCHEMA,
        "source": model.name,
        "fitted_to": edit.fitted_to,
        "made_by": dict(edit.made_by),
        "edit_digest": edit.digest,
        "rows": rows,
    }


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads from a folder; none when it reads something else."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not (folder / INDEX).is_file():
        return []
    return [folder / name for name in sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))]


def require_own_dtype(model: "HookedModel") -> None:
    """Refuse a model that is open in a precision that its files do not hold: no edit of it could be written.

    Raises:
        BadInput: naming both.
    """
    if model.folder is None or not weight_files(model.folder):
        return
    with opened(model.folder) as files:
        kinds = {str(file.get_slice(name).get_dtype()) for name, file in files.items()}
    if kinds & set(DTYPES) and not any(DTYPES.get(kind) == model.hf.dtype for kind in kinds):
        raise BadInput(
            f"{model.name} is stored as {', '.join(sorted(kinds))} and open as {model.hf.dtype}, so writing an edit "
            "would change every entry. Open it with dtype auto; to compute passes of a training in bfloat16 use "
            "precision=bf16"
        )


@contextmanager
def opened(folder: Path) -> Iterator[Files]:
    """The tensors of a folder, none of them read yet."""
    from safetensors import safe_open

    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(file, framework="pt")) for file in weight_files(folder)]
        yield {name: file for file in files for name in file.keys()}  # noqa: SIM118  # not a dict


def stored_names(folder: Path | None) -> set[str] | None:
    """Names of the tensors in a folder; None where there is no folder with safetensors."""
    if folder is None or not weight_files(folder):
        return None
    with opened(folder) as files:
        return set(files)


def _source(edit: "WeightEdit", model: "HookedModel", temporary: Path) -> Path:
    """A folder that holds the model as it is open: its own, or one written now.

    A model that was made in memory has none, and one opened with an adapter is not what its base's folder holds.
    """
    if model.folder is not None and weight_files(model.folder) and _holds(edit, model, model.folder):
        return model.folder
    return save_checkpoint(model, temporary / "source").folder


def _holds(edit: "WeightEdit", model: "HookedModel", folder: Path) -> bool:
    """Whether every parameter of the open model is, bit for bit, what the folder stores.

    Raises:
        BadInput: when a parameter that is edited was opened in another dtype.
    """
    changed = {names_of(model.hf, name)[0] for name in edit.changes}
    with opened(folder) as files:
        for name, parameter in model.hf.named_parameters():
            try:
                found = list(stored_as(model.hf, name, parameter, files))
            except BadInput:
                if name in changed:
                    raise
                return False
            if not found:
                return False
            for disk, here in found:
                stored = files[disk].get_tensor(disk)
                if stored.dtype != here.dtype and name in changed:
                    raise BadInput(
                        f"{name} is stored as {stored.dtype} and open as {here.dtype}, so writing the edit would "
                        "change every entry of it. Open the checkpoint with dtype='auto' and fit the edit again"
                    )
                same_shape = stored.shape == here.shape
                if not same_shape or not torch.equal(bits(stored.to(here.dtype)), bits(here.cpu())):
                    return False
    return True


def _copy(source: Path, building: Path) -> None:
    """Weights, their index, and the files that an edited checkpoint takes over."""
    building.mkdir()
    beside = [file for pattern in COPIED for file in source.glob(pattern) if file.is_file()]
    index = [source / INDEX] if (source / INDEX).is_file() else []
    for file in dict.fromkeys([*weight_files(source), *index, *beside]):
        shutil.copyfile(file, building / file.name)


def _put(edit: "WeightEdit", model: "HookedModel", source: Path, building: Path) -> list[dict[str, Any]]:
    """Put the new bytes of every changed tensor into the copied files; returns the receipt's rows."""
    places = {name: (file, *place) for file in weight_files(building) for name, place in _places(file).items()}
    rows: list[dict[str, Any]] = []
    for name, before, after in edited(model.hf, edit.changes):
        mine = list(receipt_rows(model.hf, name, before, after, places))
        if not mine and not torch.equal(bits(before), bits(after)):
            raise RunError(
                f"{name} is stored in {str(source)!r} under no name that could be found; nothing was written"
            )
        changed = {row["on_disk"] for row in mine}
        for disk, tensor in stored_as(model.hf, name, after, places):
            if disk in changed:
                _overwrite(*places[disk], tensor)
        rows += mine
    return rows


def _places(file: Path) -> dict[str, tuple[int, int]]:
    """Where each tensor's bytes are in a safetensors file: first byte and number of bytes.

    Source: https://huggingface.co/docs/safetensors/index#format (length of the header, header, tensors).
    """
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header: Mapping[str, Any] = json.loads(stream.read(length))
    offsets = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: (8 + length + start, stop - start) for name, (start, stop) in offsets.items()}


def _overwrite(file: Path, start: int, length: int, tensor: Tensor) -> None:
    content = raw(tensor)
    if len(content) != length:
        raise RunError(f"{file.name} has room for {length} bytes where {len(content)} are to be written")
    with file.open("r+b") as stream:
        stream.seek(start)
        stream.write(content)


def require_only(source: Path, made: Path, rows: list[dict[str, Any]]) -> None:
    """Read both folders, tensor by tensor: only what the rows name differs, and as they say.

    Raises:
        RunError: naming the first tensor that is not as it should be.
    """
    told = {row["on_disk"]: (row["sha256_before"], row["sha256_after"]) for row in rows}
    with opened(source) as old, opened(made) as new:
        if sorted(old) != sorted(new) or not told.keys() <= old.keys():
            raise RunError(f"The written checkpoint holds other tensors than {str(source)!r}; it was removed")
        for name in old:
            before, after = old[name].get_tensor(name), new[name].get_tensor(name)
            alike = before.dtype == after.dtype and before.shape == after.shape
            same = alike and torch.equal(bits(before), bits(after))
            if not alike or same == (name in told):
                raise RunError(f"The written checkpoint is wrong in {name!r}; it was removed")
            if not same and (digest_of(before), digest_of(after)) != told[name]:
                raise RunError(f"The receipt does not fit what was written in {name!r}; the checkpoint was removed")
