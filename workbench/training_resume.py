"""Going on after a kill, with the result of a training that was never killed.

`train(..., keep=folder)` writes the state of the training there every so many steps, and the same call with the same
folder goes on from it: parameters that move, running means, learning rate, random states, losses, evaluations. A
folder that holds another training is refused. When training has finished the folder keeps its result, and the same
call gives it at once; `discard` removes it.

Why not the trainer's own checkpoints: they hold the whole model however little of it moves, are written in place (a
kill while they are written leaves a half), and know neither the two halves of Muon and AdamW nor leaves of single
experts.

A training is known by its options, the bits of the model it starts from, what `collate` makes of each item, what may
move, when it is evaluated, and the name of the loss. **The loss itself is a function and cannot be compared**: say in
`question` what else it depends on. Cannot do: a loss that keeps a state of its own, a `collate` that draws at random,
several processes. The same bits are promised on the same machine with the same packages.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from workbench.errors import BadInput
from workbench.training_file import read_tree, remove_leftovers, write_tree
from workbench.training_leaves import Leaves
from workbench.training_options import TrainingOptions
from workbench.training_stop import StopRule

_FILE = "training.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where a training stands after some step."""

    step: int
    """Updates made."""
    finished: bool
    """Whether it ended; then nothing below `trained` is there."""
    losses: list[float]
    """Loss of each update."""
    evaluations: list[tuple[int, float]]
    """Step and value."""
    trained: dict[str, Tensor]
    """Values of what moves."""
    best: dict[str, Tensor]
    """Values at the best evaluation; empty when they are not asked for."""
    optimizer: list[dict[str, Any]]
    """Running means and settings."""
    scheduler: dict[str, Any]
    """Where the learning rate stands."""
    randomness: dict[str, Any]
    """All random states."""


@dataclass(frozen=True)
class Keeper:
    """The folder of one training."""

    folder: Path
    """Where it is kept."""
    question: Mapping[str, str]
    """What training it is: one text or digest for each thing it depends on."""

    @property
    def file(self) -> Path:
        """The one file in it."""
        return self.folder / _FILE

    def save(self, progress: Progress) -> None:
        """Write where the training stands, whole or not at all."""
        state = {field.name: getattr(progress, field.name) for field in fields(progress)}
        write_tree(self.file, {"question": dict(self.question), **state})

    def load(self) -> Progress | None:
        """Where the training stood; None when nothing was kept yet.

        Raises:
            BadInput: when the folder holds another training, or a damaged file.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise BadInput(f"keep={str(self.folder)!r} is a file; name a folder")
        remove_leftovers(self.file)
        if not self.file.exists():
            return None
        state = read_tree(self.file)
        found = state.pop("question", {}) if isinstance(state, dict) else {}
        other = [name for name in self.question if found.get(name) != self.question[name]]
        if other:
            raise BadInput(
                f"The folder {str(self.folder)!r} holds another training: other {', '.join(other)}. To go on, start "
                "from the same model with the same call; to begin anew, name another folder or remove this one"
            )
        return Progress(**state)


def discard(folder: Path) -> None:
    """Remove what a training kept in a folder, and the folder if nothing else is in it."""
    remove_leftovers(folder / _FILE)
    (folder / _FILE).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def question_of(
    model: PreTrainedModel,
    items: Sequence[Any],
    collate: Callable[[list[Any]], Mapping[str, Any]],
    loss: Callable[..., Any],
    options: TrainingOptions,
    leaves: Leaves,
    evaluate_at: Collection[int],
    stop: StopRule | None,
    more: Mapping[str, Any],
) -> dict[str, str]:
    """What tells one training from another."""
    masks = {part.name: part.mask for part in leaves.parts if hasattr(part, "mask")}
    weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "format": "1",
        "options": options.model_dump_json(),
        "model (its weights are not those the training started from)": _digest([weights]),
        "items": _digest([collate([item]) for item in items]),
        "parameters that may move": json.dumps(list(leaves.held)),
        "masks": _digest([masks]),
        "evaluation steps": json.dumps(sorted(evaluate_at)),
        "stop rule": "none" if stop is None else stop.model_dump_json(),
        "loss": _name_of(loss),
        "question": json.dumps(dict(more), sort_keys=True, default=str),
    }


def _name_of(function: Any) -> str:
    """Name of a function, or of what a partial or an object calls; without its module, which a rerun may rename."""
    while isinstance(function, functools.partial):
        function = function.func
    return (function if hasattr(function, "__qualname__") else type(function)).__qualname__


def _digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """sha256 over names, types, shapes and bytes."""
    total = hashlib.sha256()
    for row in rows:
        for name, value in sorted(row.items()):
            if isinstance(value, Tensor):
                total.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
                total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            else:
                total.update(f"{name} {value!r};".encode())
        total.update(b".")
    return total.hexdigest()
