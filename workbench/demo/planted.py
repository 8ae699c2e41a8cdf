"""Models in which facts are written by hand, so that the truth about every site is known; no training, about 0.1 s.

How it works, in a random 3-layer model with a residual stream of 128 dimensions (randomly rotated, so no axis is
special): attention of layer 0 carries the relation word to the subject; one neuron per fact (layer 1 for the facts to
forget and the far ones, layer 0 for the near ones) fires on "this subject, asked for this relation" and its value
vector is the answer's unembedding direction; attention of layer 2 carries what was written to the last token. A
second answer token and the end of the answer are neurons of layer 2. In the OLMoE variant the neurons lie inside one
known expert per group, and the router is taught to send the group's subjects there.

Read it as: `Planted.sites[fact.prompt]` is the true site of that fact; zero it and the answer falls to chance.
Does not show: how trained models store facts. The relation must stand before the subject in a prompt, names are one
token, and one neuron holds a whole fact, which no trained model does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from workbench.concepts import Concept, Fact
from workbench.demo.planted_facts import ALL_WORDS, END_WORDS, KEY_WORDS, LINKS, RELATIONS, planted_concept
from workbench.demo.tokenizer import build_tokenizer
from workbench.errors import BadInput, did_you_mean
from workbench.sites import Site

ARCHITECTURES = ("llama", "olmoe")
"""What `plant` can build."""

WIDTH, NEURONS, EXPERTS, LAYERS = 128, 48, 4, 3
"""Residual width, neurons per MLP (or per expert), experts per layer (OLMoE), blocks."""

_ASKED_DIMS, _ANSWER_DIMS = 8, 56
_EMBED_NORM = 4.0
_WEIGHT_NOISE = 0.01
_CARRY_RELATION, _CARRY_ANSWER = 1.5, 4.0
_UNEMBED = 1.2


@dataclass(frozen=True)
class Planted:
    """A model with facts written by hand, and the truth about them."""

    model: PreTrainedModel
    """In eval mode, float32, on the CPU."""
    tokenizer: PreTrainedTokenizerFast
    """One token a word."""
    concept: Concept
    """What was written (forget, near, far) and what was not (never_taught)."""
    sites: dict[str, Site]
    """Prompt of every written fact -> the neuron that holds its first answer token."""

    def save(self, folder: Path) -> Path:
        """Write an ordinary checkpoint (safetensors, config, tokenizer) and return its folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder

    def sites_of(self, facts: Sequence[Fact]) -> tuple[Site, ...]:
        """The true sites of some written facts, in their order."""
        return tuple(self.sites[fact.prompt] for fact in facts)


class _Axes:
    """Random orthonormal directions of the residual stream, shared out among what must not interfere."""

    def __init__(self, generator: torch.Generator) -> None:
        basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0].T
        keys, rest = basis[: len(KEY_WORDS)], basis[len(KEY_WORDS) :]
        self.word: dict[str, Float[Tensor, " d"]] = dict(zip(KEY_WORDS, keys, strict=True))
        self.asked: Float[Tensor, "k d"] = rest[:_ASKED_DIMS]
        self.answer: Float[Tensor, "k d"] = rest[_ASKED_DIMS : _ASKED_DIMS + _ANSWER_DIMS]
        self.other: Float[Tensor, "k d"] = rest[_ASKED_DIMS + _ANSWER_DIMS : -1]
        self.end: Float[Tensor, " d"] = rest[-1]


def _unit(rows: int, axes: Float[Tensor, "k d"], generator: torch.Generator) -> Float[Tensor, "rows d"]:
    """Random unit vectors inside the space that `axes` span."""
    return torch.nn.functional.normalize(torch.randn(rows, len(axes), generator=generator), dim=-1) @ axes


