"""A `Slot`: tokens of the attacker's own before or behind every prompt, known one by one after tokenising.

A template works on text, an optimised prompt on tokens: `placed` says which tokens a text becomes in front of (or
behind) some prompts, or that it does not become the same tokens in all of them. `filler` finds a text of so many
tokens.
Read it as: `slot.positions[row]` are the indices of the slot's tokens in each row.
Does not show: what the tokens do to the model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from workbench.concepts import Fact
from workbench.edits import PromptEdit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.tokens import Encoded, encode_text

Place = Literal["prefix", "suffix"]

TRIED = ("!", ".", ",", ":", "the", "a")
"""Words a filler is first made of; then the vocabulary in its order."""


@dataclass(frozen=True)
class Slot:
    """A text as tokens in every prompt."""

    text: str
    """What a template says."""
    ids: tuple[int, ...]
    """Its tokens."""
    rows: tuple[Encoded, ...]
    """The prompts with it, and their answers."""
    positions: tuple[range, ...]
    """Where it stands in each row."""


def template_of(text: str, place: Place) -> str:
    """The template that puts a text there."""
    return f"{text} {{prompt}}" if place == "prefix" else f"{{prompt}} {text}"


def placed(model: HookedModel, facts: Sequence[Fact], text: str, place: Place) -> Slot | None:
    """A text in front of or behind every prompt; None when it does not become the same tokens in all of them."""
    plain = model.encode(facts)
    try:
        with PromptEdit("", {}, template=template_of(text, place)).on(model):
            rows = model.encode(facts)
    except BadInput:
        return None
    lead = len(encode_text(model.tokenizer, ""))
    if place == "prefix":
        ids = encode_text(model.tokenizer, text)[lead:]
        starts = [lead for _ in rows]
    else:
        starts = [e.answer_start for e in plain]
        ids = rows[0].ids[starts[0] : rows[0].answer_start]
        if any(e.ids[:start] != p.ids[:start] for e, p, start in zip(rows, plain, starts, strict=True)):
            return None
    positions = tuple(range(start, start + len(ids)) for start in starts)
    same = all(e.ids[at.start : at.stop] == ids for e, at in zip(rows, positions, strict=True))
    if place == "suffix":
        same &= all(at.stop == e.answer_start for e, at in zip(rows, positions, strict=True))
    return Slot(text, ids, tuple(rows), positions) if ids and same else None


def filler(model: HookedModel, facts: Sequence[Fact], tokens: int, place: Place) -> Slot:
    """A text of so many tokens, the same word over and over.

    Raises:
        BadInput: when the tokenizer has no word that stays one token.
    """
    for word in _words(model):
        for text in (" ".join([word] * tokens), word * tokens):
            slot = placed(model, facts[:1], text, place)
            if slot and len(slot.ids) == tokens and (slot := placed(model, facts, text, place)):
                return slot
    raise BadInput(
        f"The tokenizer of {model.name} has no word of which {tokens} make {tokens} tokens as a {place}; "
        "use fewer tokens"
    )


def usable(model: HookedModel) -> list[int]:
    """Tokens that can stand in a template: text of their own, nothing special, no braces."""
    special, tokenizer = set(model.tokenizer.all_special_ids), model.tokenizer
    ids = [i for i in range(min(len(tokenizer), len(model.unembedding))) if i not in special]
    return [i for i in ids if (text := tokenizer.decode([i])).strip() and not {"{", "}", "�"} & set(text)]


def _words(model: HookedModel) -> Iterator[str]:
    yield from TRIED
    for token in usable(model):
        yield model.tokenizer.decode([token]).strip()
