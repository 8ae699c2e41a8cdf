"""Which facts a method may use to protect what must stay, and where they come from."""

from workbench.concepts import Concept, Fact
from workbench.errors import BadInput


def retain_facts(concept: Concept, otherwise: str = "") -> tuple[tuple[Fact, ...], str]:
    """The concept's retain facts; where it has none its near and far ones, and a sentence for the notes that says so.

    Args:
        concept: what is to be forgotten, and what to keep.
        otherwise: what else than adding facts can be done, for the message.

    Raises:
        BadInput: when the concept has none of the three.
    """
    if len(concept.retain):
        return concept.retain.facts, "retain facts, disjoint from the near and far facts that are measured"
    facts = (*concept.near.facts, *concept.far.facts)
    if not facts:
        raise BadInput(
            f"{concept.name} has no retain, near or far facts, so there is nothing to retain: add some{otherwise}"
        )
    return facts, "the near and far facts themselves, because the concept has no retain set: utility is flattered"
