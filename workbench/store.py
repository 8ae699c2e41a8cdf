"""The run folder: written atomically, resumed by running the same command again, never half there.

A run's id is a hash of the question (verb, options, digests of checkpoints and concept), so the same question is
not computed twice and a folder cannot be mistaken for another's. Every file is written to a temporary name first
and renamed, so whatever is interrupted leaves either the whole file or none.
"""

import contextlib
import datetime
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench.checkpoint import file_digest
from workbench.errors import BadInput

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
EVENTS = "events.jsonl"
_SCRAP = re.compile(r"\..+\.[a-z0-9_]{8}")
"""Names that `tempfile` makes of the prefix `.name.`."""

PACKAGES = ("torch", "transformers", "transformer-lens", "numpy", "scipy", "scikit-learn", "safetensors", "plotly")


def write_atomically(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all.

    Raises:
        BadInput: when the place cannot be written (read-only, disk full); nothing is left behind.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise BadInput(
            f"Cannot write {str(path)!r}: {error.strerror or error}. Nothing was left half-written; "
            "free some space or name another folder (--out, or WORKBENCH_CACHE_DIR for the cache), then run the same "
            "command again"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            if temporary and os.path.exists(temporary):
                os.unlink(temporary)
    return path


def remove_scraps(folder: Path) -> None:
    """Remove the files and folders under temporary names (`.name.xxxxxxxx`) that killed writes left below a folder."""
    for scrap in [path for path in folder.rglob(".*") if _SCRAP.fullmatch(path.name)]:
        if scrap.is_dir() and not scrap.is_symlink():
            shutil.rmtree(scrap, ignore_errors=True)
        else:
            scrap.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> Path:
    """Write JSON atomically; NaN and infinity are an error, because missing must be null with a reason."""
    return write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def question_id(question: Mapping[str, Any]) -> str:
    """First 12 hex digits of the sha256 of a question in JSON form."""
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class RunFolder:
    """One run on disk. Open with `RunFolder.claim`."""

    path: Path
    """The folder."""
    question: Mapping[str, Any]
    """What the run answers; its hash is the run id."""
    made: list[Path] = field(default_factory=list)
    """Files written by this process, in order."""

    @classmethod
    def claim(cls, path: Path, question: Mapping[str, Any]) -> "RunFolder":
        """Make the folder, or take up a run of the same question.

        Raises:
            BadInput: when it cannot be written, holds another run, or holds files that are no run.
        """
        run = cls(path, question)
        if path.exists() and not path.is_dir():
            raise BadInput(f"{str(path)!r} is a file; name a folder with --out")
        if path.is_dir() and any(not _SCRAP.fullmatch(there.name) for there in path.iterdir()):
            found = read_manifest(path).get("run_id") if (path / MANIFEST).is_file() else None
            if found is None:
                raise BadInput(f"The folder {str(path)!r} is not empty and holds no run; name a new or empty folder")
            if found != run.run_id:
                raise BadInput(
                    f"The folder {str(path)!r} holds another run ({found}, this one is {run.run_id}): other "
                    "checkpoint, concept, options or version. Name another folder with --out, or remove it"
                )
            return run
        run.write_manifest("started")
        return run

    @property
    def run_id(self) -> str:
        """Hash of the question."""
        return question_id(self.question)

    @property
    def finished(self) -> bool:
        """Whether a run of this question was completed here."""
        return (self.path / MANIFEST).is_file() and read_manifest(self.path).get("status") == "success"

    def write_manifest(self, status: str, **more: Any) -> None:
        """Record where the run stands: `started`, `success`, `error` or `interrupted`."""
        files = (
            {
                str(p.relative_to(self.path)): file_digest(p)
                for p in sorted(self.path.rglob("*"))
                if p.is_file() and p.name not in (MANIFEST, EVENTS) and not p.name.startswith(".")
            }
            if status == "success"
            else {}
        )
        write_json(
            self.path / MANIFEST,
            {
                "schema_version": SCHEMA_VERSION,
                "run_id": self.run_id,
                "status": status,
                "question": dict(self.question),
                "argv": sys.argv[1:],
                "written_at": now(),
                "environment": environment(),
                "files": files,
                **more,
            },
        )

    def event(self, **fields: Any) -> None:
        """Append one line to events.jsonl, so that a running run can be watched."""
        with (self.path / EVENTS).open("a") as stream:
            stream.write(json.dumps({"at": now(), **fields}) + "\n")

    def seconds(self, doing: str) -> float | None:
        """How long something took, from its last event; None when there is none that says."""
        with contextlib.suppress(OSError, ValueError):
            lines = (self.path / EVENTS).read_text().splitlines()
            said = [event for line in lines if (event := json.loads(line)).get("doing") == doing]
            return float(said[-1]["seconds"]) if said else None
        return None

    @contextlib.contextmanager
    def running(self, **about: Any) -> Iterator["RunFolder"]:
        """Mark the run finished, failed or interrupted when the block ends; `about` goes into its manifest.

        What writes that were killed left half-written in the folder is removed first.
        """
        remove_scraps(self.path)
        try:
            yield self
        except KeyboardInterrupt:
            self.write_manifest("interrupted", **about)
            raise
        except Exception as error:
            if not (isinstance(error, BadInput) and self._withdrawn()):
                with contextlib.suppress(BadInput):
                    self.write_manifest("error", error=f"{type(error).__name__}: {error}", **about)
            raise
        self.write_manifest("success", **about)

    def _withdrawn(self) -> bool:
        """Take the folder away again if it holds nothing but this run's own marks: bad input leaves nothing behind."""
        there = [p for p in self.path.rglob("*") if p.is_file()]
        if any(p.name not in (MANIFEST, EVENTS) for p in there):
            return False
        shutil.rmtree(self.path, ignore_errors=True)  # only marks and empty folders are left in it
        return True


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run folder.

    Raises:
        BadInput: when there is none, it is damaged, or a newer version wrote it.
    """
    try:
        found = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError:
        raise BadInput(f"{str(path)!r} is not a run folder: it has no {MANIFEST}") from None
    except (OSError, json.JSONDecodeError) as error:
        raise BadInput(f"The manifest of {str(path)!r} is damaged: {error}") from None
    version = found.get("schema_version", 0) if isinstance(found, dict) else 0
    if isinstance(version, int) and version > SCHEMA_VERSION:  # first: a newer layout may lack what this one needs
        raise BadInput(
            f"{str(path)!r} was written by a newer version (schema {version}, this one knows "
            f"{SCHEMA_VERSION}); update the workbench"
        )
    if not isinstance(found, dict) or not {"status", "run_id", "files"} <= set(found):
        raise BadInput(
            f"The manifest of {str(path)!r} is damaged: it lacks status, run_id or files. Run the command "
            "that made it again, into another folder"
        )
    return found


def verify(path: Path) -> list[str]:
    """Re-hash every file of a finished run; returns one sentence a problem, none when all is well."""
    manifest = read_manifest(path)
    if manifest["status"] != "success":
        return [f"the run is not finished: status {manifest['status']!r}; run the same command again to resume"]
    problems = []
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif file_digest(file) != expected:
            problems.append(f"{name} was changed after the run")
    return problems


def now() -> str:
    """UTC time to the second."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def environment() -> dict[str, Any]:
    """Package versions, Python, machine, and the commit of this package with whether the tree was dirty."""
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"python": platform.python_version(), "machine": platform.machine(), "packages": versions, **_commit()}


def _commit() -> dict[str, Any]:
    here = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return {"commit": commit, "dirty": None if commit is None else bool(git("status", "--porcelain", "-uno"))}
