"""`open_shards`: the tensors of a checkpoint folder, read one at a time, without a model.

Read it as: only headers are read when a folder is opened; a tensor's bytes are read when it is asked for, and nothing
is kept. Which files count is decided as transformers decides it: model.safetensors, else the files that
model.safetensors.index.json names, else every safetensors file.
Does not show: tensors that are tied to another one; they are usually not stored.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from workbench.errors import BadInput, did_you_mean
from workbench.tensor_names import natural_order

if TYPE_CHECKING:
    from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"


class Shards:
    """Open weight files of one checkpoint; a context manager, made by `open_shards`."""

    def __init__(self, folder: Path, files: Mapping[str, Any], stack: ExitStack) -> None:
        self.folder = folder
        self._files = files
        self._stack = stack

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every stored tensor, in natural order (layer 10 after layer 9)."""
        return tuple(sorted(self._files, key=natural_order))

    def tensor(self, name: str) -> "Tensor":
        """A whole tensor, on the CPU, in its stored dtype.

        Raises:
            BadInput: when there is none of that name or its dtype is not known to torch.
        """
        from safetensors import SafetensorError

        try:
            return self._file(name).get_tensor(name)
        except (SafetensorError, TypeError, AttributeError) as error:
            raise BadInput(f"Cannot read {name!r} of {str(self.folder)!r}: {error}") from None

    def slice(self, name: str) -> Any:
        """A tensor that has not been read yet: `[...]` on it reads a part.

        Raises:
            BadInput: when there is none of that name.
        """
        return self._file(name).get_slice(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header."""
        return tuple(self.slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Stored dtype of a tensor in safetensors' words, for instance `BF16`."""
        return str(self.slice(name).get_dtype())

    def _file(self, name: str) -> Any:
        if name not in self._files:
            near = did_you_mean(name, self._files)
            raise BadInput(f"{str(self.folder)!r} stores no tensor {name!r}. {near[:300]}")
        return self._files[name]

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def __enter__(self) -> "Shards":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_shards(folder: Path) -> Shards:
    """Open the weight files of a checkpoint folder.

    Raises:
        BadInput: when there are none, one is missing or cut short, or a tensor is not where the index says.
    """
    index = _index(folder)
    stack = ExitStack()
    try:
        files: dict[str, Any] = {}
        for file in _weight_files(folder, index):
            opened = _opened(file, stack)
            for name in opened.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                if name in files:
                    raise BadInput(f"{str(folder)!r} stores {name!r} in two files; remove the one that is too many")
                files[name] = opened
        lost = sorted(set(index) - set(files), key=natural_order)
        if lost:
            raise BadInput(
                f"{INDEX} of {str(folder)!r} promises {len(lost)} tensors that no file holds, first {lost[0]!r} in "
                f"{index[lost[0]]}; copy the checkpoint again"
            )
        return Shards(folder, files, stack)
    except BaseException:
        stack.close()
        raise


def _index(folder: Path) -> dict[str, str]:
    """Tensor -> file name, from the index; empty when one file holds all."""
    path = folder / INDEX
    if (folder / SINGLE).is_file() or not path.is_file():
        return {}
    try:
        found = {str(name): str(file) for name, file in json.loads(path.read_text())["weight_map"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadInput(f"Cannot read {str(path)!r}: {error}. Copy the checkpoint again") from None
    outside = [file for file in found.values() if Path(file).name != file]
    if outside:
        raise BadInput(f"{str(path)!r} names {outside[0]!r}, which is no file of its own folder")
    return found


def _weight_files(folder: Path, index: Mapping[str, str]) -> list[Path]:
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if index:
        wanted = [folder / file for file in sorted(set(index.values()))]
        missing = [file.name for file in wanted if not file.is_file()]
        if missing:
            raise BadInput(
                f"{str(folder)!r} lacks {len(missing)} of {len(wanted)} weight files: {', '.join(missing[:5])}; "
                "copy the checkpoint again"
            )
        return wanted
    found = sorted(file for file in folder.glob("*.safetensors") if file.name != ADAPTER)
    if not found:
        raise BadInput(f"{str(folder)!r} has no weights in safetensors files")
    return found


def _opened(file: Path, stack: ExitStack) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return stack.enter_context(safe_open(file, framework="pt"))
    except (SafetensorError, OSError) as error:
        raise BadInput(f"The weight file {str(file)!r} is damaged or cut short ({error}); copy it again") from None
