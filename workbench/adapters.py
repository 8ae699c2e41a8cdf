"""PEFT adapters: a LoRA is merged into its base, so that what is opened is an ordinary Hugging Face model.

An adapter that fits only in part would be a model nobody trained, so every one of its tensors must find its place:
target modules that are not there, other shapes and tensors that are left over are refused, never skipped.
Does not open: adapters other than LoRA, and LoRA variants that cannot be merged.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.checkpoint_files import (
    ADAPTER_CONFIG,
    ADAPTER_PICKLE,
    ADAPTER_WEIGHTS,
    BROKEN,
    CONFIG,
    Place,
    complaint,
    read_json,
    require_no_code,
    require_whole,
    unfetched,
)
from workbench.errors import BadInput

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from workbench.opening import Opening

UNMERGEABLE = {
    "layer_replication": "repeats layers of its base",
    "alora_invocation_tokens": "acts only after certain tokens",
    "megatron_config": "belongs to another training library",
    "arrow_config": "chooses among several adapters",
}
"""Options of a LoRA after which it is no longer a change of the base's weights -> what they do."""

PREFIX = "base_model.model."
"""What PEFT puts in front of the base's own names."""


def vetted_adapter(place: Place, opening: "Opening") -> list[Path]:
    """The files of an adapter, after looking at everything that can be judged without its base.

    Raises:
        BadInput: when the folder holds no LoRA, or one that could only be read by executing code.
    """
    folder, name = place.folder, place.address
    if not (folder / ADAPTER_CONFIG).is_file():
        whole = ", but a whole model: open it by itself" if (folder / CONFIG).is_file() else ""
        raise BadInput(f"{name!r} has no {ADAPTER_CONFIG}, so it is no PEFT adapter{whole}. Write BASE+ADAPTER")
    require_no_code(folder / ADAPTER_CONFIG, opening)
    config = read_json(folder / ADAPTER_CONFIG)
    kind, task = config.get("peft_type"), config.get("task_type")
    if kind != "LORA":
        raise BadInput(f"{name!r} is a PEFT adapter of type {kind!r}; only LORA is opened. Merge it into its base")
    if task not in (None, "CAUSAL_LM"):
        raise BadInput(f"{name!r} was made for the task {task}; only CAUSAL_LM is opened")
    for option, does in UNMERGEABLE.items():
        if config.get(option):
            raise BadInput(f"{name!r} {does} ({option} in {ADAPTER_CONFIG}), so it cannot be merged into its base")
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        weights = _pickled(place, opening)
    require_whole(weights, place)
    return [folder / ADAPTER_CONFIG, weights]


def _pickled(place: Place, opening: "Opening") -> Path:
    pickled = place.folder / ADAPTER_PICKLE
    if not pickled.is_file():
        raise BadInput(f"{place.address!r} has no {ADAPTER_WEIGHTS}: {place.again}{unfetched(place, opening)}")
    if not opening.allow_pickle:
        raise BadInput(
            f"{place.address!r} has pickled weights ({ADAPTER_PICKLE}), which can execute code when read and are "
            "refused. Convert them to safetensors, or allow reading their tensors with --allow-pickle "
            "(allow_pickle=True)"
        )
    return pickled


def merged(hf: "PreTrainedModel", place: Place, base: str) -> "PreTrainedModel":
    """The base with a vetted adapter added to its weights: the same object, without a trace of PEFT.

    Args:
        hf: the open base; it is changed.
        place: the adapter's folder.
        base: how the base was given, for messages.

    Raises:
        BadInput: when the adapter does not fit this base in every one of its tensors, or cannot be merged.
    """
    from peft import PeftModel

    made_for = read_json(place.folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "a base it does not name"
    pair = f"The adapter {place.address!r} (made for {made_for}) does not fit the base {base!r}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PEFT warns of is checked below, and is an error
            model = PeftModel.from_pretrained(hf, str(place.folder), torch_device="cpu")
            _require_all_used(model, _tensors(place.folder), pair)
            _require_untied(hf, model, pair)
            plain = model.merge_and_unload()
    except BadInput:
        raise
    except BROKEN as error:
        raise BadInput(f"{pair}: {complaint(error)}. Give the base it was made for") from None
    return plain.requires_grad_(True)  # PEFT froze the base


def _require_all_used(model: "PeftModel", found: Mapping[str, Any], pair: str) -> None:
    """Every tensor of the file is in the model, and every one the model wants is in the file."""
    from peft import get_peft_model_state_dict

    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    unused = sorted(set(found) - wanted - set(model.state_dict()))
    if unused:
        raise BadInput(
            f"{pair}: it has no place for {len(unused)} of the adapter's {len(found)} tensors, first "
            f"{unused[0].removeprefix(PREFIX)!r}. Give the base it was made for"
        )
    lacking = sorted(wanted - set(found))
    if lacking:
        raise BadInput(
            f"{pair}: the adapter's file lacks {len(lacking)} tensors its config asks for, first "
            f"{lacking[0].removeprefix(PREFIX)!r}. Give the base it was made for, or copy the adapter again"
        )


def _require_untied(hf: "PreTrainedModel", model: "PeftModel", pair: str) -> None:
    """A change of only one of two tied embeddings cannot be written into the one tensor both share."""
    if not getattr(hf.config, "tie_word_embeddings", False):
        return
    ends = [module for module in (hf.get_input_embeddings(), hf.get_output_embeddings()) if module is not None]
    touched = [name for name, module in model.named_modules() if module in ends and hasattr(module, "base_layer")]
    wrapped = [name for name, module in model.named_modules() if hasattr(module, "modules_to_save") and module in ends]
    if touched or wrapped:
        raise BadInput(
            f"{pair}: it changes {(touched or wrapped)[0].removeprefix(PREFIX)!r}, which in this base is one tensor "
            "with the other embedding, so it cannot be merged"
        )


def _tensors(folder: Path) -> dict[str, Any]:
    """Names and values in the adapter's file; unpickled only as far as tensors go."""
    from peft.utils.save_and_load import load_peft_weights

    return load_peft_weights(str(folder), device="cpu")
