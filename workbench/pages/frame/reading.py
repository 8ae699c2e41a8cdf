"""Runs read once and kept as long as their files do not change; every reading is confined to the runs folder."""

import os
import shlex
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import streamlit as st

from workbench.comparison import Comparison
from workbench.errors import BadInput
from workbench.evidence import AuditReport
from workbench.report import read_report
from workbench.report_pictures import ROLES, Key
from workbench.shelf import (
    Shelved,
    damage,
    files_stamp,
    in_order,
    inside,
    load_trace,
    run_folders,
    shelved,
    stamp_of,
    trace_file,
    trace_keys,
)
from workbench.trace import Trace

RUNS = "WORKBENCH_RUNS"
"""Environment variable that names the runs folder; `workbench view` sets it."""

Stamp = tuple[tuple[int, int], ...]


def root() -> Path:
    """The runs folder: what stands after `--` on streamlit's command line, else `$WORKBENCH_RUNS`, else `runs`."""
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    given = words[0] if words and Path(sys.argv[0]).name == "app.py" else os.environ.get(RUNS)
    return Path(given or "runs").expanduser().resolve()


def shelf(at: Path) -> list[Shelved]:
    """Every run at or below the runs folder; only those whose files changed are read again."""
    read, found = _read(str(at)), []
    for path in run_folders(at):
        stamp, before = stamp_of(path), read.get(path)
        if before is None or before[0] != stamp:
            before = read[path] = (stamp, shelved(at, path))
        found.append(before[1])
    return in_order(found)


# What these return is frozen or never changed by a page, so one copy serves all sessions.


@st.cache_resource(max_entries=8, show_spinner=False)
def _read(at: str) -> dict[Path, tuple[Stamp, Shelved]]:  # noqa: ARG001
    """Run folder -> its stamp and what it said then; an entry of Streamlit's cache a run would be slow to find."""
    return {}


@st.cache_resource(max_entries=32, show_spinner=False)
def _report(path: str, stamp: Stamp) -> AuditReport:  # noqa: ARG001
    return read_report(Path(path))


@st.cache_resource(max_entries=128, show_spinner=False)
def _trace(path: str, role: str, key: str, stamp: Stamp) -> Trace:  # noqa: ARG001
    return load_trace(Path(path), role, key)


@st.cache_data(max_entries=256, show_spinner="Checking the files of the run …")
def _damage(path: str, stamp: Stamp, _run: Shelved) -> dict[str, str]:  # noqa: ARG001
    return damage(_run.path, _run.manifest or {})


@st.cache_resource(max_entries=16, show_spinner=False)
def _comparison(path: str, stamp: Stamp) -> Comparison:  # noqa: ARG001
    return Comparison.load(Path(path))


@dataclass(frozen=True)
class Opened:
    """One run with its numbers; each is read when it is asked for."""

    on: Shelved
    """The run."""
    other: "Opened | None" = None
    """Run B, to compare with."""

    @cached_property
    def damaged(self) -> dict[str, str]:
        """File -> what is wrong with it; empty for a run that is whole or not finished."""
        if self.on.manifest is None or self.on.state not in ("finished", "damaged"):
            return {}
        names = sorted(self.on.manifest.get("files", {}))
        return _damage(str(self.on.path), files_stamp(self.on.path, names), self.on)

    @property
    def report(self) -> AuditReport | None:
        """The report of a finished, undamaged audit; None where there is no verdict to rely on.

        Raises:
            BadInput: when the report cannot be read.
        """
        if self.on.state != "finished" or self.damaged or self.on.level is None:
            return None
        return _report(str(self.on.path), stamp_of(self.on.path))

    @cached_property
    def stored(self) -> dict[str, tuple[str, ...]]:
        """Role -> keys of its traces."""
        return trace_keys(self.on.path)

    def keys(self, *instruments: str) -> tuple[str, ...]:
        """Keys of the readings of some instruments, `instrument.on[.attack]`, of any role; controls are left out."""
        every = dict.fromkeys(key for keys in self.stored.values() for key in keys)
        return tuple(k for k in every if Key.parse(k).instrument in instruments and Key.parse(k).on != "never_taught")

    def trace(self, role: str, key: str) -> Trace | None:
        """One trace; None where it is not there or its files were changed after the run."""
        files = [trace_file(role, key) + ending for ending in (".json", ".safetensors")]
        if key not in self.stored.get(role, ()) or any(file in self.damaged for file in files):
            return None
        try:
            return _trace(str(self.on.path), role, key, files_stamp(self.on.path, files))
        except BadInput:
            return None

    def traces(self, key: str, control: bool = False, other: bool = True) -> dict[str, Trace]:
        """Role -> trace of one reading: base, checkpoint, reference, and what else there is.

        Args:
            key: like `logit_lens.forget`.
            control: with the checkpoint's reading of the facts nobody was taught, as the role `never taught`.
            other: with the checkpoint of Run B, under a role of its own.
        """
        roles = [*(r for r in ROLES if r in self.stored), *(r for r in self.stored if r not in ROLES)]
        found = {role: trace for role in roles if (trace := self.trace(role, key)) is not None}
        twin = key.replace(".forget", ".never_taught", 1)
        if control and twin != key and (trace := self.trace("checkpoint", twin)) is not None:
            found["never taught"] = trace
        if other and self.other is not None and (trace := self.other.trace("checkpoint", key)) is not None:
            found[self.name_of_other] = trace
        return found

    @property
    def name_of_other(self) -> str:
        """How Run B is called in pictures."""
        return f"run B ({self.other.on.model or self.other.on.name})" if self.other is not None else ""

    def words(self, key: str) -> str:
        """A key for a person: `Logit lens on forget`."""
        words = Key.parse(key).words
        return words[:1].upper() + words[1:]

    def why_not_shown(self, key: str) -> str:
        """Why a reading that no claim rests on is not there; such a one is never named in a report's evidence."""
        if key in getattr(self.report, "troubles", {}).get("checkpoint", {}) or self.on.state != "finished":
            return self.why_missing(key)
        return "this run was made before the reading existed, or by a suite or checks that leave it out"

    @property
    def again(self) -> str:
        """The run's command into a new folder: a run that is finished is not added to."""
        words = shlex.split(self.on.command)
        if "--out" in words[:-1]:
            at = words.index("--out") + 1
            words[at] = f"{words[at].rstrip('/')}-again"
        return shlex.join(words)

    def why_missing(self, key: str) -> str:
        """Why a reading is not there, as the report tells it."""
        broken = [f for role in self.stored for f in self.damaged if f.startswith(trace_file(role, key))]
        if broken:
            return f"{broken[0]} {self.damaged[broken[0]]}, so nothing is drawn from it"
        if self.on.state != "finished":
            return "the run has not finished"
        try:
            report = self.report
        except BadInput:
            report = None
        if report is None:
            return "this run did not read it"
        troubles = getattr(report, "troubles", {})
        for role in ROLES:
            if key in troubles.get(role, {}):
                return str(troubles[role][key].why)
        reasons = [e.why_missing for e in report.evidence if e.axis == Key.parse(key).axis and e.why_missing]
        return str(reasons[0]) if reasons else "this run did not read it"


def comparison_of(run: Opened) -> Comparison:
    """What a run of `workbench compare` found.

    Raises:
        BadInput: when its files are missing, damaged or lie outside the run.
    """
    files = ["comparison.json", "comparison.parquet"]
    for file in files:
        inside(run.on.path, file)
        if file in run.damaged:
            raise BadInput(f"{file} {run.damaged[file]}, so nothing is drawn from it")
    return _comparison(str(run.on.path), files_stamp(run.on.path, files))
