"""What is to be forgotten, as data: a `Fact` is a prompt with its answer, a `FactSet` many, a `Concept` the question.

A concept carries the facts to forget, their neighbours (`near`, catching over-forgetting), unrelated knowledge
(`far`, catching general damage) and, where a source has them, facts of the same kind that were never taught
(`never_taught`, the floor of every reading), plain `text` for fluency, prompts that attack, and passages for membership
inference. What a source cannot supply stays empty and is reported as not measured, never as zero.
"""

import hashlib
import json
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from workbench.errors import BadInput

FACT_SETS = ("forget", "near", "far", "retain", "never_taught", "attack_prompts")
"""Fields of a concept that are sets of facts."""

TEXT_LISTS = ("text", "jailbreaks", "forget_texts", "retain_texts", "holdout_texts")
"""Fields of a concept that are lists of texts."""

LATER = ("group", "kind", "choices", "reworded_answer")
"""Fields of a fact that enter a digest only where they are filled, so that older digests stay what they were."""


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Names of the choices of a multiple-choice question."""


def require_text(text: str) -> None:
    """Refuse text that no file or digest can hold: half of a surrogate pair, which JSON lets through.

    Raises:
        ValueError: for such a text.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("it has half of a surrogate pair, which is no character; write the text as UTF-8") from None


class Fact(BaseModel):
    """One thing a model may know.

    Raises:
        BadInput: (through `Fact.read`) when a field is missing or empty, or the prompt does not hold its subject.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    subject: str
    """Who or what the fact is about; must stand in the prompt word for word."""
    prompt: str
    """Text that ends right before the answer, without a trailing space."""
    answer: str
    """The answer, without a leading space."""
    relation: str = ""
    """What is asked of the subject; facts of one relation share their candidate answers."""
    distractors: tuple[str, ...] = ()
    """Wrong answers of the same kind, for choice accuracy and chance level."""
    paraphrases: tuple[str, ...] = ()
    """Other prompts for the same answer, worded as the source words such things."""
    formats: tuple[str, ...] = ()
    """Prompts for the same answer in a form the source never uses (questions, lists, novel frames)."""
    group: str = ""
    """Facts of one group are drawn together when an interval is made (TOFU: an author); its subject when empty."""
    kind: str = ""
    """What kind of question the source calls it (RWKU: a level or an attack; LUME: a task), to read kinds apart."""
    choices: tuple[str, ...] = ()
    """All answers on offer, in the source's order; the answer is one of them or its letter. For multiple choice."""
    reworded_answer: str = ""
    """The answer worded as the distractors are, where `answer` is not; the truth ratio compares these (TOFU)."""

    @model_validator(mode="after")
    def _sound(self) -> "Fact":
        require_text(json.dumps(self.model_dump(), ensure_ascii=False))
        for name in ("subject", "prompt", "answer"):
            if not getattr(self, name).strip():
                raise ValueError(f"field {name!r} is empty; give it some text")
        if self.subject not in self.prompt:
            raise ValueError(
                f"the prompt {self.prompt!r} does not contain its subject {self.subject!r}; "
                "tracing needs to know which words name the subject, so write it in the prompt"
            )
        if self.choices and self.answer not in (*self.choices, *LETTERS[: len(self.choices)]):
            raise ValueError(f"the answer {self.answer!r} is none of the choices, nor the letter of one")
        return self

    @classmethod
    def read(cls, row: object, where: str) -> "Fact":
        """Build a fact from untrusted data; `where` names the row for the error message."""
        try:
            return cls.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            what = "is missing" if first["type"] == "missing" else first["msg"].removeprefix("Value error, ")
            named = f"field {field!r} {what}" if field else what
            raise BadInput(
                f"{where}: {named}. A fact needs subject, prompt and answer; it may have "
                "relation, distractors, paraphrases, formats, group, kind, choices and reworded_answer"
            ) from None

    @property
    def candidates(self) -> tuple[str, ...]:
        """The answer first, then the wrong answers."""
        return (self.answer, *self.distractors)

    @property
    def cluster(self) -> str:
        """What it is drawn together with when an interval is made."""
        return self.group or self.subject


