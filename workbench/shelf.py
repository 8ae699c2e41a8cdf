"""A folder of runs, read for looking at: which runs lie there, in what state, and what each holds.

Runs are found at any depth (the audits of a demo lie inside the demo's own run). Nothing outside the folder is ever
read: names come from the folder itself, and a link that leads out of it is refused. Numbers are read from traces when
they are asked for, so a shelf of hundreds of runs costs a look at their manifests and reports only.

Read it as: `finished` runs have a verdict to show; of a `damaged` one nothing may be concluded.
Does not show: files over `HASHED_BYTES`, which are not hashed again here; `workbench verify` hashes everything.
"""

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.checkpoint import file_digest
from workbench.errors import BadInput
from workbench.evidence import LEVELS
from workbench.evidence import SCHEMA_VERSION as REPORT_SCHEMA
from workbench.store import EVENTS, MANIFEST, SCHEMA_VERSION
from workbench.trace import Trace

State = Literal["finished", "running", "stopped", "damaged", "newer"]
"""`running`: started and not ended (or its process died); `stopped`: ended by an error or by hand."""

REPORT = "report.json"
DEPTH = 6
"""Folders below the shelf that are searched for runs."""

NO_RUNS_IN = ("traces", "items")
"""Folders of a run that hold no runs."""

HASHED_BYTES = 64_000_000
"""Files above this size (weights) are left to `workbench verify`."""


@dataclass(frozen=True)
class Shelved:
    """One run, as far as its manifest and report tell without reading any number."""

    name: str
    """Path below the shelf, with `/`; `.` for the shelf itself."""
    path: Path
    """The folder."""
    state: State
    """What can be done with it."""
    why: str = ""
    """For a run that is not finished: what is the matter, in words."""
    manifest: Mapping[str, Any] | None = None
    """The manifest; None where it cannot be read."""
    concept: str = ""
    """What was to be forgotten; empty where the run does not say."""
    model: str = ""
    """The model it is about; empty where the run does not say."""
    level: int | None = None
    """Level of an audit."""
    words: str = ""
    """What the report may say."""
    utility: str = ""
    """The verdict on what must stay."""
    knowledge: str = ""
    """Whether any claim found the knowledge, of a finished audit: a word of `workbench.evidence.Knowledge`."""
    hidden: bool = False
    """Whether an audit found the knowledge in a model that no claim about direct prompts shows to have it."""
    suite: str = ""
    """How much an audit asked; empty where single claims were named instead, or the report does not say."""

    @property
    def verb(self) -> str:
        """The command that made it."""
        return str(self._question.get("verb") or "?")

    @property
    def method(self) -> str:
        """The probe or intervention of the run; empty for an audit."""
        method = self._question.get("method", "")
        method = method.get("method", "") if isinstance(method, Mapping) else method
        return "" if self.verb == "demo" else str(method).rpartition(":")[2]

    @property
    def run_id(self) -> str:
        """Hash of the question."""
        return str((self.manifest or {}).get("run_id", ""))

    @property
    def written_at(self) -> str:
        """UTC time of the last change of state."""
        return str((self.manifest or {}).get("written_at", ""))

    @property
    def is_audit(self) -> bool:
        """Whether a verdict is to be expected of it."""
        return self.verb == "audit"

    @property
    def verdict(self) -> str:
        """Level and words; a dash where there is no verdict, or none that may be shown."""
        return "–" if self.level is None else f"{LEVELS[self.level][0]}: {self.words}"

    @property
    def command(self) -> str:
        """The command that makes this run, or goes on with it."""
        return command_of(self.path, self.manifest or {}, self.concept)

    @property
    def _question(self) -> Mapping[str, Any]:
        found = (self.manifest or {}).get("question")
        return found if isinstance(found, Mapping) else {}


def runs_on(root: Path) -> list[Shelved]:
    """Every run at or below a folder, audits first, then newest first."""
    return in_order([shelved(root, path) for path in run_folders(root)])


def in_order(runs: Sequence[Shelved]) -> list[Shelved]:
    """Audits first, then newest first."""
    return sorted(sorted(runs, key=lambda run: run.written_at, reverse=True), key=lambda run: not run.is_audit)


