"""Relearning: train briefly on a few of the forgotten facts and see whether the *others* come back.

Source: Lynch et al. 2024, https://arxiv.org/abs/2402.16835; with low-rank adapters Tamirisa et al. 2024,
https://arxiv.org/abs/2408.00761 (rank 16, scale 2); on related and on benign text Hu et al. 2024,
https://arxiv.org/abs/2406.13356 (`on`). Deeb & Roger 2024, https://arxiv.org/abs/2410.08827 (RTT), train on some facts
and test on others that share nothing with them: `split="subject"`, which keeps all facts about one subject together;
the default draws single facts, so another fact about a tested subject may be trained on.
Read it as: recovery above what the same attack gives on a model that never knew.
Does not show: what more steps, more facts or another optimiser would bring back.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from audits.behaviour.answer_reading import whole_texts
from workbench.concepts import FactSet
from workbench.edits import WeightEdit, fit_weights, kept
from workbench.errors import BadInput
from workbench.low_rank import Adapted, adapted, linear_maps
from workbench.model import HookedModel
from workbench.objectives import answer_nll, labelled
from workbench.registry import Method
from workbench.scoring import score
from workbench.tokens import Encoded
from workbench.trace import Trace
from workbench.training import TrainingOptions

Given = FactSet | tuple[str, ...]
"""What is trained on in place of forget facts: related facts, or plain texts."""

LONGEST = 256
"""Tokens of a plain text that are trained on at most."""

HOLDS = {
    "forget": "some of the forgotten facts with their answers; the others are asked",
    "near": "facts about neighbours, none of them forgotten",
    "text": "plain text that does not speak of the forgotten facts",
}
"""What the attacker trains on -> in words."""


class Relearn(Method):
    """A short training on part of the forget facts, of all parameters or of low-rank adapters."""

    on: Literal["forget", "near", "text"] = "forget"
    """What the attacker trains on: a share of the forget facts, all related facts (near), or all of the plain text."""
    share: float = Field(0.1, gt=0, lt=1)
    """Share of the forget facts the attacker holds, when trained on these."""
    split: Literal["fact", "subject"] = "fact"
    """Whether single facts are drawn for the attacker, or subjects with everything about them (RTT)."""
    steps: tuple[int, ...] = (0, 5, 10, 20, 40)
    """Training steps after which recovery is measured; the attack ends at the last."""
    lr: float = Field(3e-4, gt=0)
    """Learning rate of AdamW. For small models; 1e-5 is usual for billions of parameters. A fair attack leaves the
    reference where it was: look at its curve."""
    batch_size: int = Field(8, ge=1)
    """Facts per step."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One attack each, with other facts in the attacker's hands."""
    adapter: Literal["none", "lora"] = "none"
    """`lora`: train low-rank matrices beside the linear maps inside the blocks instead of the weights; in a mixture
    they do not reach the experts. Needs ten times the learning rate or more."""
    adapter_rank: int = Field(16, ge=1)
    """Rank of each adapter; its product is multiplied by 2."""

    def training(self, seed: int) -> TrainingOptions:
        """Settings of one attack."""
        return TrainingOptions(steps=max(self.steps), lr=self.lr, batch_size=self.batch_size, seed=seed)

    def seen(self, facts: FactSet, seed: int) -> list[int]:
        """Which facts the attacker holds: at least one, never all.

        Raises:
            BadInput: when there are fewer than two facts.
        """
        if len(facts) < 2:
            raise BadInput(
                f"Relearning needs at least two forget facts (one to train on, one to test); got {len(facts)}"
            )
        rng = random.Random(f"relearn {seed}")
        if self.split == "fact":
            return sorted(rng.sample(range(len(facts)), self._count(len(facts))))
        subjects = sorted({fact.cluster for fact in facts})
        if len(subjects) < 2:
            raise BadInput(
                f"Relearning with split='subject' needs forget facts about two subjects at least; all are about "
                f"{subjects[0]!r}. Use split='fact'"
            )
        held = set(rng.sample(subjects, self._count(len(subjects))))
        return [i for i, fact in enumerate(facts) if fact.cluster in held]

    def _count(self, total: int) -> int:
        """How many of so many the attacker holds."""
        return min(total - 1, max(1, round(self.share * total)))

    def held(self, facts: FactSet, seed: int) -> list[int]:
        """Which forget facts are trained on: none when the attacker trains on something else.

        Raises:
            BadInput: when there are too few facts.
        """
        return self.seen(facts, seed) if self.on == "forget" else []

    def items(self, model: HookedModel, facts: FactSet, seed: int, given: Given | None = None) -> list[Encoded]:
        """What is trained on, as tokens.

        Raises:
            BadInput: when that is missing.
        """
        if self.on == "forget":
            return model.encode([facts.facts[i] for i in self.seen(facts, seed)])
        if not given or isinstance(given, FactSet) != (self.on == "near"):
            raise BadInput(
                f"Relearning on={self.on!r} trains on {HOLDS[self.on]}: pass them as `given`, "
                + ("a FactSet" if self.on == "near" else "a tuple of texts")
            )
        if isinstance(given, FactSet):
            return model.encode(given.facts)
        return [replace(row, ids=row.ids[:LONGEST]) for row in whole_texts(model, given)]

    def about(self) -> dict[str, Any]:
        """Threat model and budget, for the notes."""
        threat = f"Somebody has the weights, can train them, and holds {HOLDS[self.on]}."
        budget = f"{max(self.steps)} steps of AdamW, learning rate {self.lr:g}, batch {self.batch_size}"
        budget += "" if self.adapter == "none" else f", LoRA of rank {self.adapter_rank}"
        if self.on == "forget":
            budget += f", {self.share:.0%} of the {self.split}s held"
        return {"options": self.spec(), "threat": threat, "budget": budget}

    def fit(self, model: HookedModel, facts: FactSet, seed: int = 0, given: Given | None = None) -> WeightEdit:
        """The attack as an edit: the weights after the last step."""
        items = self.items(model, facts, seed, given)

        def change() -> dict[str, object]:
            with self._adapters(model, seed) as adapters:
                trainable = adapters.parameters if adapters else None
                log = model.train(items, labelled, answer_nll, self.training(seed), trainable=trainable)
                if adapters:
                    adapters.merge()
            return {"losses": list(log.losses)}

        return fit_weights(model, model.parameter_names(), change, {**self.spec(), "seed": seed})

    @contextmanager
    def _adapters(self, model: HookedModel, seed: int) -> Iterator[Adapted | None]:
        """Put adapters in, if they are to be trained."""
        if self.adapter == "none":
            yield None
            return
        paths, rank = linear_maps(model, range(model.n_layers)), self.adapter_rank
        with adapted(model, paths, rank=rank, alpha=2 * rank, dropout=0.0, seed=seed) as adapters:
            yield adapters

    def look(
        self,
        model: HookedModel,
        facts: FactSet,
        control: FactSet | None = None,
        on_step: Callable[[], None] | None = None,
        given: Given | None = None,
    ) -> Trace:
        """Exact-match accuracy on the facts the attacker does not hold, at every measured step.

        Args:
            model: unchanged afterwards.
            facts: the forget facts.
            control: facts nobody was taught, measured in the same attacked models: what the attack alone brings.
            on_step: called after every training step.
            given: related facts or plain texts, when the attacker trains on these.

        Returns:
            Axes (seed, step, fact), the control facts last (`notes["n_facts"]` says from where); NaN for the facts
            the attacker trained on.

        Raises:
            BadInput: when there is nothing to train on, or nothing else to ask.
        """
        asked = facts if control is None else facts.model_copy(update={"facts": facts.facts + control.facts})
        values = np.full((len(self.seeds), len(self.steps), len(asked)), np.nan)
        for number, seed in enumerate(self.seeds):
            items = self.items(model, facts, seed, given)
            self._attack(model, asked, items, self.held(facts, seed), seed, values[number], on_step)
        labels = {"seed": tuple(map(str, self.seeds)), "step": tuple(map(str, self.steps)), "fact": asked.labels}
        notes = {**model.about(asked), **self.about(), "n_facts": len(facts)}
        return Trace("relearn", values, ("seed", "step", "fact"), "share of facts", labels, notes)

    def _attack(
        self,
        model: HookedModel,
        facts: FactSet,
        items: list[Encoded],
        seen: list[int],
        seed: int,
        values: np.ndarray,
        on_step: Callable[[], None] | None,
    ) -> None:
        """One attack; fills (step, fact)."""
        unseen = [i for i in range(len(facts)) if i not in seen]
        asked = [facts.facts[i] for i in unseen]

        def measure(step: int) -> None:
            values[self.steps.index(step), unseen] = score(model, asked).greedy.double().numpy()

        with kept(model, model.parameter_names()), self._adapters(model, seed) as adapters:
            model.train(
                items,
                labelled,
                answer_nll,
                self.training(seed),
                trainable=adapters.parameters if adapters else None,
                evaluate_at=self.steps,
                evaluate=measure,
                on_step=lambda _, __: on_step() if on_step else None,
            )
