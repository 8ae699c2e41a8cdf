"""Loading vetted weights, and refusing a model that is not wholly what its files say.

transformers fills what does not fit with random numbers and drops what has no place, with a warning; here each of
these is an error that names the tensor.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.adapters import merged
from workbench.checkpoint_files import BROKEN, Place, complaint
from workbench.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from workbench.opening import Opening


def load(place: Place, files: list[Path], adapter: Place | None, opening: "Opening") -> "PreTrainedModel":
    """The model, on its device, with its adapter merged.

    Args:
        place: the folder, vetted.
        files: its weight files.
        adapter: a vetted adapter to merge, if any.
        opening: how to open.

    Raises:
        BadInput: when files and config do not fit together, or the device cannot be used.
    """
    hf, info = _read(place, files, opening)
    _require_fitting(info, place, opening)
    _require_modules(hf, opening)
    _require_in_reach(hf, place)
    if adapter is not None:
        hf = merged(hf, adapter, place.address)
    _require_finite(hf, place.address if adapter is None else f"{place.address}+{adapter.address}")
    if opening.device_map is not None:
        return hf  # accelerate has put it where it belongs
    try:
        return hf.to(opening.device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = str(error).splitlines()[0][:150]
        raise BadInput(f"Cannot put {place.address!r} on the device {opening.device!r}: {said}") from None


def _read(place: Place, files: list[Path], opening: "Opening") -> tuple["PreTrainedModel", dict[str, Any]]:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    spread = {} if opening.device_map is None else {"device_map": opening.device_map, "max_memory": opening.memory}
    try:
        return AutoModelForCausalLM.from_pretrained(
            place.folder,
            dtype=opening.dtype,
            attn_implementation="eager",
            local_files_only=True,
            use_safetensors=files[0].suffix == ".safetensors",
            weights_only=True,
            trust_remote_code=opening.trust_remote_code,
            ignore_mismatched_sizes=True,  # reported in the loading info, and refused from there by name
            output_loading_info=True,
            **spread,
        )
    except (*BROKEN, SafetensorError) as error:
        raise BadInput(f"Cannot load {place.address!r}: {complaint(error)}") from None


def _require_fitting(info: Mapping[str, Any], place: Place, opening: "Opening") -> None:
    """The files hold exactly the tensors the config asks for, in its shapes."""
    other = sorted((name, tuple(held), tuple(asked)) for name, held, asked in info["mismatched_keys"])
    if other:
        name, held, asked = other[0]
        raise BadInput(
            f"{place.address!r} has {len(other)} tensors of another shape than its config asks for, first {name!r}: "
            f"{held} in the files, {asked} by config.json. Config and weights are of different models"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise BadInput(
            f"{place.address!r} lacks {len(missing)} tensors its config asks for, first {missing[0]!r}; "
            "they would be random. Is a shard missing?"
        )
    unused = sorted(info["unexpected_keys"])
    if unused and not opening.allow_unused_tensors:
        raise BadInput(
            f"{place.address!r} holds {len(unused)} tensors its config has no place for, first {unused[0]!r}; they "
            "would be left out. Mend config.json, or leave them out with --allow-unused-tensors "
            "(allow_unused_tensors=True)"
        )


def _require_modules(hf: "PreTrainedModel", opening: "Opening") -> None:
    """A device map speaks of modules the model has; accelerate passes over others in silence."""
    if isinstance(opening.device_map, dict):
        there = {name for name, _ in hf.named_modules()} | {name for name, _ in hf.named_parameters()}
        unknown = [name for name in opening.device_map if name not in there]
        if unknown:
            raise BadInput(
                f"The device_map names the module {unknown[0]!r}, which this model does not have. "
                f"{did_you_mean(unknown[0], [name for name, _ in hf.named_children()])}"
            )


def _require_in_reach(hf: "PreTrainedModel", place: Place) -> None:
    """Weights that accelerate fetches only while a module runs cannot be read, edited or saved from outside."""
    away = [name for name, tensor in hf.named_parameters() if tensor.is_meta]
    if away:
        modules = sorted({name.rpartition(".")[0] for name in away})
        raise BadInput(
            f"{len(modules)} modules of {place.address!r} do not fit on the devices and were left on disk or in "
            f"main memory, first {', '.join(modules[:3])}. Their weights cannot be looked into: raise max_memory, "
            "take more or larger devices, a smaller dtype, or device cpu without a device_map"
        )


def _require_finite(hf: "PreTrainedModel", address: str) -> None:
    """A NaN anywhere makes every number read from the model meaningless."""
    bad = [(name, tensor) for name, tensor in hf.named_parameters() if not bool(tensor.isfinite().all())]
    if bad:
        name, tensor = bad[0]
        count = int((~tensor.isfinite()).sum())
        raise BadInput(
            f"{address!r} holds weights that are NaN or infinite: {count} of {tensor.numel()} entries of {name!r}"
            + (f", and more in {len(bad) - 1} other tensors" if len(bad) > 1 else "")
            + ". The training that made it diverged, or the file is damaged"
        )


def read_tokenizer(place: Place, opening: "Opening") -> "PreTrainedTokenizerBase":
    """The tokenizer in a folder.

    Raises:
        BadInput: when its files cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            place.folder, local_files_only=True, trust_remote_code=opening.trust_remote_code
        )
    except Exception as error:  # the tokenizers library raises bare Exception for a file it cannot read
        raise BadInput(
            f"Cannot read the tokenizer of {place.address!r}: {complaint(error)}. Copy the base model's tokenizer "
            "files in"
        ) from None


def read_config(place: Place, opening: "Opening") -> Any:
    """The config as transformers reads it.

    Raises:
        BadInput: when it cannot.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(
            place.folder, local_files_only=True, trust_remote_code=opening.trust_remote_code
        )
    except Exception as error:  # its validation has exceptions of its own
        raise BadInput(f"transformers cannot read config.json of {place.address!r}: {complaint(error)}") from None


def require_room(tokenizer: "PreTrainedTokenizerBase", hf: "PreTrainedModel", address: str) -> None:
    """Refuse a tokenizer with more tokens than the model has embeddings.

    Raises:
        BadInput: with both numbers.
    """
    rows = int(hf.get_input_embeddings().weight.shape[0])
    if len(tokenizer) > rows:
        raise BadInput(
            f"The tokenizer of {address!r} has {len(tokenizer)} tokens, its embedding only {rows} rows. They belong "
            "to different models: copy the tokenizer files that came with these weights"
        )
