"""`Trained`: attacks that are fitted on some facts and asked about the others, forget and never-taught facts alike.

Facts about one subject stay together. The forget facts are cut in two halves and each is asked of the attack that
held the other, so every fact gets an answer that was held out. The never-taught facts get the same: an attack fitted
on half of them, asked about the other half. An attack that brings those out puts answers in, it does not take them
out.
Read it as: forget above never taught. Does not show: what an attack brings out of the facts it was fitted on; it can
teach those.
"""

import random
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from audits.attacks.attack import Attack, Told, control_of
from audits.attacks.under import Attempt, answered, shares, together
from workbench.concepts import Concept, FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.trace import Trace


class Half(NamedTuple):
    """What the attacker holds and what is asked."""

    held: FactSet
    rest: FactSet


class Trained(Attack):
    """An attack that is fitted on some of the facts."""

    share: float = Field(0.5, gt=0, lt=1)
    """Share of the subjects whose facts the attacker holds."""
    both_ways: bool = True
    """Also fit on the other facts and ask the first, so that every fact is asked; else those held stay unread."""
    most: int = Field(16, ge=1)
    """Facts fitted on, at most, spread evenly over those held; the others held are not asked either."""
    seeds: tuple[int, ...] = (0,)
    """One division of the facts each."""

    @abstractmethod
    def attempt(self, model: HookedModel, concept: Concept, held: FactSet, on_step: Told | None) -> Attempt:
        """The attack by somebody who holds these facts; it is asked about others only."""

    def attempts(self, model: HookedModel, concept: Concept) -> Iterator[Attempt]:
        """Every fit of the first division."""
        yield from self._fitted(model, concept, self.seeds[0], None)

    def look(self, model: HookedModel, concept: Concept, on_step: Told | None = None) -> Trace:
        """Whether held-out answers come out.

        Returns:
            Axes (seed, fact), 1 or 0, the never-taught facts last (`notes["n_facts"]`); NaN for a fact that was held
            by every attack.
        """
        asked = together(concept.forget, control_of(concept))
        with self.at(model):
            about = model.about(asked)
            values, attacks = np.full((len(self.seeds), len(asked)), np.nan), []
            for number, seed in enumerate(self.seeds):
                for attempt in self._fitted(model, concept, seed, on_step):
                    found = answered(model, attempt, asked)
                    values[number] = np.where(np.isnan(found), values[number], found)
                    attacks.append({"edits": attempt.said(), "seed": seed, **shares(found, len(concept.forget))})
        labels = {"seed": tuple(map(str, self.seeds)), "fact": asked.labels}
        notes = {**about, **self.about(), "attacks": attacks, "n_facts": len(concept.forget)}
        return Trace("accuracy", values, ("seed", "fact"), "share of facts", labels, notes)

    def _fitted(self, model: HookedModel, concept: Concept, seed: int, on_step: Told | None) -> Iterator[Attempt]:
        for half in divisions(concept, self.share, seed, self.both_ways):
            attempt = self.attempt(model, concept, spread(half.held, self.most), on_step)
            yield Attempt(attempt.edits, prompts_of(half.rest))

    def about(self) -> dict[str, Any]:
        """Threat model, budget and division."""
        return {**super().about(), "held out": "every answer: facts are asked of attacks fitted on other subjects"}


def spread(facts: FactSet, most: int) -> FactSet:
    """At most so many of the facts, evenly spaced."""
    if len(facts) <= most:
        return facts
    return facts.take([i * len(facts) // most for i in range(most)], f"{most} of them")


def divisions(concept: Concept, share: float, seed: int, both_ways: bool) -> Iterator[Half]:
    """The forget facts divided, then the never-taught ones.

    A single never-taught fact cannot be held out: it stays unread.
    """
    for facts in (concept.forget, control_of(concept)):
        if facts is concept.forget or (facts is not None and len(facts) > 1):
            yield from halves(facts, share, seed)[: 2 if both_ways else 1]


def prompts_of(facts: FactSet) -> frozenset[str]:
    """What `Attempt.asked` takes."""
    return frozenset(fact.prompt for fact in facts)


def halves(facts: FactSet, share: float, seed: int) -> tuple[Half, Half]:
    """Two divisions of the facts into held and asked, each the other's reverse.

    By subject, or by fact when all facts are about one subject.

    Raises:
        BadInput: when there are fewer than two facts.
    """
    groups = list(dict.fromkeys(facts.subjects))
    by_fact = len(groups) < 2
    names: list[Any] = list(range(len(facts))) if by_fact else groups
    if len(names) < 2:
        raise BadInput(
            f"{facts.name} has {len(facts)} facts; an attack that trains needs two (one to hold, one to ask)"
        )
    count = min(len(names) - 1, max(1, round(share * len(names))))
    held = set(random.Random(f"halves {seed}").sample(names, count))
    keys = range(len(facts)) if by_fact else facts.subjects
    mine = [i for i, key in enumerate(keys) if key in held]
    others = [i for i in range(len(facts)) if i not in set(mine)]
    one, two = facts.take(mine, "held"), facts.take(others, "rest")
    return Half(one, two), Half(two, one)
