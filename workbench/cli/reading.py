"""One reading as `workbench look` takes it: on which facts, of which models, and what else its method wants to know.

What a method is given follows from the arguments of its `look`: `near` and `far` facts, `texts`, facts to `train` on,
another checkpoint to hold it `against`, a `donor` (another model's reading, taken first: `Method.donor_reading`), and
`progress`.
"""

import inspect
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from workbench.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from workbench.checkpoint import Checkpoint
    from workbench.cli.progress import Step
    from workbench.concepts import Concept
    from workbench.trace import Trace

SETS = ("forget", "near", "far", "retain", "never_taught")
"""Sets of facts a reading can be taken on."""

TEXT = "text"
"""The concept's plain text, for readings that need no facts."""


def default_set(method: Any) -> str:
    """What a reading is taken on when `--on` does not say."""
    return TEXT if _is_of_text(method) else SETS[0]


def _reads(method: Any, name: str) -> bool:
    """Whether `look` has an argument of that name."""
    return name in inspect.signature(method.look).parameters


def _needs(method: Any, name: str) -> bool:
    """Whether `look` has an argument of that name that cannot be left out."""
    given = inspect.signature(method.look).parameters.get(name)
    return given is not None and given.default is inspect.Parameter.empty


def _is_of_text(method: Any) -> bool:
    """Whether it reads plain text and no facts."""
    return _reads(method, "texts") and not _reads(method, "facts")


@dataclass(frozen=True)
class Reading:
    """What is read, and on what."""

    name: str
    """As in the catalogue."""
    method: Any
    """The probe or behavioural reading with its options."""
    concept: "Concept"
    """Where the facts come from."""
    on: str
    """Which of its sets."""
    limit: int | None
    """How many of its facts; None for all."""

    @property
    def key(self) -> str:
        """Name of the trace in the run."""
        return f"{self.name}.{self.on}"

    def subject(self) -> Any:
        """The facts, or for a reading of plain text the concept's texts.

        Raises:
            BadInput: when the set does not exist or the concept leaves it empty.
        """
        allowed = (TEXT,) if _is_of_text(self.method) else SETS
        if self.on not in allowed:
            raise BadInput(f"{self.name} cannot read {self.on!r}. {did_you_mean(self.on, allowed)}")
        if self.on == TEXT:
            if not self.concept.text:
                raise BadInput(f"{self.concept.name} has no plain text, which {self.name} reads; add some under 'text'")
            return self.concept.text[: self.limit]
        facts = getattr(self.concept, self.on)
        if not len(facts):
            filled = ", ".join(f"{name} ({n})" for name in SETS if (n := len(getattr(self.concept, name))))
            raise BadInput(f"{self.concept.name} has no {self.on} facts. It has: {filled}")
        if self.limit is None or self.limit >= len(facts):
            return facts
        return facts.take(list(range(self.limit)), f"first {self.limit}, for trying out")

    def require_models(self, asked: Any, against: "Checkpoint | None", remote: bool) -> None:
        """Refuse a second model that is missing, of no use, or of another kind.

        Raises:
            BadInput: saying what to give.
        """
        from workbench.checkpoint_config import require_comparable

        wants = _reads(self.method, "donor") or _reads(self.method, "against")
        if against is None:
            if _needs(self.method, "donor") or _needs(self.method, "against"):
                raise BadInput(
                    f"{self.name} holds a model against another one: give that with --against CHECKPOINT, "
                    "usually the model before unlearning"
                )
            return
        if not wants:
            raise BadInput(f"{self.name} looks into one model only; leave out --against")
        if remote:
            raise BadInput(f"{self.name} with --against runs here only; leave out --remote")
        require_comparable(against, asked)

    def take(self, asked: Any, against: "Checkpoint | None", step: "Step") -> "Trace":
        """Open what is needed, one model at a time, and read."""
        method, more = self.method, {}
        donor = None if against is None else method.donor_reading()
        if against is not None and donor is not None:
            giver, asked = (against, asked) if method.donor_from == "against" else (asked, against)
            with giver.open() as model:
                more["donor"] = donor.look(model, self.subject(), **self.more(donor, step))
        if against is not None and _reads(method, "against"):
            more["against"] = against
        with asked.open() as model:
            return method.look(model, self.subject(), **self.more(method, step), **more)

    def more(self, method: Any, step: "Step") -> dict[str, Any]:
        """Further arguments of `look`; a trained probe gets the same training facts as in an audit."""
        found: dict[str, Any] = {name: getattr(self.concept, name) for name in ("near", "far") if _reads(method, name)}
        if _reads(method, "texts") and not _is_of_text(method):
            found["texts"] = self.concept.text
        if _reads(method, "progress"):
            found["progress"] = partial(step, f"reading {self.name}")
        if _reads(method, "train"):
            from audits.reading_ways import probe_training

            found["train"] = probe_training(self.concept)
        return {name: value for name, value in found.items() if callable(value) or len(value)}
