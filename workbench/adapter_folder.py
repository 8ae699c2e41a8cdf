"""An edit that adds low-rank products to weights, as a folder in PEFT's format: a file of matrices and a config.

Read it as: `write_adapter(edit, model, folder)`; then `PeftModel.from_pretrained(base, folder)`, or BASE+ADAPTER on
the command line, is the edited model up to rounding. Modules are named by whole paths: nothing else is adapted. In a
mixture PEFT takes the names of an MLP's maps for its experts wherever they stand (a dense block or a shared expert in
DeepSeek), so these are named by their weights instead (`target_parameters`).
Source: https://huggingface.co/docs/peft/developer_guides/checkpoint.
Cannot do: weights whose change is not low-rank; changes of different ranks.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from workbench.adapters import PREFIX
from workbench.checkpoint_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from workbench.errors import BadInput
from workbench.low_rank_change import LowRank
from workbench.store import write_json

EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
"""Last names of maps that PEFT takes for those of experts."""

if TYPE_CHECKING:
    from workbench.changes import Change
    from workbench.edits import WeightEdit
    from workbench.model import HookedModel


def write_adapter(edit: "WeightEdit", model: "HookedModel", out: Path | str) -> Path:
    """Write the folder, whole or not at all.

    Args:
        edit: of low-rank changes (`WeightEdit.low_rank`) only.
        model: what it was fitted to.
        out: the folder to make.

    Raises:
        BadInput: when the edit was fitted to another model or is not low-rank, or `out` exists or cannot be written.
    """
    from safetensors.torch import save_file

    edit.require_fit(model)
    found, out = _low_rank(edit.changes), Path(out)
    if out.exists():
        raise BadInput(f"{str(out)!r} exists already; name a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            building = Path(temporary) / "adapter"
            building.mkdir()
            write_json(building / ADAPTER_CONFIG, _config(found, model))
            save_file(_tensors(found), building / ADAPTER_WEIGHTS, {"format": "pt"})
            os.rename(building, out)
    except OSError as error:
        raise BadInput(f"Cannot write the adapter to {str(out)!r}: {error.strerror or error}") from None
    return out


def _low_rank(changes: "Mapping[str, Change | LowRank]") -> dict[str, LowRank]:
    """The changes, if an adapter can hold them all."""
    found = {name: change for name, change in changes.items() if isinstance(change, LowRank)}
    others = [name for name in changes if name not in found]
    if others:
        raise BadInput(
            f"An adapter cannot hold the change of {others[0]}, which is not low-rank: write a checkpoint, or fit with "
            "adapter='lora'"
        )
    if not found:
        raise BadInput("The edit changes nothing, so there is no adapter to write")
    if len({(len(change.down), change.scale) for change in found.values()}) > 1:
        raise BadInput(
            "The changes are of different ranks or scales, which an adapter here cannot be: write a checkpoint"
        )
    return found


def _config(changes: Mapping[str, LowRank], model: "HookedModel") -> dict[str, Any]:
    """What PEFT reads to put the matrices where they belong."""
    from peft import LoraConfig

    first = next(iter(changes.values()))
    rank = len(first.down)
    by_weight = [n for n in changes if model.mixture_layers and _path(n).rpartition(".")[2] in EXPERTS]
    config = LoraConfig(
        r=rank,
        lora_alpha=rank * first.scale,  # type: ignore[arg-type]  # alpha / r is what counts, and need not be whole
        target_modules=[_path(name) for name in changes if name not in by_weight],
        target_parameters=by_weight or None,
        fan_in_fan_out=all(change.transposed for change in changes.values()),
        bias="none",
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=str(model.folder or model.name),
    )
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}


def _tensors(changes: Mapping[str, LowRank]) -> dict[str, Tensor]:
    found = {f"{PREFIX}{_path(name)}.lora_A.weight": change.down for name, change in changes.items()}
    found |= {f"{PREFIX}{_path(name)}.lora_B.weight": change.up for name, change in changes.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def _path(name: str) -> str:
    """The module that a weight belongs to."""
    return name.removesuffix(".weight")
