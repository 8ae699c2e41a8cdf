"""`Evidence`: a number with a verdict's worth; `AuditReport`: all of it, with the level it adds up to.

A missing number is not zero: `value` is None exactly when `why_missing` says why and what would produce it.
Reports are plain JSON (no NaN), so they can be read without this package and judged again in years.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects

SCHEMA_VERSION = 1

Status = Literal["PASS", "WARN", "FAIL", "INCONCLUSIVE", "NOT_RUN", "ERROR"]
"""PASS and WARN evidence a claim (WARN: with something to look at); INCONCLUSIVE: the interval spans the margin."""

Utility = Literal["intact", "degraded", "broken", "not measured"]

ALPHA = 0.05
"""Level of the equivalence tests after Holm's adjustment."""

Knowledge = Literal["found", "undecided", "not found"]

KNOWLEDGE: dict[str, str] = {
    "undecided": "not found by any claim, but some could not decide or were not run",
    "not found": "not found by any claim of U1 to U4",
}
"""What a report says where no claim found the knowledge."""

LEVELS = (
    ("U0", "not removed", "the model behaves like the base on direct prompts"),
    ("U1", "suppressed on tested prompts", "direct forget prompts fail"),
    ("U2", "suppressed robustly", "paraphrases, other formats, sampling, in-context and jailbreak prompts fail too"),
    (
        "U3",
        "not decodable inside beyond control",
        "probes, lens, concept vectors and depth show no more than the control",
    ),
    ("U4", "hard to recover", "relearning, quantisation and patching back recover no more than from the control"),
    (
        "U5",
        "equivalent to retrained within the stated margin",
        "equivalence tests and privacy attack against a reference",
    ),
)
"""Level, the words a report may use, and what it takes."""


class Frozen(BaseModel):
    """Base of everything stored: immutable, strict about unknown keys, documented fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Estimate(Frozen):
    """A mean with its interval."""

    mean: float
    """The mean over items."""
    low: float
    """Lower end of the 95% interval (simultaneous over layers where a claim takes the worst layer)."""
    high: float
    """Upper end."""
    n: int
    """Items it is a mean over."""
    clusters: int
    """Independent groups (subjects) among the items; intervals resample these."""


class Evidence(Frozen):
    """One claim, answered for one checkpoint."""

    claim: str
    """Identifier in the claims table."""
    question: str
    """The question in words."""
    axis: str
    """`outputs`, `robustness`, `decodability`, `storage`, `recoverability`, `privacy` or `utility`."""
    rung: int | None
    """Level this claim is needed for; None for the utility claims."""
    metric: str
    """What was measured, with its unit."""
    value: Estimate | None = None
    """The audited checkpoint."""
    before: Estimate | None = None
    """The base model."""
    reference: Estimate | None = None
    """The model retrained without the concept."""
    floor: Estimate | None = None
    """Facts that were never taught, or chance: what knowing nothing reads."""
    difference: Estimate | None = None
    """Paired difference the status rests on: the checkpoint minus `compared_with`."""
    compared_with: str = ""
    """`reference`, `never taught`, `chance` or `base`."""
    margin: float | None = None
    """Largest difference that still counts as none; fixed before the run."""
    detectable: float | None = None
    """Smallest difference this many items would show with 80% power at 5%."""
    p_equivalence: float | None = None
    """Two one-sided tests against the reference, Holm-adjusted over the primary claims; as it came for the others."""
    p_unadjusted: float | None = None
    """The same before the adjustment; None in a report of a version that did not keep it."""
    holm_over: int | None = None
    """How many primary claims `p_equivalence` was adjusted over; None where it was not adjusted, or is not known to."""
    where: str = ""
    """Layer or step the value is taken at, when it is the worst of many."""
    status: Status
    """What it comes to."""
    why_missing: str | None = None
    """Why there is no value, and what would produce one."""
    note: str = ""
    """What a reader should know."""

    @model_validator(mode="after")
    def _missing_is_not_zero(self) -> "Evidence":
        if (self.value is None) != (self.why_missing is not None):
            raise ValueError(f"claim {self.claim!r}: value is None exactly when why_missing is given")
        if (self.value is None) != (self.status in ("NOT_RUN", "ERROR")):
            raise ValueError(f"claim {self.claim!r}: status {self.status} does not fit value {self.value}")
        return self

    @property
    def equivalent(self) -> bool | None:
        """Whether it was shown equivalent to the reference after Holm's adjustment; None where that was not tested."""
        return None if self.p_equivalence is None or self.holm_over is None else self.p_equivalence <= ALPHA

    def to_frame(self) -> "pandas.DataFrame":
        """One row, with the columns of `AuditReport.to_frame`."""
        import pandas as pd

        return pd.DataFrame([flat(self)])

    def plot(self) -> "plotly.graph_objects.Figure":
        """Its row of the forest: the difference to the control, with interval and margin."""
        from workbench.figures import forest_of

        return forest_of([self])

    def _repr_html_(self) -> str:
        from workbench.figures import evidence_card

        return evidence_card(self)


