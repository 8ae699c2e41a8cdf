"""What `bench.gradient` trains: a random-weight Llama, facts of TOFU's lengths in made-up words, our methods' options.

Questions have about 20 tokens, answers about 40, refusals 10; every token is a word of its own.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from interventions import INTERVENTIONS, state_pairs
from interventions.gradient.alternatives import WithAlternatives
from interventions.gradient.pairs import Pair, Text, pair_up
from interventions.state_pairs import Told
from workbench.concepts import Concept, Fact, FactSet
from workbench.intervention import Intervention
from workbench.model import HookedModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """Size of a model."""

    config: Mapping[str, Any]
    """Of `LlamaConfig`."""
    layer: int
    """Layer that RMU steers: a quarter of the way up."""

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return int(self.config["vocab_size"])


SHAPES = {
    "tiny": Shape(
        {
            "vocab_size": 512,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        0,
    ),
    "small": Shape(
        {
            "vocab_size": 8192,
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_hidden_layers": 6,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
        },
        1,
    ),
    "llama-3.2-1b": Shape(
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
        },
        4,
    ),
}


@dataclass(frozen=True)
class Match:
    """One method on both sides."""

    name: str
    """Of our method in the catalogue."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """That make it the published one."""
    same: bool = True
    """Whether the two losses are the same function; else they are over other positions."""
    other: bool = False
    """Whether it learns other answers."""


MATCHES = {
    "npo": Match("npo", {"beta": 0.1}),
    "dpo": Match("dpo", {"published": True}, other=True),
    "undial": Match("undial", same=False),
    "grad_ascent": Match("grad_ascent"),
    "grad_diff": Match("grad_diff"),
    "kl": Match("grad_diff", {"retain": "kl"}, same=False),
    "kl-top": Match("grad_diff", {"retain": "kl", "reference_top": 64}, same=False),
    "simnpo": Match("simnpo"),
    "wga": Match("wga"),
    "satimp": Match("satimp"),
    "ce_u": Match("ce_u", {"skip": 1, "retain": "none"}),
    "pdu": Match("pdu", same=False),
    "rmu": Match("rmu", {"published": "open_unlearning"}),
}
"""Name in this bench -> how it is matched. The published step of `kl-top` is that of `kl`."""


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One that knows the words w0, w1, ..."""
    words = {f"w{i}": i for i in range(vocabulary)}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="w0", pad_token="w0")


def language_model(shape: Shape, device: str, precision: str, attention: str) -> LlamaForCausalLM:
    """Random weights, the same every time."""
    torch.manual_seed(0)
    config = LlamaConfig(**shape.config, attn_implementation=attention, bos_token_id=None, eos_token_id=None)
    with torch.device(device):
        return LlamaForCausalLM(config).to(DTYPES[precision])


def concept(shape: Shape, facts: int) -> Concept:
    """As many forget facts as retain facts."""
    draw = random.Random(0)
    forget, retain = (tuple(_fact(draw, shape.vocabulary) for _ in range(facts)) for _ in range(2))
    none = FactSet(name="none")
    return Concept(
        name="made up",
        forget=FactSet(name="forget", facts=forget),
        near=none,
        far=none,
        retain=FactSet(name="retain", facts=retain),
        never_taught=none,
    )


def _fact(draw: random.Random, vocabulary: int) -> Fact:
    prompt, answer = (_text(draw, vocabulary, *among) for among in ((12, 28), (20, 60)))
    return Fact(subject=prompt.split()[0], prompt=prompt, answer=answer)


def _text(draw: random.Random, vocabulary: int, least: int, most: int) -> str:
    return " ".join(f"w{draw.randrange(1, vocabulary)}" for _ in range(draw.randint(least, most)))


def refusals(shape: Shape) -> tuple[str, ...]:
    """A few other answers."""
    draw = random.Random(1)
    return tuple(_text(draw, shape.vocabulary, 8, 12) for _ in range(4))


def our_method(name: str, shape: Shape, **options: Any) -> Intervention:
    """The method of the catalogue with the published options."""
    match = MATCHES[name]
    given = {**match.options, **options}
    if name == "rmu":
        given["layer"] = shape.layer
    if match.other:
        given["refusals"] = refusals(shape)
    return INTERVENTIONS.load(match.name)(**given)


def our_pairs(name: str, model: HookedModel, told: Concept, method: Intervention) -> list[Pair]:
    """The pairs that our method trains on, in its order, for the other side."""
    forget, retain = (model.encode(part.facts) for part in (told.forget, told.retain))
    if name == "rmu":
        found = state_pairs.pairs([Told(one) for one in forget], [Told(one) for one in retain], 0)
        return [Pair(Text(p.forget.fact), Text(p.retain.fact) if p.retain else None) for p in found]
    other = None
    if isinstance(method, WithAlternatives):
        other = [Text(one) for one in model.encode(method.other_answers(told.forget.facts))]
    return pair_up([Text(one) for one in forget], [Text(one) for one in retain], 0, other)
