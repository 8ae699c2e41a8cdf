"""The work behind `workbench audit`: one run folder a checkpoint, or a stored audit judged again."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.cli.console import Screen
from workbench.cli.options import default_out
from workbench.cli.progress import progress
from workbench.errors import BadInput

if TYPE_CHECKING:
    from workbench.evidence import AuditReport
    from workbench.opening import Opening

Settings = dict[str, dict[str, Any]]
"""Group (`reading`, `judging`) -> its options."""


@dataclass(frozen=True)
class Job:
    """Everything an audit was asked with."""

    checkpoints: Sequence[str]
    """The models to audit."""
    base: str
    """The model they were made from."""
    reference: str | None
    """The model retrained without the concept."""
    concept: str
    """What it is about."""
    suite: str
    """How much is asked."""
    checks: tuple[str, ...] | None
    """Claims asked instead of a suite's."""
    beside: Sequence[Path]
    """Files with numbers of other tools."""
    settings: Settings
    """Options by group."""
    out: Path | None
    """Where to write; with several checkpoints, the folder that holds a folder for each."""
    opening: "Opening"
    """How models are opened."""


def audited(screen: Screen, job: Job) -> Iterator[tuple["AuditReport", Path]]:
    """Audit one checkpoint after the other; readings of the base and the reference are taken once."""
    from audits.auditor import Question, audit
    from audits.judge import JudgeOptions
    from audits.read import ReadingOptions
    from workbench.beside import read_beside
    from workbench.cli.machine import prepare_torch
    from workbench.cli.subjects import checkpoint_at
    from workbench.datasets import load_concept
    from workbench.store import question_id

    prepare_torch(job.opening.device)
    reading, judging = ReadingOptions(**job.settings["reading"]), JudgeOptions(**job.settings["judging"])
    concept, suite = load_concept(job.concept, offline=job.opening.offline), _suite(job.suite)
    shared = {"base": job.base} | ({"reference": job.reference} if job.reference else {})
    others = {role: checkpoint_at(text, job.opening) for role, text in shared.items()}
    opened = [checkpoint_at(text, job.opening) for text in job.checkpoints]
    beside = tuple(number for file in job.beside for number in read_beside(file))
    names = _distinct([checkpoint.name for checkpoint in opened])
    with progress(screen) as step:
        for checkpoint, name in zip(opened, names, strict=True):
            roles = {"checkpoint": checkpoint, **others}
            question = Question(roles, concept, reading, judging, suite, job.checks, beside=beside)
            place = job.out / name if job.out is not None and len(opened) > 1 else job.out
            folder = place or default_out("audit", checkpoint.name, question_id(question.in_words()))
            report = audit(
                checkpoint,
                base=others["base"],
                concept=concept,
                reference=others.get("reference"),
                out=folder,
                reading=reading,
                judging=judging,
                suite=suite,
                checks=job.checks,
                beside=beside,
                progress=step,
            )
            yield report, folder


def _suite(name: str) -> Any:
    from audits.claims import SUITES
    from workbench.errors import did_you_mean

    if name not in SUITES:
        raise BadInput(f"No suite called {name!r}. {did_you_mean(name, SUITES)}")
    return name


def _distinct(names: Sequence[str]) -> list[str]:
    """Folder names that do not fall together."""
    return [name if names.count(name) == 1 else f"{name}-{i + 1}" for i, name in enumerate(names)]


def rejudged(screen: Screen, old: Path, settings: Settings, out: Path | None) -> tuple["AuditReport", Path]:
    """Judge what is stored again, into a run of its own: the old one stays as it was signed."""
    from audits.auditor import rejudge
    from audits.judge import JudgeOptions
    from workbench.report import read_report, read_traces, write_report
    from workbench.store import RunFolder, question_id

    if settings["reading"]:
        raise BadInput("--rejudge takes no new readings; leave out --set reading., or audit again")
    before = read_report(old)
    kept = {name: value for name, value in before.options["judging"].items() if name != "method"}
    judging = JudgeOptions(**(kept | settings["judging"]))
    question = {"verb": "rejudge", "run": before.run_id, "judging": judging.spec()}
    folder = out or default_out("rejudge", before.roles["checkpoint"].name, question_id(question))
    run = RunFolder.claim(folder, question)
    if run.finished:
        return read_report(run.path), run.path
    screen.note(f"Judging the readings of {old} again")
    with run.running():
        report = rejudge(old, judging).model_copy(update={"run_id": run.run_id})
        shutil.copytree(old / "traces", run.path / "traces", dirs_exist_ok=True)
        write_report(report, run.path, read_traces(run.path))
    return report, run.path