class FactSet(BaseModel):
    """Facts that are read together."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """Which set this is, for instance `demo:chemistry/forget`."""
    facts: tuple[Fact, ...] = ()
    """The facts, in a fixed order."""
    source: str = ""
    """Where they come from: address and revision, or the script that made them."""
    licence: str = ""
    """Licence of the source, empty when unknown."""

    def __len__(self) -> int:
        return len(self.facts)

    def __iter__(self) -> Iterator[Fact]:  # type: ignore[override]  # iterating a set of facts gives facts
        return iter(self.facts)

    @property
    def digest(self) -> str:
        """sha256 over the facts themselves; the name and the source do not enter.

        Not cached: `model_copy` would carry the old digest over to the changed copy.
        """
        rows = [
            {name: value for name, value in fact.model_dump(mode="json").items() if value or name not in LATER}
            for fact in self.facts
        ]
        return hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    @property
    def subjects(self) -> tuple[str, ...]:
        """Subject, or group, of every fact: the clusters of every interval."""
        return tuple(fact.cluster for fact in self.facts)

    @property
    def labels(self) -> tuple[str, ...]:
        """A unique label a fact: its number and its prompt. Every trace names its facts so."""
        return tuple(f"{i}: {fact.prompt}" for i, fact in enumerate(self.facts))

    def take(self, indices: list[int], suffix: str) -> "FactSet":
        """Some of the facts, under a name that says so."""
        return self.model_copy(update={"name": f"{self.name}/{suffix}", "facts": tuple(self.facts[i] for i in indices)})

    def rewords(self, kind: str) -> tuple[str, ...]:
        """Label of the fact that each fact of `reworded(kind)` words anew, in the same order."""
        return tuple(label for label, fact in zip(self.labels, self.facts, strict=True) for _ in getattr(fact, kind))

    def reworded(self, kind: str) -> "FactSet":
        """One fact per rewording (`paraphrases` or `formats`); empty when the source has none."""
        facts = tuple(
            fact.model_copy(update={"prompt": prompt, "paraphrases": (), "formats": ()})
            for fact in self.facts
            for prompt in getattr(fact, kind)
        )
        return self.model_copy(update={"name": f"{self.name}/{kind}", "facts": facts})


class Concept(BaseModel):
    """What is to be forgotten, and what must stay.

    Raises:
        BadInput: (through `Concept.check`) when there is nothing to forget.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str
    """As a user writes it: `demo:chemistry`, or the path of a file."""
    forget: FactSet
    """What must be gone afterwards."""
    near: FactSet
    """Neighbours: same kind of fact, must stay."""
    far: FactSet
    """Unrelated knowledge, must stay."""
    retain: FactSet = FactSet(name="retain")
    """Facts an unlearning method may train on to protect; disjoint from near and far, so utility is not flattered."""
    never_taught: FactSet
    """Facts of the same kind that no model was taught: the floor."""
    text: tuple[str, ...] = ()
    """Plain text for perplexity."""
    jailbreaks: tuple[str, ...] = ()
    """Templates holding {prompt} (and perhaps {subject}) that try to talk a model into answering."""
    attack_prompts: FactSet = FactSet(name="attack_prompts")
    """Whole prompts that attack, with the answer they are after; `kind` says which attack (RWKU's nine)."""
    questions: dict[str, tuple[str, ...]] = {}
    """Questions without an answer, by what they are about (`forget`, `far`): for overlap with the base's answers."""
    forget_texts: tuple[str, ...] = ()
    """Passages that were trained on and are to be forgotten: members, for membership inference and privleak."""
    retain_texts: tuple[str, ...] = ()
    """Passages that were trained on and stay: what membership looks like."""
    holdout_texts: tuple[str, ...] = ()
    """Passages that no model was trained on: non-members, what privleak compares with."""
    known_sites: tuple[str, ...] = ()
    """Sites the source says hold the concept (ConceptVectors' layer and column); a localiser is scored against them."""
    notes: dict[str, str] = {}
    """By field: what was taken from the source, how many of how many, or why it is empty. Not in the digest."""

    @property
    def digest(self) -> str:
        """sha256 over all facts and texts."""
        parts = [
            self.forget.digest,
            self.near.digest,
            self.far.digest,
            self.never_taught.digest,
            self.retain.digest,
            *self.text,
            *self.jailbreaks,
            *self._later_parts(),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _later_parts(self) -> list[str]:
        """What enters the digest only where it is filled, each under its name."""
        filled: dict[str, object] = {
            "attack_prompts": self.attack_prompts.digest if len(self.attack_prompts) else "",
            "questions": {about: asked for about, asked in self.questions.items() if asked},
            **{name: getattr(self, name) for name in ("forget_texts", "retain_texts", "holdout_texts", "known_sites")},
        }
        return [json.dumps({name: value}, sort_keys=True) for name, value in filled.items() if value]

    def check(self) -> "Concept":
        """Return the concept itself if it can be audited at all."""
        if not len(self.forget):
            raise BadInput(
                f"The forget set of {self.name!r} is empty: there is nothing to audit or unlearn. "
                "Give at least one fact under 'forget'"
            )
        return self