def telling(runs: Sequence[Shelved]) -> str:
    """Name of the run to begin with: the newest audit that found hidden knowledge; without one the first run.

    Args:
        runs: as `in_order` has them.
    """
    return next((run.name for run in runs if run.hidden), runs[0].name if runs else "")


def run_folders(root: Path) -> list[Path]:
    """Folders with a manifest; links are not followed, and what cannot be opened is passed over."""
    found = []
    for folder, names, files in os.walk(root):
        depth = 0 if folder == str(root) else len(Path(folder).relative_to(root).parts)
        names[:] = sorted(n for n in names if depth < DEPTH and not n.startswith(".") and n not in NO_RUNS_IN)
        if MANIFEST in files:
            found.append(Path(folder))
    return found


def shelved(root: Path, path: Path) -> Shelved:
    """One run; whatever is wrong with it becomes its state."""
    name = path.relative_to(root).as_posix()
    try:
        manifest = _json(path / MANIFEST)
        if (newer := _newer(manifest, SCHEMA_VERSION)) or not {"status", "run_id", "files"} <= set(manifest):
            why = newer or f"{MANIFEST} lacks status, run_id or files"
            return Shelved(name, path, "newer" if newer else "damaged", why)
        changed = _report_changed(path, manifest)
        report = _json(path / REPORT) if (path / REPORT).is_file() and not changed else {}
        if newer := _newer(report, REPORT_SCHEMA):
            return Shelved(name, path, "newer", newer, manifest)
        if changed:
            return Shelved(
                name, path, "damaged", f"{REPORT} was changed after the run", manifest, model=_model(manifest)
            )
        return _told(name, path, manifest, report)
    except (OSError, ValueError, TypeError, LookupError) as error:
        return Shelved(name, path, "damaged", f"it cannot be read: {error}")


