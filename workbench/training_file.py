"""Nested data with tensors in it <-> one safetensors file: no pickle, and whole or not there.

Tensors are stored as they are; everything round them (dicts with any plain keys, lists, tuples, numbers, text, None)
goes into the header as JSON, in which floats keep every bit. The file is written under another name, flushed to disk
and renamed, so that whatever kills the process leaves the old file or the new one.
"""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from workbench.errors import BadInput

_HEADER = "tree"


def write_tree(path: Path, tree: Any) -> None:
    """Write nested data.

    Raises:
        BadInput: when the place cannot be written; an earlier file is still there then.
    """
    tensors: dict[str, Tensor] = {}
    words = json.dumps(_pack(tree, tensors))
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
        os.close(handle)
        save_file(tensors, temporary, {_HEADER: words})
        with open(temporary, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"Cannot write {str(path)!r}: {error}. Free some space or name another folder, then run the same again"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            if temporary and os.path.exists(temporary):
                os.unlink(temporary)


def read_tree(path: Path) -> Any:
    """Read what `write_tree` wrote.

    Raises:
        BadInput: when the file is damaged or another kind of file.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            return _unpack(json.loads(header[_HEADER]), {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
        raise BadInput(f"{str(path)!r} is damaged or of another kind ({error}); remove it to begin again") from None


def remove_leftovers(path: Path) -> None:
    """Remove what writes to `path` that were killed left behind."""
    for scrap in path.parent.glob(f"{_prefix(path)}*"):
        scrap.unlink(missing_ok=True)


def _prefix(path: Path) -> str:
    return f".{path.name}."


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Plain JSON in which tensors are numbers of entries of `tensors`; lists tell their kind first."""
    if isinstance(value, Tensor):
        plain, there = value.detach().cpu().contiguous(), {_memory(tensor) for tensor in tensors.values()}
        tensors[str(len(tensors))] = plain.clone() if _memory(plain) in there else plain
        return ["tensor", str(len(tensors) - 1)]
    if isinstance(value, dict):
        return ["dict", [[_pack(key, tensors), _pack(part, tensors)] for key, part in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_pack(part, tensors) for part in value]]
    return ["plain", value]


def _memory(tensor: Tensor) -> int:
    """Where a tensor lies: the format refuses two in the same memory, and optimizers share tables between entries."""
    return int(tensor.untyped_storage().data_ptr())


def _unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    kind, value = packed
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {_unpack(key, tensors): _unpack(part, tensors) for key, part in value}
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](_unpack(part, tensors) for part in value)
    return value
