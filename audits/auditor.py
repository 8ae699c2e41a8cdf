"""`audit`: any checkpoint in, a verdict with evidence out. Opens one model at a time; readings are cached by content.

Order: the base (which finds the concept vectors to follow), the reference, the checkpoint, then the base once more to
read the others' states. Readings of a model are stored under the digest of its weights, of the concept, of the options
and of this code, so the base and the reference are read once for all the audits that share them.
"""

import hashlib
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from audits.claims import CLAIMS, Claim, Suite, asked_in
from audits.judge import Judge, JudgeOptions
from audits.read import DEPTH, Found, Progress, ReadingOptions, asked_keys, loaded, read, read_depth, stored
from audits.reading_ways import Asked, Readings
from audits.readings import shown_in
from audits.reference import DIRECT, base_ignorant, reference_knows
from audits.standard_numbers import STANDARD_READINGS, any_value, standard_numbers
from audits.verdict import contradictions, knowledge_of, ladder, utility_of
from workbench.cache import cache_folder
from workbench.checkpoint import Checkpoint
from workbench.checkpoint_config import require_comparable
from workbench.concepts import Concept
from workbench.evidence import AuditReport, OtherNumber, Role, Trouble
from workbench.report import write_report
from workbench.store import RunFolder, environment, now, question_id
from workbench.telling import Telling
from workbench.trace import Trace, beside

READING_CODE = (
    "workbench/*.py",
    "probes/*.py",
    "audits/read.py",
    "audits/reading*.py",
    "audits/behaviour/*.py",
    "audits/attacks/*.py",
    "audits/privacy/*.py",
    "audits/metrics/*.py",
)
"""Files whose change makes a stored reading stale."""

VERDICT_CODE = (*READING_CODE, "audits/*.py")
"""Files whose change makes a stored verdict stale."""


