"""Two skills in a tiny Llama: addition modulo 11 and the larger of two, over letters and numbers of their own."""

import random
from functools import cache

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from workbench.concepts import Concept, Fact, FactSet
from workbench.demo.tokenizer import build_tokenizer
from workbench.model import HookedModel

SIZE = 11


def item(skill: str, letter: str, first: int, second: int) -> Fact:
    """One exercise: `plus a3 a7` -> `a10`."""
    value = (first + second) % SIZE if skill == "plus" else max(first, second)
    operands = f"{letter}{first} {letter}{second}"
    wrong = tuple(f"{letter}{i}" for i in range(SIZE) if i != value)
    return Fact(
        subject=operands, prompt=f"{skill} {operands}", answer=f"{letter}{value}", relation=skill, distractors=wrong
    )


def exercises(skill: str, letter: str) -> list[Fact]:
    """All pairs, shuffled."""
    found = [item(skill, letter, i, j) for i in range(SIZE) for j in range(SIZE)]
    random.Random(0).shuffle(found)
    return found


PLUS, LARGER = exercises("plus", "a"), exercises("max", "b")


@cache
def skilled(seed: int = 0) -> HookedModel:
    """The trained model; a few seconds."""
    tokenizer = build_tokenizer(["plus", "max", *(f"{letter}{i}" for letter in "ab" for i in range(SIZE))])
    shape = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4}
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = LlamaConfig(**shape, **ends, vocab_size=len(tokenizer), num_hidden_layers=3, attn_implementation="eager")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf = LlamaForCausalLM(config)
    rows = torch.tensor([tokenizer(f"{fact.prompt} {fact.answer}")["input_ids"] for fact in (*PLUS, *LARGER)])
    optimizer = torch.optim.AdamW(hf.parameters(), lr=3e-3, weight_decay=0)
    for _ in range(300):
        logits = hf(rows[:, :-1], use_cache=False, logits_to_keep=1).logits[:, 0]
        loss = torch.nn.functional.cross_entropy(logits, rows[:, -1])
        if float(loss.detach()) < 0.01:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return HookedModel(hf.eval().requires_grad_(True), tokenizer, name="skills", check=False)


def question(forget: list[Fact], retain: list[Fact], near: tuple[Fact, ...] = ()) -> Concept:
    """A concept of some exercises."""
    sets = {"forget": forget, "retain": retain, "near": near, "far": (), "never_taught": []}
    return Concept(name="skills", **{name: FactSet(name=name, facts=tuple(facts)) for name, facts in sets.items()})