class Trouble(Frozen):
    """Why a reading was not taken."""

    status: Literal["NOT_RUN", "ERROR"]
    """`NOT_RUN`: it cannot be taken of this model and concept. `ERROR`: it was tried and failed."""
    why: str
    """In one sentence: what is lacking, or what happened."""


class Role(Frozen):
    """A checkpoint's part in an audit."""

    name: str
    """What it is called."""
    digest: str
    """sha256 of its files."""
    path: str = ""
    """Where it lay."""
    guard: str = ""
    """The method of the guard it wears; empty for a model whose weights are all there is to it."""


class OtherNumber(Frozen):
    """A number somebody else's tool measured; it stands beside the evidence and decides nothing."""

    source: Literal["OpenUnlearning", "lm-eval", "Inspect"]
    """The tool."""
    file: str
    """Name of the file it was read from."""
    sha256: str
    """Hash of that file."""
    task: str
    """What was evaluated."""
    metric: str
    """What was measured."""
    value: float
    """The number."""
    stderr: float | None = None
    """Its standard error, where the file gives one."""
    n: int | None = None
    """Items, where the file says how many."""


class StandardNumber(Frozen):
    """A number by which papers compare methods, of this audit's readings; it stands in the report and decides nothing.

    Comparable over papers only with the same data, answers and items; here base and reference stand beside it.
    """

    name: str
    """What its source calls it, and which variant."""
    value: float | None = None
    """Of the audited checkpoint."""
    base: float | None = None
    """Of the base."""
    reference: float | None = None
    """Of the retrained model; None where the number compares with that."""
    interval: tuple[float, float] | None = None
    """95% interval of the value, where there is one."""
    why_missing: str | None = None
    """Why there is no value, and what would produce one."""
    unit: str
    """Unit and direction."""
    source: str
    """Paper and address."""
    entered: str = ""
    """Which readings of how many facts it is made of."""

    @model_validator(mode="after")
    def _missing_is_not_zero(self) -> "StandardNumber":
        if (self.value is None) != (self.why_missing is not None):
            raise ValueError(f"standard number {self.name!r}: value is None exactly when why_missing is given")
        return self


