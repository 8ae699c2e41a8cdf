"""From a source's facts to a `Concept`: names, licence and address on every set, and the reason on every empty one."""

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.concepts import FACT_SETS, TEXT_LISTS, Concept, Fact, FactSet
from workbench.datasets.spec import Wanted

NO_LICENCE = "no licence stated"
"""What stands where a source names none."""


def assemble(
    wanted: Wanted,
    facts: Mapping[str, Sequence[Fact]],
    *,
    source: str,
    licence: str,
    notes: Mapping[str, str],
    **more: Any,
) -> Concept:
    """Put a concept together.

    Args:
        wanted: what was asked for; its spec is the concept's name.
        facts: name of a set -> its facts.
        source: where they were read.
        licence: of the source.
        notes: what was taken, and why something is missing.
        more: other fields of the concept: texts, questions, known sites.
    """
    sets = {
        name: FactSet(name=f"{wanted.spec}/{name}", facts=tuple(facts.get(name, ())), source=source, licence=licence)
        for name in FACT_SETS
    }
    empty = {name for name in FACT_SETS if not len(sets[name])} | {n for n in TEXT_LISTS if not more.get(n)}
    reasons = {name: f"{wanted.source} has none" for name in sorted(empty)}
    reasons |= {"jailbreaks": "none of its own; the workbench's templates are used"} if "jailbreaks" in empty else {}
    return Concept(name=wanted.spec, **sets, **more, notes={**reasons, **notes})