def _report_changed(path: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the report is not the one the run wrote: its verdict may then not even stand in a list."""
    digest = manifest["files"].get(REPORT) if isinstance(manifest["files"], Mapping) else None
    return digest is not None and inside(path, REPORT).is_file() and file_digest(path / REPORT) != digest


def _told(name: str, path: Path, manifest: dict[str, Any], report: dict[str, Any]) -> Shelved:
    state, why = _state(manifest, bool(report))
    roles = report.get("roles") or {}
    question = manifest.get("question") or {}
    concept = str(report.get("concept") or _named(question.get("concept")) or "")
    model = str((roles.get("checkpoint") or {}).get("name") or _model(manifest) or "")
    level = report["level"] if report and state == "finished" else None
    if level is None:
        return Shelved(name, path, state, why, manifest, concept, model)
    told, shown = _knowledge(report), _shown(report)
    return Shelved(
        name,
        path,
        state,
        why,
        manifest,
        concept,
        model,
        level,
        LEVELS[level][1] if level or shown else "not shown to be suppressed",
        str(report.get("utility", "")),
        told,
        told == "found" and not shown,
        str(report.get("suite", "")),
    )


def _state(manifest: Mapping[str, Any], reported: bool) -> tuple[State, str]:
    status = manifest["status"]
    if status == "success":
        lost = (manifest.get("question") or {}).get("verb") == "audit" and not reported
        return ("damaged", f"{REPORT} is missing") if lost else ("finished", "")
    if status == "started":
        return "running", "it was started and has not ended"
    return "stopped", str(manifest.get("error") or f"its status is {status!r}")


# As `AuditReport` has them, without building the whole report: the list of 200 runs must come at once.


def _shown(report: Mapping[str, Any]) -> bool:
    """Whether a claim about direct prompts failed."""
    return any(e.get("rung") == 1 and e.get("status") == "FAIL" for e in report.get("evidence", ()))


def _knowledge(report: Mapping[str, Any]) -> str:
    """A report of an older version does not say it; then a claim of U1 to U4 that failed has found it."""
    told = report.get("knowledge")
    if told is None:
        failed = (e for e in report.get("evidence", ()) if e.get("status") == "FAIL")
        told = "found" if any(e.get("rung") in (1, 2, 3, 4) for e in failed) else "undecided"
    return str(told)


def _named(concept: Any) -> str:
    """A concept that is named in a question; a digest names nothing to a reader."""
    return "" if not isinstance(concept, str) or re.fullmatch("[0-9a-f]{32,}", concept) else concept


def _model(manifest: Mapping[str, Any]) -> str:
    """The last part of the address of the model a run was about."""
    about = manifest.get("checkpoints") or {}
    found = about.get("checkpoint") if isinstance(about, Mapping) else None
    address = (found or manifest.get("checkpoint") or {}).get("address", "")
    return Path(str(address)).name


def _json(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} holds no object")
    return found


def _newer(content: Mapping[str, Any], known: int) -> str:
    version = content.get("schema_version", 0)
    if not isinstance(version, int) or version <= known:
        return ""
    return f"it was written by a newer version (schema {version}, this one knows {known}); update the workbench"


def stamp_of(path: Path) -> tuple[tuple[int, int], ...]:
    """What changes when a run's manifest, report or events change: their times and sizes."""
    return tuple(_stamp(path / name) for name in (MANIFEST, REPORT, EVENTS))


def files_stamp(path: Path, names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Times and sizes of some files of a run."""
    return tuple(_stamp(path / name) for name in names)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)


# ---- inside one run


def inside(root: Path, name: str) -> Path:
    """A path below a folder.

    Raises:
        BadInput: when it would lead out of the folder, by `..`, as an absolute path or through a link.
    """
    found = root / name
    if not found.resolve().is_relative_to(root.resolve()):
        raise BadInput(f"{name!r} leads out of the folder {str(root)!r}; nothing outside it is read")
    return found


def damage(path: Path, manifest: Mapping[str, Any]) -> dict[str, str]:
    """File -> what is wrong with it, for every file that is missing or not the one the run wrote."""
    found = {}
    for name, digest in manifest.get("files", {}).items():
        try:
            file = inside(path, name)
            if not file.is_file():
                found[name] = "is missing"
            elif file.stat().st_size <= HASHED_BYTES and file_digest(file) != digest:
                found[name] = "was changed after the run"
        except (BadInput, OSError) as error:
            found[name] = f"cannot be read ({error})"
    return found


def trace_keys(path: Path) -> dict[str, tuple[str, ...]]:
    """Role -> keys of the traces that lie in a run; an unfinished one, without its words, is not there."""
    found: dict[str, list[str]] = {}
    for words in sorted((path / "traces").glob("*/*.json")):
        if not words.name.startswith("."):
            found.setdefault(words.parent.name, []).append(words.name.removesuffix(".json"))
    return {role: tuple(sorted(keys)) for role, keys in found.items()}


def trace_file(role: str, key: str) -> str:
    """Path of a trace below its run, without ending."""
    return f"traces/{role}/{key}"


def load_trace(path: Path, role: str, key: str) -> Trace:
    """One trace.

    Raises:
        BadInput: when it is damaged, or lies outside the run.
    """
    for ending in (".json", ".safetensors"):
        inside(path, trace_file(role, key) + ending)
    return Trace.load(path / trace_file(role, key))


def events(path: Path) -> list[dict[str, Any]]:
    """What a run said while it ran; a line that is being written is left out."""
    return list(_events(path))


def _events(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = (path / EVENTS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict):
            yield said


def command_of(path: Path, manifest: Mapping[str, Any], concept: str = "") -> str:
    """The command line of a run: as it was given, else the one that asks the same."""
    argv = [str(word) for word in manifest.get("argv") or ()]
    about = manifest.get("checkpoints")
    question = manifest.get("question") or {}
    if question.get("verb") == "audit" and argv[:1] != ["audit"] and isinstance(about, Mapping):
        address = {role: str((about.get(role) or {}).get("address") or role.upper()) for role in ("checkpoint", "base")}
        words = ["workbench", "audit", address["checkpoint"], "--base", address["base"]]
        if "reference" in about:
            words += ["--reference", str(about["reference"].get("address") or "REFERENCE")]
        return shlex.join([*words, "--concept", concept or "CONCEPT", "--out", str(path)])
    return shlex.join(["workbench", *argv]) if argv else ""
