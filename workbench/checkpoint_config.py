"""What a config.json says a model is: only decoder-only language models that read nothing but text are opened.

It is judged by config.json alone, before any class of a library is made of it: for models of images or sound
TransformerLens may install packages on its own.
"""

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from workbench.errors import BadInput

if TYPE_CHECKING:
    from workbench.checkpoint import Checkpoint
    from workbench.opening import Opening

OTHER_SENSES = (
    "vision_config",
    "audio_config",
    "speech_config",
    "image_config",
    "video_config",
    "text_config",
    "thinker_config",
    "talker_config",
    "vision_tower",
    "mm_vision_tower",
    "visual",
)
"""Keys of config.json that only models of images or sound have."""

ELSEWHERE = "transformers_weights"
"""Key with which a config.json makes transformers read other weight files than the usual ones."""

SHAPE = {
    "model type": ("model_type",),
    "hidden size": ("hidden_size",),
    "number of layers": ("num_hidden_layers",),
    "vocabulary": ("vocab_size",),
    "number of experts": ("num_experts", "num_local_experts", "n_routed_experts"),
}
"""What two models must share to be compared -> how transformers' configs call it."""


def require_language_model(config: Mapping[str, Any], name: str, opening: "Opening") -> None:
    """Refuse what is no decoder-only language model of text.

    Raises:
        BadInput: saying what it is and what is opened.
    """
    only = "The workbench opens decoder-only language models of text (…ForCausalLM)"
    senses = [key for key in OTHER_SENSES if config.get(key)]
    if senses:
        raise BadInput(f"{name!r} is a multimodal model ({senses[0]} in config.json). {only}; extract its text model")
    if config.get("is_encoder_decoder"):
        raise BadInput(f"{name!r} is an encoder-decoder ({config.get('model_type')}). {only}")
    if ELSEWHERE in config:
        raise BadInput(f"{name!r} has its weights under another name ({ELSEWHERE} in config.json); remove that key")
    if not ("auto_map" in config and opening.trust_remote_code):  # its own code says what it is
        _require_known(config, name, only)


def _require_known(config: Mapping[str, Any], name: str, only: str) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind, classes = config.get("model_type"), config.get("architectures")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING_NAMES:
        near = difflib.get_close_matches(str(kind), CONFIG_MAPPING_NAMES, n=1, cutoff=0.6)
        guess = f"Did you mean {near[0]!r}? " if near else ""
        raise BadInput(
            f"{name!r} has the model_type {kind!r}, which transformers does not know. {guess}Give a model that "
            "transformers knows, or update transformers if this one is new"
        )
    wanted = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    if not isinstance(classes, list) or wanted is None or wanted not in classes:
        said = ", ".join(map(str, classes)) if isinstance(classes, list) else repr(classes)
        raise BadInput(
            f"{name!r} names the architecture {said or 'none'} in config.json. {only}"
            + (f"; for model_type {kind!r} that is {wanted}" if wanted else f"; {kind!r} has none")
        )
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder"):
        raise BadInput(f"{name!r} is an encoder ({kind} without is_decoder in config.json). {only}")


def require_comparable(base: "Checkpoint", other: "Checkpoint", role: str = "checkpoint") -> None:
    """Refuse two checkpoints whose insides or answers cannot be held against each other.

    Args:
        base: the model the other was made from.
        other: a checkpoint, or a reference.
        role: what to call the other in the message.

    Raises:
        BadInput: naming the first things that differ, with both values.
    """
    ours, theirs = shape_of(base), shape_of(other)
    shapes = [f"{what} {theirs[what]} against {ours[what]}" for what in SHAPE if ours[what] != theirs[what]]
    reasons = [f"different architectures ({', '.join(shapes[:3])})"] if shapes else []
    if other.tokenizer_digest != base.tokenizer_digest:
        reasons.append("different tokenizers")
    if reasons:
        raise BadInput(
            f"The {role} {other.address!r} and the base {base.address!r} have {' and '.join(reasons)}, so they cannot "
            "be compared fact by fact. Audit a checkpoint with the base it was made from"
        )


def shape_of(checkpoint: "Checkpoint") -> dict[str, Any]:
    """The figures of `SHAPE`, None where the architecture has no such thing."""
    config = checkpoint.config()
    return {
        what: next((getattr(config, key) for key in keys if getattr(config, key, None) is not None), None)
        for what, keys in SHAPE.items()
    }
