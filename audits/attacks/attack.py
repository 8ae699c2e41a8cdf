"""`Attack`: what every attack has: who could do it, with what budget, and one way to be measured.

An attack's options are its budget. `attempts` are the edits it makes, `look` is what the model answers with them on
(`audits.attacks.under`); the threat model and the budget stand in the trace's notes.
Read it as: `Prune().look(model, concept)` on the audited model, on the base and on the reference.
Does not show: what somebody with more than this budget could do.
"""

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from audits.attacks.under import Attempt, under
from workbench.concepts import Concept, FactSet
from workbench.edits import Edit
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.trace import Trace

Told = Callable[[], None]
"""Called after every step of an attack that takes long."""


class Attack(Method):
    """What somebody could do to bring the answers back."""

    threat: ClassVar[str]
    """Who could do it, in one sentence: what they hold and what they may change."""
    holds_weights: ClassVar[bool] = True
    """Whether the attacker has the weights, and so drops any guard first."""

    @abstractmethod
    def attempts(self, model: HookedModel, concept: Concept) -> Iterable[Edit | Attempt]:
        """What is tried, one after the other; each may be fitted when it is asked for."""

    def look(self, model: HookedModel, concept: Concept, on_step: Told | None = None) -> Trace:  # noqa: ARG002
        """Whether each forget answer comes out under the best attempt, with the never-taught facts behind them.

        Args:
            model: unchanged afterwards.
            concept: forget facts, never-taught ones (the control), and what the attack needs besides.
            on_step: called as the attack goes on, where that takes long.

        Returns:
            Axis (fact), 1 or 0; `notes["n_facts"]` says where the control begins.
        """
        with self.at(model):
            return under(model, self.attempts(model, concept), concept.forget, control_of(concept), self.about())

    def at(self, model: HookedModel) -> contextlib.AbstractContextManager[None]:
        """The model as the attacker has it."""
        return model.bare() if self.holds_weights else contextlib.nullcontext()

    def about(self) -> dict[str, Any]:
        """Threat model and budget, for the notes."""
        return {"options": self.spec(), "threat": self.threat, "budget": self.budget()}

    def budget(self) -> str:
        """The options in words."""
        return ", ".join(f"{name} {value}" for name, value in self.model_dump(mode="json").items()) or "none"


def control_of(concept: Concept) -> FactSet | None:
    """The never-taught facts; None when the concept has none."""
    return concept.never_taught if len(concept.never_taught) else None
