"""What a membership attack reads: the answers of facts, given their prompts, or whole texts.

Read it as: `members_of(model, facts, "answer")`: token rows with what is to be predicted in them, and their words.
Does not show: membership; see scores.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from audits.behaviour.answer_reading import whole_texts, with_end
from workbench.concepts import FactSet
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.tokens import Encoded
from workbench.trace import Trace

Part = Literal["answer", "whole"]
"""What of a fact is scored: its answer after its prompt, or prompt and answer as one text."""


@dataclass(frozen=True)
class Members:
    """Texts to be scored."""

    encoded: Sequence[Encoded]
    """As token rows."""
    words: Sequence[str]
    """What is scored of each, as text; the zlib score compresses it."""
    notes: dict[str, Any]
    """Of the model and of the texts."""
    axis: str
    """`fact` or `text`."""
    labels: tuple[str, ...]
    """One a text."""

    def trace(self, name: str, values: Any, units: str, how: Method) -> Trace:
        """One number a text."""
        return Trace(name, values, (self.axis,), units, {self.axis: self.labels}, {**self.notes, "options": how.spec()})


def members_of(model: HookedModel, facts: FactSet | Sequence[str], part: Part, published: bool) -> Members:
    """Facts or plain texts as token rows.

    Args:
        model: whose tokenizer.
        facts: facts, or texts (then `part` does not matter: all of a text is scored but its first token).
        part: what of a fact.
        published: with the end-of-text token, of answers only.

    Raises:
        BadInput: when there are none, or a text is too short.
    """
    if not isinstance(facts, FactSet):
        labels = tuple(f"{i}: {text[:60]}" for i, text in enumerate(facts))
        notes = {"model": model.name, "identity": model.identity}
        return Members(whole_texts(model, facts), tuple(facts), notes, "text", labels)
    notes = model.about(facts)
    if part == "whole":
        texts = [f"{shown.prompt} {shown.answer}" for shown in map(model.prompted, facts)]
        return Members(whole_texts(model, texts), texts, notes, "fact", facts.labels)
    encoded = model.encode(facts.facts)
    words = [fact.answer for fact in facts]
    return Members(with_end(model, encoded) if published else encoded, words, notes, "fact", facts.labels)