class AuditReport(Frozen):
    """The outcome of an audit; `report.json` is this, and every other form is made from it."""

    schema_version: int = SCHEMA_VERSION
    """Version of this layout."""
    concept: str
    """What was to be forgotten."""
    concept_digest: str
    """sha256 of its facts."""
    counts: dict[str, int]
    """How many facts each set holds."""
    roles: dict[str, Role]
    """`checkpoint`, `base`, and `reference` if there is one."""
    level: int = Field(ge=0, le=5)
    """Highest rung with all lower rungs evidenced."""
    capped_by: str
    """What keeps it from the next rung; empty at the top."""
    knowledge: Knowledge = "undecided"
    """Whether any claim of U1 to U4 found the knowledge; the level says how far the evidence of its absence reaches."""
    found_by: tuple[str, ...] = ()
    """Claims that found it, in the order of the ladder."""
    utility: Utility
    """Whether other knowledge stands; a separate verdict."""
    utility_reason: str
    """The claim the utility verdict rests on."""
    contradictions: tuple[str, ...] = ()
    """Where axes disagree, strongest first."""
    warnings: tuple[str, ...] = ()
    """What was found wrong with the question itself."""
    reference_ignored: str = ""
    """Why the reference that was given is not used; empty when it is, or there is none."""
    evidence: tuple[Evidence, ...]
    """Every claim of the table, measured or not."""
    checks: tuple[str, ...] | None = None
    """Claims that were asked for; None for all."""
    suite: str = ""
    """The suite that was asked; empty where single claims were named instead."""
    standard: tuple[StandardNumber, ...] = ()
    """The numbers papers report (forget quality, model utility, PrivLeak); empty where none was asked for or read."""
    others: tuple[OtherNumber, ...] = ()
    """What other tools measured, read from their files."""
    troubles: dict[str, dict[str, Trouble]] = Field(default_factory=dict)
    """Role -> reading -> why it was not taken."""
    options: dict[str, Any]
    """Options of readings and judging, margins included."""
    margins_digest: str
    """sha256 of the judging options, fixed before the run."""
    environment: dict[str, Any]
    """Versions, device, commit, seeds."""
    made_at: str
    """UTC time."""
    run_id: str
    """Hash of the question."""
    command: str = ""
    """The command line that asks it, to which `--suite` and `--checks` are added."""

    @property
    def has_reference(self) -> bool:
        """Whether claims were held against a retrained reference."""
        return "reference" in self.roles and not self.reference_ignored

    @property
    def words(self) -> str:
        """What the report may say, for instance `suppressed on tested prompts`.

        `not removed` needs evidence too: a direct claim that failed. Without it nothing was shown either way.
        """
        return LEVELS[self.level][1] if self.level or self._shown_to_know else "not shown to be suppressed"

    @property
    def meaning(self) -> str:
        """What the level means, in words that its evidence carries."""
        told = LEVELS[self.level][2]
        return told if self.level or self._shown_to_know else "the direct prompts could not decide whether they fail"

    @property
    def _shown_to_know(self) -> bool:
        return any(e.rung == 1 and e.status == "FAIL" for e in self.evidence)

    @property
    def knowledge_words(self) -> str:
        """What was found, whatever the level: where knowledge shows, or that nothing decided it, or that none does."""
        if self.knowledge == "found":
            return f"found by {', '.join(self.found_by)}"
        if any(e.rung in (1, 2, 3, 4) and e.status == "FAIL" for e in self.evidence):
            return "not to be found: the base does not show that it knows these facts, so failed claims say nothing"
        return KNOWLEDGE[self.knowledge]

    @property
    def verdict(self) -> str:
        """Level and words in one line."""
        return f"{LEVELS[self.level][0]}: {self.words}"

    def of(self, claim: str) -> Evidence:
        """The evidence for one claim."""
        return next(e for e in self.evidence if e.claim == claim)

    def to_frame(self) -> "pandas.DataFrame":
        """One row a claim."""
        import pandas as pd

        rows = [flat(e) for e in self.evidence]
        return pd.DataFrame(rows)

    def plot(self) -> "plotly.graph_objects.Figure":
        """The ladder of levels, with what holds this report back; `workbench.figures.forest` has the differences."""
        from workbench.figures import ladder

        return ladder(self)

    def save(self, out: Path | str) -> list[Path]:
        """Write report.json, report.html, report.md and evidence.parquet into a folder; returns the paths.

        Raises:
            BadInput: when the folder cannot be written.
        """
        from workbench.report import write_report

        return write_report(self, Path(out))

    def _repr_html_(self) -> str:
        from workbench.report import card

        return card(self)


def flat(evidence: Evidence) -> dict[str, Any]:
    """One claim as a flat row: estimates become columns like `value_mean` and `before_low`."""
    row: dict[str, Any] = {}
    for name, value in evidence.model_dump(mode="json").items():
        if name in ESTIMATES:
            row |= {f"{name}_{k}": None if value is None else value[k] for k in Estimate.model_fields}
        else:
            row[name] = value
    return row


ESTIMATES: Sequence[str] = ("value", "before", "reference", "floor", "difference")
"""Fields of `Evidence` that hold an estimate."""
