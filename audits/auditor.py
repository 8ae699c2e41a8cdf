"""`audit`: any checkpoint in, a verdict with evidence out. Opens one model at a time; readings are cached by content.

Order: the base (which finds the concept vectors to follow), the reference, the checkpoint, then the base once more to
read the others' states. Readings of a model are stored under the digest of its weights, of the concept, of the options
and of this code, so the base and the reference are read once for all the audits that share them.
"""

import hashlib
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from audits.claims import CLAIMS
from audits.judge import Judge, JudgeOptions
from audits.read import Progress, Reader, ReadingOptions, Readings, read, read_depth, stored
from audits.verdict import contradictions, ladder, utility_of
from workbench.cache import cache_folder
from workbench.checkpoint import Checkpoint
from workbench.checkpoint_config import require_comparable
from workbench.concepts import Concept
from workbench.evidence import AuditReport, Role
from workbench.report import write_report
from workbench.store import RunFolder, environment, now, question_id
from workbench.trace import Trace

DEPTH = "depth_score.forget"
"""The reading that is taken in the base, of another model's states."""

READING_CODE = ("workbench/*.py", "probes/*.py", "audits/read.py", "audits/behaviour/*.py", "audits/attacks/*.py")
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
    question = question_of(roles, concept.check(), *options)
    run = RunFolder.claim(Path(out), question) if out else None
    if run and run.finished:
        from workbench.report import read_report

        return read_report(run.path)
    if run is None:
        return _judged(roles, concept, options, _read_all(roles, concept, options[0], device, progress), question)
    about = {role: c.record for role, c in roles.items()}
    with run.running(inputs={role: c.shards for role, c in roles.items()}, checkpoints=about):
        run.event(doing="reading", concept=concept.name)
        readings = _read_all(roles, concept, options[0], device, progress)
        report = _judged(roles, concept, options, readings, question)
        for role, folder in reading_folders(roles, concept, options[0], device).items():
            shutil.copytree(folder, run.path / "traces" / role, dirs_exist_ok=True)
        write_report(report, run.path, readings)
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


def question_of(
    roles: Mapping[str, Checkpoint], concept: Concept, reading: ReadingOptions, judging: JudgeOptions
) -> dict[str, Any]:
    """What an audit answers, in JSON form; its hash is the run id."""
    return {
        "verb": "audit",
        "roles": {role: c.digest for role, c in roles.items()},
        "dtypes": {role: c.opening.dtype for role, c in roles.items()},
        "concept": concept.digest,
        "reading": reading.spec(),
        "judging": judging.spec(),
        "code": code_digest(
            VERDICT_CODE
        ),  # other instruments, another question: an old verdict is not passed off as a new one
    }


def _opened(given: Checkpoint | Path | str) -> Checkpoint:
    return given if isinstance(given, Checkpoint) else Checkpoint(given)


# ---- reading


def reading_folders(
    roles: Mapping[str, Checkpoint], concept: Concept, reading: ReadingOptions, device: str | None
) -> dict[str, Path]:
    """Where each role's readings are cached.

    The base is in the key: it decides which vectors are followed, and whose upper layers read the states.
    """
    base = roles["base"].opening

    def folder(role: str) -> Path:
        key = {
            "checkpoint": roles[role].digest,
            "base": roles["base"].digest,
            "concept": concept.digest,
            "reading": reading.spec(),
            "code": code_digest(),
            "opening": [[device or how.device, how.dtype, how.device_map] for how in (roles[role].opening, base)],
        }
        return cache_folder() / "readings" / question_id(key)

    return {role: folder(role) for role in roles}


def _read_all(
    roles: Mapping[str, Checkpoint],
    concept: Concept,
    reading: ReadingOptions,
    device: str | None,
    progress: Progress | None,
) -> dict[str, Readings]:
    folders = reading_folders(roles, concept, reading, device)
    found: dict[str, Readings] = {}
    for role in ("base", *(r for r in ("reference", "checkpoint") if r in roles)):
        found[role] = _read_one(
            roles[role], Reader(concept, reading, found.get("base")), folders[role], device, progress
        )
    donors = {role: (folders[role], traces["states.forget"]) for role, traces in found.items()}
    missing = [role for role in donors if stored(folders[role], DEPTH) is None]
    for role in donors:
        if role not in missing:
            found[role][DEPTH] = Trace.load(folders[role] / DEPTH)
    if missing:
        with roles["base"].open(device) as model:
            wanted = {role: donors[role] for role in missing if _same_shape(donors[role][1], found["base"])}
            for role, trace in read_depth(model, Reader(concept, reading), wanted):
                found[role][DEPTH] = trace
    return found


def _same_shape(states: Trace, base: Readings) -> bool:
    """Whether a donor's states could stand in the base at all (same layers, tokens and width)."""
    return states.values.shape == base["states.forget"].values.shape


def _read_one(
    checkpoint: Checkpoint, reader: Reader, folder: Path, device: str | None, progress: Progress | None
) -> Readings:
    """Readings of one model; when all of them are stored, the model is not even opened."""
    if (folder / "complete").is_file():
        return {
            path.name.removesuffix(".json"): Trace.load(path.with_name(path.name.removesuffix(".json")))
            for path in sorted(folder.glob("*.json"))
            if path.name != f"{DEPTH}.json"
        }
    with checkpoint.open(device) as model:
        readings = read(model, reader, folder, progress)
    (folder / "complete").touch()
    return readings


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


def _judged(
    roles: Mapping[str, Checkpoint],
    concept: Concept,
    options: tuple[ReadingOptions, JudgeOptions],
    readings: Mapping[str, Readings],
    question: Mapping[str, Any],
) -> AuditReport:
    reading, judging = options
    sets = {"forget": concept.forget, "near": concept.near, "far": concept.far, "never_taught": concept.never_taught}
    blank = AuditReport(
        concept=concept.name,
        concept_digest=concept.digest,
        counts={name: len(facts) for name, facts in sets.items()},
        roles={role: _role(c) for role, c in roles.items()},
        level=0,
        capped_by="",
        utility="not measured",
        utility_reason="",
        evidence=(),
        options={"reading": reading.spec(), "judging": {}},
        margins_digest="",
        environment=environment(),
        made_at=now(),
        run_id=question_id(question),
    )
    return _report(blank, readings, judging)


def _role(checkpoint: Checkpoint) -> Role:
    guard = checkpoint.guard.method if checkpoint.guard else ""
    return Role(name=checkpoint.name, digest=checkpoint.digest, path=checkpoint.address, guard=guard)


def _report(blank: AuditReport, readings: Mapping[str, Readings], judging: JudgeOptions) -> AuditReport:
    """Fill in everything that follows from the readings."""
    reference = readings.get("reference")
    evidence = Judge(readings["checkpoint"], readings["base"], reference, judging).judge(CLAIMS)
    level, capped_by = ladder(CLAIMS, evidence, reference is not None)
    utility, reason = utility_of(evidence, judging)
    return blank.model_copy(
        update={
            "evidence": evidence,
            "level": level,
            "capped_by": capped_by,
            "utility": utility,
            "utility_reason": reason,
            "contradictions": contradictions(evidence),
            "options": {**blank.options, "judging": judging.spec()},
            "margins_digest": question_id(judging.spec()),
        }
    )