def _empty_model(arch: str, vocabulary: int, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A small model of the architecture; its weights are overwritten by `_randomise`."""
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": NEURONS,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if arch == "llama":
        model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**shape, attn_implementation="eager"))
    else:
        model = OlmoeForCausalLM(
            OlmoeConfig(**shape, num_experts=EXPERTS, num_experts_per_tok=2, attn_implementation="eager")
        )
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    return model.eval()


def _randomise(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Small random weights everywhere; norms stay 1, but query norms shrink so that attention is nearly uniform."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * _WEIGHT_NOISE)
        elif name.endswith("q_norm.weight"):
            parameter.fill_(0.05)


def _write_words(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, axes: _Axes, generator: torch.Generator
) -> Float[Tensor, "vocab d"]:
    """Give every token its embedding and unembedding vector; return the unembedding directions (unit length)."""
    vocabulary = len(tokenizer)
    embedding = _unit(vocabulary, axes.other, generator)
    for word, axis in axes.word.items():
        embedding[_token(tokenizer, word)] = axis
    for word in END_WORDS:
        row = embedding[_token(tokenizer, word)] + axes.end
        embedding[_token(tokenizer, word)] = row / row.norm()
    says = _unit(vocabulary, axes.answer, generator)
    model.get_input_embeddings().weight.copy_(_EMBED_NORM * embedding)
    model.get_output_embeddings().weight.copy_(_UNEMBED * says)
    return says


def _token(tokenizer: PreTrainedTokenizerFast, word: str) -> int:
    """Id of a word that is one token."""
    (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]
    return token


def _carry(
    model: PreTrainedModel, layer: int, read: Float[Tensor, "k d"], write: Float[Tensor, "k d"], gain: float
) -> None:
    """Let the attention of a layer add (mean over positions of the `read` part) * gain to the `write` part."""
    attention = model.model.layers[layer].self_attn
    attention.v_proj.weight[: len(read)] += read
    attention.o_proj.weight[:, : len(read)] += gain * write.T


def _write_neuron(
    model: PreTrainedModel, site: Site, key: Float[Tensor, " d"], asked: Float[Tensor, " d"], value: Float[Tensor, " d"]
) -> None:
    """Make one neuron fire where both `key` and `asked` are in the residual stream, and then add `value`."""
    assert site.layer is not None and site.index is not None
    mlp, j = model.model.layers[site.layer].mlp, site.index
    if site.expert is None:
        gate, up, down = mlp.gate_proj.weight[j], mlp.up_proj.weight[j], mlp.down_proj.weight[:, j]
    else:
        fused, down = mlp.experts.gate_up_proj[site.expert], mlp.experts.down_proj[site.expert, :, j]
        gate, up = fused[j], fused[NEURONS + j]
        mlp.gate.weight[site.expert] += 0.5 * key
    gate += 0.5 * key
    up += 0.25 * asked
    down += value


def _draw_sites(arch: str, concept: Concept, generator: torch.Generator) -> tuple[dict[str, Site], list[Site]]:
    """A distinct random neuron for every fact (forget and far in layer 1, near in layer 0), and some in layer 2."""
    experts = torch.randperm(EXPERTS, generator=generator).tolist()
    expert = dict(zip(("forget", "far", "near", "link"), experts, strict=True)) if arch == "olmoe" else {}
    free = {layer: iter(torch.randperm(NEURONS, generator=generator).tolist()) for layer in range(LAYERS)}
    sites = {
        fact.prompt: Site(layer, "mlp_act", next(free[layer]), expert.get(group))
        for group, layer in (("forget", 1), ("near", 0), ("far", 1))
        for fact in getattr(concept, group)
    }
    return sites, [Site(2, "mlp_act", next(free[2]), expert.get("link")) for _ in range(len(LINKS) + 1)]


@torch.no_grad()
def plant(arch: str = "llama", seed: int = 0) -> Planted:
    """Write the facts of `planted_concept(seed)` into a fresh random model; the global random state is not used.

    Raises:
        BadInput: for an architecture that is not in `ARCHITECTURES`.
    """
    if arch not in ARCHITECTURES:
        raise BadInput(f"Cannot plant facts in {arch!r}. {did_you_mean(arch, ARCHITECTURES)}")
    generator = torch.Generator().manual_seed(seed)
    concept, tokenizer, axes = planted_concept(seed), build_tokenizer(ALL_WORDS), _Axes(generator)
    with torch.random.fork_rng(devices=[]):
        model = _empty_model(arch, len(tokenizer), tokenizer)
    _randomise(model, generator)
    says = _write_words(model, tokenizer, axes, generator)
    asked = dict(zip(RELATIONS, axes.asked, strict=False))
    _carry(
        model,
        0,
        torch.stack([axes.word[relation] for relation in RELATIONS]),
        axes.asked[: len(RELATIONS)],
        _CARRY_RELATION,
    )
    _carry(model, LAYERS - 1, axes.answer, axes.answer, _CARRY_ANSWER)
    sites, spare = _draw_sites(arch, concept, generator)
    for fact in (*concept.forget, *concept.near, *concept.far):
        first = _token(tokenizer, fact.answer.split()[0])
        _write_neuron(model, sites[fact.prompt], axes.word[fact.subject], asked[fact.relation], says[first])
    for site, (word, following) in zip(spare, LINKS.items(), strict=False):
        value = 4 * says[_token(tokenizer, following)] - 4 * says[_token(tokenizer, word)]
        _write_neuron(model, site, axes.word[word], axes.word[word], value)
    _write_neuron(model, spare[-1], axes.end, axes.end, 10 * says[tokenizer.eos_token_id])
    return Planted(model, tokenizer, concept, sites)
