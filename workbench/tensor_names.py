"""`place_of`: from a tensor's name on disk to its layer, module, matrix and expert.

Read it as: the words of the name decide, not the model's code, so that a checkpoint can be read without being loaded.
The rules were tried on the names that transformers 5 writes for Llama, Gemma, Phi, GPT-2, GPT-NeoX, OPT, Bloom, Falcon,
Mixtral, OLMoE, Qwen-MoE, DeepSeek, gpt-oss, Granite-MoE, Phi-MoE and Llama 4. Names on disk differ from names in
memory: most mixtures of experts are stored one tensor an expert and held as one fused tensor a layer.
Does not show: which expert a row belongs to where experts are stored side by side in one matrix (DBRX); such a matrix
counts as a whole. An encoder's and a decoder's layer of the same number fall on one layer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

MODULES = ("embedding", "attention", "mlp", "shared expert", "router", "norm", "unembedding", "other")
"""Everything `Place.module` can be, in the order in which pictures show it."""

_LAYERS = ("layers", "h", "blocks", "block", "layer")
_EMBEDDINGS = re.compile(r"embed_tokens|wte|wpe|embed_in|word_embeddings|embed_positions|tok_embeddings|embeddings")
_UNEMBEDDINGS = ("lm_head", "embed_out", "output")
_NORM = re.compile(r"norm|^ln_|^ln\d*$")
_ROUTERS = ("router", "gate", "e_score_correction_bias", "expert_bias")
_SHARED = ("shared_expert", "shared_mlp")
_MLPS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "experts", "fc1", "fc2")
_OTHER_SENSES = re.compile(r"vision|visual|audio|image")
_FUSED_GRANITE = ("input_linear", "output_linear")
_ROLES = ("weight", "bias")
_WRAPPERS = ("layer", "linear", "wg")
"""Last words that say nothing by themselves; the word before them is the name of the matrix."""


@dataclass(frozen=True)
class Place:
    """Where in a model a tensor belongs."""

    layer: int | None
    """Number of the layer; None outside the layers."""
    module: str
    """One of `MODULES`; an expert's matrices are `mlp`, told apart by `expert`."""
    matrix: str
    """Last telling word of the name, for instance `q_proj`; ` bias` is added for a bias."""
    expert: int | None = None
    """Number of the expert where the name says it; None for what is shared by all."""


def place_of(name: str) -> Place:
    """Where a tensor belongs, by its name on disk."""
    words = name.split(".")
    senses = bool(_OTHER_SENSES.search(name))
    layer = None if senses else _number_after(words, _LAYERS)
    expert = _number_after(words, ("experts",))
    return Place(layer, "other" if senses else _module(words, layer), _matrix(words), expert)


def is_fused(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor on disk holds all experts of a layer along its first axis.

    gpt-oss and Llama 4 store `experts.down_proj` so, with biases as (expert, out); Granite-MoE calls the two matrices
    `input_linear` and `output_linear`.
    """
    words = name.split(".")
    named = "experts" in words or ("block_sparse_moe" in words and any(word in _FUSED_GRANITE for word in words))
    if not named or _number_after(words, ("experts",)) is not None:
        return False
    return len(shape) >= 3 or (len(shape) == 2 and words[-1].endswith("bias"))


def natural_order(name: str) -> list[tuple[int, int | str]]:
    """A sort key under which layer 10 comes after layer 9."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def _number_after(words: Sequence[str], before: Sequence[str]) -> int | None:
    for word, number in zip(words, words[1:], strict=False):
        if word in before and number.isdecimal():
            return int(number)
    return None


def _module(words: Sequence[str], layer: int | None) -> str:
    """The first rule that fits; norms come first: `self_attn.q_norm` and `word_embeddings_layernorm` are norms."""
    if any(_NORM.search(word) for word in words):
        return "norm"
    if any(word.startswith(_SHARED) for word in words):
        return "shared expert"
    if any(word in _ROUTERS for word in words):
        return "router"
    if layer is None and any(_EMBEDDINGS.fullmatch(word) for word in words):
        return "embedding"
    if layer is None and any(word in _UNEMBEDDINGS for word in words):
        return "unembedding"
    if any(word in _MLPS for word in words):
        return "mlp"
    return "attention" if any("attn" in word or "attention" in word for word in words) else "other"


def _matrix(words: Sequence[str]) -> str:
    role = words[-1] if words[-1] in _ROLES else ""
    rest = [word for word in (words[:-1] if role else words) if not word.isdecimal()]
    while len(rest) > 1 and rest[-1] in _WRAPPERS:
        rest = rest[:-1]
    matrix = (rest or ["?"])[-1]
    if matrix.endswith("_bias") and matrix not in _ROUTERS:
        matrix, role = matrix.removesuffix("_bias"), "bias"
    return f"{matrix} bias" if role == "bias" else matrix