def audit(
    checkpoint: Checkpoint | Path | str,
    *,
    base: Checkpoint | Path | str,
    concept: Concept,
    reference: Checkpoint | Path | str | None = None,
    out: Path | str | None = None,
    reading: ReadingOptions | None = None,
    judging: JudgeOptions | None = None,
    suite: Suite = "standard",
    checks: Sequence[str] | None = None,
    beside: Sequence[OtherNumber] = (),
    device: str | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Audit a checkpoint.

    Args:
        checkpoint: the model that is said to have forgotten; like the others a `Checkpoint`, a folder, a hub id or
            `base+adapter`.
        base: the model it was made from.
        concept: what it is said to have forgotten, and what it must still know.
        reference: the model retrained without the concept, if there is one; without it the level ends at U2.
        out: run folder to write (readings, report.json, report.html, report.md); nothing is written when None.
        reading: what is read, with what budget.
        judging: margins, fixed before the run.
        suite: how much is asked: `quick`, `standard` or `full`.
        checks: claims to ask instead of a suite's; the others are reported as not run.
        beside: numbers of other tools (`workbench.beside.read_beside`), to stand in the report.
        device: a torch device; what each checkpoint's `opening` says when None.
        progress: called before every reading.

    Raises:
        BadInput: when models and concept do not fit together, or the folder cannot be used.
    """
    roles = {"checkpoint": _opened(checkpoint), "base": _opened(base)}
    if reference is not None:
        roles["reference"] = _opened(reference)
    for role, other in roles.items():
        require_comparable(roles["base"], other, role)
    options = (reading or ReadingOptions(), judging or JudgeOptions())
    asked = Question(
        roles, concept.check(), *options, suite, None if checks is None else tuple(checks), device, tuple(beside)
    )
    run = RunFolder.claim(Path(out), asked.in_words()) if out else None
    if run and run.finished:
        from workbench.report import read_report

        return read_report(run.path)
    if run is None:
        return _judged(asked, _read_all(asked, progress))
    about = {role: c.record for role, c in roles.items()}
    with run.running(inputs={role: c.shards for role, c in roles.items()}, checkpoints=about):
        run.event(doing="reading", concept=concept.name)
        found = _read_all(asked, Telling(run, progress))
        report = _judged(asked, found)
        _copy_readings(asked, found, run.path)
        write_report(report, run.path, {role: f.traces for role, f in found.items()})
        run.event(doing="done", verdict=report.verdict)
    return report


def rejudge(path: Path, judging: JudgeOptions) -> AuditReport:
    """Judge the stored readings of an audit again, with other margins if wanted; needs no model.

    Raises:
        BadInput: when the folder holds no finished audit.
    """
    from workbench.report import read_report, read_traces

    old = read_report(path)
    readings = read_traces(path)
    return _report(old, readings, judging)


@dataclass(frozen=True)
class Question:
    """What an audit answers."""

    roles: Mapping[str, Checkpoint]
    """`checkpoint`, `base`, and `reference` if there is one."""
    concept: Concept
    """What was to be forgotten."""
    reading: ReadingOptions
    """What is read, with what budget."""
    judging: JudgeOptions
    """Margins."""
    suite: Suite = "standard"
    """How much is asked."""
    checks: tuple[str, ...] | None = None
    """Claims asked instead of a suite's."""
    device: str | None = None
    """Where models are opened; not part of the question."""
    beside: tuple[OtherNumber, ...] = ()
    """Numbers of other tools."""

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The claims that are asked.

        Raises:
            BadInput: for a check that does not exist.
        """
        return asked_in(self.suite, self.checks)

    @property
    def keys(self) -> tuple[str, ...]:
        """The readings the checkpoint needs for them.

        The direct answers are always among them: they show whether base and reference are what they should be. A whole
        suite also takes what pages show; who names single checks gets those alone.
        """
        return (DIRECT, *(claim.reading for claim in self.claims), *self.shown)

    @property
    def shown(self) -> tuple[str, ...]:
        """The readings that no claim rests on: what pages show, and what the numbers papers report are made of."""
        of_papers = STANDARD_READINGS if self.all_claims else ()
        apart = self.checks is not None or not self.reading.shown
        return of_papers if apart else (*shown_in(self.suite), *of_papers)

    @property
    def all_claims(self) -> bool:
        """Whether every claim of the table is asked."""
        return len(self.claims) == len(CLAIMS)

    def in_words(self) -> dict[str, Any]:
        """The question in JSON form; its hash is the run id.

        Other instruments make another question: an old verdict is not passed off as a new one.
        """
        return {
            "verb": "audit",
            "roles": {role: c.digest for role, c in self.roles.items()},
            "dtypes": {role: c.opening.dtype for role, c in self.roles.items()},
            "concept": self.concept.digest,
            "claims": [claim.id for claim in self.claims],
            "reading": self.reading.spec(),
            "judging": self.judging.spec(),
            "code": code_digest(VERDICT_CODE),
            **({"shown": list(self.shown)} if self.shown else {}),
            **({"beside": sorted({n.sha256 for n in self.beside})} if self.beside else {}),
        }

    def command(self) -> str:
        """The command line that asks it, without what is asked."""
        words = ["workbench", "audit", self.roles["checkpoint"].address, "--base", self.roles["base"].address]
        if "reference" in self.roles:
            words += ["--reference", self.roles["reference"].address]
        return shlex.join([*words, "--concept", self.concept.name])


def _opened(given: Checkpoint | Path | str) -> Checkpoint:
    return given if isinstance(given, Checkpoint) else Checkpoint(given)


# ---- reading


def reading_folders(asked: Question) -> dict[str, Path]:
    """Where each role's readings are cached, whatever is asked of them.

    The base is in the key: it decides which vectors are followed, and whose upper layers read the states.
    """
    base = asked.roles["base"].opening

    def folder(role: str) -> Path:
        key = {
            "checkpoint": asked.roles[role].digest,
            "base": asked.roles["base"].digest,
            "concept": asked.concept.digest,
            "reading": asked.reading.spec(),
            "code": code_digest(),
            "opening": [
                [asked.device or how.device, how.dtype, how.device_map] for how in (asked.roles[role].opening, base)
            ],
        }
        return cache_folder() / "readings" / question_id(key)

    return {role: folder(role) for role in asked.roles}


def _read_all(asked: Question, progress: Progress | None) -> dict[str, Found]:
    folders = reading_folders(asked)
    found: dict[str, Found] = {}
    for role in ("base", *(r for r in ("reference", "checkpoint") if r in asked.roles)):
        base = found["base"].traces if role != "base" else None
        found[role] = _read_one(asked, role, base, folders[role], progress)
    if DEPTH in asked.keys:
        _read_depths(asked, folders, found)
    return found


def _read_one(asked: Question, role: str, base: Readings | None, folder: Path, progress: Progress | None) -> Found:
    """Readings of one model; when all of them are stored, the model is not even opened."""
    keys = asked_keys(asked.keys, role)
    found = loaded(keys, folder)
    if found is None:
        with asked.roles[role].open(asked.device) as model:
            files = asked.roles["base"] if role != "base" else None
            found = read(Asked(model, asked.concept, asked.reading, base, base_files=files), keys, folder, progress)
    return found


def _read_depths(asked: Question, folders: Mapping[str, Path], found: Mapping[str, Found]) -> None:
    """The depth of every role: its states, read by the base, which is opened only where one is not stored."""
    donors = {}
    for role, there in found.items():
        trace, states = stored(folders[role], DEPTH), there.traces.get("states.forget")
        if trace is not None:
            there.traces[DEPTH] = trace
        elif states is not None and _same_shape(states, found["base"].traces):
            donors[role] = (folders[role], states)
        else:
            there.troubles[DEPTH] = there.troubles.get("states.forget") or Trouble(
                status="NOT_RUN", why="its states have another shape than the base's, so the base cannot read them"
            )
    if not donors:
        return
    with asked.roles["base"].open(asked.device) as model:
        for role, depth in read_depth(model, asked.concept.forget, donors):
            if isinstance(depth, Trouble):
                found[role].troubles[DEPTH] = depth
            else:
                found[role].traces[DEPTH] = depth


def _same_shape(states: Trace, base: Readings) -> bool:
    """Whether a donor's states could stand in the base at all (same layers, tokens and width)."""
    return "states.forget" in base and states.values.shape == base["states.forget"].values.shape


def _copy_readings(asked: Question, found: Mapping[str, Found], out: Path) -> None:
    """The readings of this audit, and no others that are cached beside them, into the run."""
    for role, folder in reading_folders(asked).items():
        (out / "traces" / role).mkdir(parents=True, exist_ok=True)
        for key in found[role].traces:
            for file in (beside(folder / key, ".safetensors"), beside(folder / key, ".json")):
                shutil.copy2(file, out / "traces" / role / file.name)


@cache
def code_digest(patterns: tuple[str, ...] = READING_CODE) -> str:
    """sha256 over the files of this project that match, not over those that only draw."""
    root = Path(__file__).resolve().parent.parent
    total = hashlib.sha256()
    for pattern in patterns:
        for file in sorted(root.glob(pattern)):
            if not file.name.startswith(("figures", "report", "card")):
                total.update(file.read_bytes())
    return total.hexdigest()


# ---- judging


def _judged(asked: Question, found: Mapping[str, Found]) -> AuditReport:
    concept = asked.concept
    sets = {"forget": concept.forget, "near": concept.near, "far": concept.far, "never_taught": concept.never_taught}
    blank = AuditReport(
        concept=concept.name,
        concept_digest=concept.digest,
        counts={name: len(facts) for name, facts in sets.items()},
        roles={role: _role(c) for role, c in asked.roles.items()},
        level=0,
        capped_by="",
        utility="not measured",
        utility_reason="",
        evidence=(),
        suite=asked.suite if asked.checks is None else "",
        checks=None if asked.all_claims else tuple(claim.id for claim in asked.claims),
        troubles={role: f.troubles for role, f in found.items() if f.troubles},
        options={"reading": asked.reading.spec(), "judging": {}},
        margins_digest="",
        environment=environment(),
        made_at=now(),
        run_id=question_id(asked.in_words()),
        command=asked.command(),
        others=asked.beside,
    )
    return _report(blank, {role: f.traces for role, f in found.items()}, asked.judging)


def _role(checkpoint: Checkpoint) -> Role:
    guard = checkpoint.guard.method if checkpoint.guard else ""
    return Role(name=checkpoint.name, digest=checkpoint.digest, path=checkpoint.address, guard=guard)


def _report(blank: AuditReport, readings: Mapping[str, Readings], judging: JudgeOptions) -> AuditReport:
    """Fill in everything that follows from the readings."""
    reference = readings.get("reference")
    knows = reference_knows(reference, readings["base"], judging) if reference is not None else ""
    if knows:  # to be no different from it would prove the opposite of what a reference is for
        reference = None
    checks = None if blank.checks is None else frozenset(blank.checks)
    judge = Judge(readings["checkpoint"], readings["base"], reference, judging, blank.troubles, checks)
    evidence = judge.judge(CLAIMS)
    level, capped_by = ladder(CLAIMS, evidence, reference is not None)
    ignorant = base_ignorant(readings["base"], judging)
    knowledge, found_by = ("undecided", ()) if ignorant else knowledge_of(level, evidence)
    utility, reason = utility_of(evidence, judging)
    standard = standard_numbers(readings["checkpoint"], readings["base"], reference, knows)
    return blank.model_copy(
        update={
            "evidence": evidence,
            "level": level,
            "capped_by": capped_by,
            "knowledge": knowledge,
            "found_by": found_by,
            "utility": utility,
            "utility_reason": reason,
            "warnings": tuple(line for line in (knows, ignorant) if line),
            "reference_ignored": knows,
            "contradictions": () if ignorant else contradictions(evidence),
            "standard": standard if blank.checks is None or any_value(standard) else (),
            "options": {**blank.options, "judging": judging.spec()},
            "margins_digest": question_id(judging.spec()),
        }
    )
