"""The demo's work: a model that knows something, a trace of where, removals, audits, one table. No printing here.

Every step leaves its result on disk and is skipped when the result is there, so the same command goes on where it was
interrupted. Nothing in the table is written by hand: each number is read from the audit reports.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from audits.auditor import VERDICT_CODE, audit, code_digest
from audits.read import ReadingOptions
from audits.verdict import GOOD, tell
from interventions import INTERVENTIONS
from probes import PROBES
from workbench.checkpoint import Checkpoint
from workbench.cli.compare_job import compare_all
from workbench.concepts import Concept
from workbench.datasets import load_concept
from workbench.demo.pair import Pair, build_pair
from workbench.edits import WeightEdit
from workbench.evidence import LEVELS, AuditReport
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.report import report_style
from workbench.sites import Site
from workbench.store import RunFolder, write_atomically, write_json
from workbench.templating import render
from workbench.trace import Trace

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many parts are done, and of how many."""

COLUMNS = ("method", "forget", "near", "far", "probe", "lens", "relearn", "level", "knowledge", "utility", "capped_by")
"""Columns of the table; the middle ones are claims of the audit."""

CLAIM_OF = {"forget": "direct", "near": "near", "far": "far", "probe": "probe", "lens": "lens", "relearn": "relearn"}
"""Column -> the claim whose value it shows."""


INSIDE, RECOVERED = ("lens", "probe", "depth", "vectors"), ("patch_back", "relearn")
"""Claims that can contradict silent outputs: what still reads the answers, and what brings them back."""

LOCALISER = {"dense": "causal_trace", "moe": "expert_attribution"}
"""Kind of model -> the probe that says where the concept lives."""


class DemoOptions(Method):
    """What the demo does."""

    kind: Literal["dense", "moe"] = "dense"
    """Architecture: dense (Llama) or mixture of experts (OLMoE)."""
    concept: str = "chemistry"
    """Topic of the embedded world that is unlearned."""
    seed: int = 0
    """Seed of the world, the models and the methods."""
    sites: int = Field(8, ge=1)
    """How many traced sites the concept ablation gets."""
    neurons: int = Field(48, ge=1)
    """How many value vectors it damages; the random control damages as many."""
    reading: ReadingOptions = ReadingOptions()
    """What the audits read, with what budget."""


@dataclass(frozen=True)
class Result:
    """What the demo found."""

    rows: list[dict[str, Any]]
    """One row a model, keys as in `COLUMNS`."""
    contradiction: str
    """The strongest disagreement between mouth and inside, in one sentence; empty when there is none."""
    paths: list[Path]
    """What was written, most interesting first."""


def run(options: DemoOptions, out: Path, progress: Progress) -> Result:
    """Do everything that is not done yet and return the table.

    Raises:
        BadInput: for a concept the world does not have, or a folder that cannot be used.
        RunError: when a demo model could not be trained.
    """
    concept = load_concept(f"demo:{options.concept}")
    folder = RunFolder.claim(out, question_of(options))
    with folder.running():
        _models(options, out, progress)
        subjects = _unlearn(options, concept, out, progress)
        changed = {name: out / name for name in subjects if name != "taught"}
        compare_all(out / "taught", changed, out / "comparisons", progress)
        reports = dict(_audits(subjects, concept, options.reading, out, progress))
        rows = [row_of(name, report) for name, report in reports.items()]
        told = strongest_contradiction(reports)
        write_json(out / "table.json", {"rows": rows, "contradiction": told})
        page = write_atomically(out / "index.html", _page(options, concept, rows, told).encode())
    return Result(rows, told, [page, *(out / "audits" / name / "report.html" for name in reports)])


def question_of(options: DemoOptions) -> dict[str, Any]:
    """What a demo run answers; other instruments make it another question."""
    return {"verb": "demo", **options.spec(), "code": code_digest(VERDICT_CODE)}


def _page(options: DemoOptions, concept: Concept, rows: list[dict[str, Any]], told: str) -> str:
    """The table as a page that leads to the reports and the trace."""
    values = {"concept": concept.name, "rows": rows, "contradiction": told, "columns": COLUMNS, "style": report_style()}
    return render("demo.html", {**values, "trace": f"{LOCALISER[options.kind]}.html"})


def _models(options: DemoOptions, out: Path, progress: Progress) -> Pair:
    """The taught model and its reference, trained or from the cache, copied into the run."""

    def told(role: str, done: int, total: int, seconds: float) -> None:
        progress(f"training the {role} model (about {seconds:.0f} s left)", done, total)

    # Left alone, the experts of so small a model do not specialise; routing them by topic gives attribution a truth.
    routing = "topic" if options.kind == "moe" else "free"
    cached = build_pair(options.kind, options.concept, options.seed, told, routing=routing)
    for source, name in ((cached.taught, "taught"), (cached.reference, "reference")):
        _copied(source, out / name)
    return Pair(out / "taught", out / "reference")


def _copied(source: Path, target: Path) -> None:
    """Copy a folder so that it appears whole or not at all."""
    if not target.exists():
        building = target.with_name(f".{target.name}.part")
        shutil.rmtree(building, ignore_errors=True)
        shutil.copytree(source, building)
        building.rename(target)


# ---- trace and unlearn


def _unlearn(options: DemoOptions, concept: Concept, out: Path, progress: Progress) -> list[str]:
    """Trace the concept in the taught model and remove it in every way; returns the names of all checkpoints."""
    names = ["taught", "concept_ablation", "concept_ablation-random", "grad_ascent", "npo", "reference"]
    if all((out / name).is_dir() for name in names):
        return names
    with Checkpoint(out / "taught").open() as model:
        where = _localise(options, model, concept, out, progress)
        for name, fit in _fits(options, model, concept, where, progress):
            if not (out / name).is_dir():
                progress(f"unlearning by {name}", 0, 1)
                edit = fit()
                edit.save(out / "edits" / name)
                write_json(out / "edits" / f"{name}.receipt.json", edit.receipt(model))
                edit.write(model, out / name)
    return names


def _localise(options: DemoOptions, model: HookedModel, concept: Concept, out: Path, progress: Progress) -> list[Site]:
    """Where the concept lives, by the localiser that fits the architecture; the trace and its picture are kept."""
    name = LOCALISER[options.kind]
    progress(f"locating the concept ({name})", 0, 1)
    facts = concept.forget.take(list(range(0, len(concept.forget), 4)), "every fourth")
    trace: Trace = PROBES.load(name)(**({"score": "gradient"} if options.kind == "moe" else {})).look(model, facts)
    trace.save(out / "traces" / name)
    write_atomically(out / f"{name}.html", trace.plot().to_html(include_plotlyjs=True).encode())
    return trace.top("site", options.sites)


def _fits(
    options: DemoOptions, model: HookedModel, concept: Concept, where: Sequence[Site], progress: Progress
) -> Iterator[tuple[str, Callable[[], WeightEdit]]]:
    """Name and fit of every removal."""
    ablation = INTERVENTIONS.load("concept_ablation")(mode="zero", count=options.neurons, seed=options.seed)
    random_sites = model.random_neurons(options.neurons, options.seed)
    yield "concept_ablation", lambda: ablation.fit(model, concept, where)
    yield "concept_ablation-random", lambda: ablation.fit(model, concept, random_sites)
    for name, lr, steps in (("grad_ascent", 2e-4, 60), ("npo", 1e-4, 160)):
        method = INTERVENTIONS.load(name)(seed=options.seed, lr=lr, steps=steps)

        def fit(name: str = name, method: Any = method) -> WeightEdit:
            edit: WeightEdit = method.fit(
                model, concept, progress=lambda step, _: progress(f"unlearning by {name}", step, method.steps)
            )
            return edit

        yield name, fit


# ---- audit


def _audits(
    names: Sequence[str], concept: Concept, reading: ReadingOptions, out: Path, progress: Progress
) -> Iterator[tuple[str, AuditReport]]:
    """One audit a checkpoint. The reference is audited without one: compared with itself it would pass unseen."""
    for name in names:
        report = audit(
            out / name,
            base=out / "taught",
            reference=None if name == "reference" else out / "reference",
            concept=concept,
            out=out / "audits" / name,
            reading=reading,
            progress=progress,
        )
        yield name, report


def row_of(name: str, report: AuditReport) -> dict[str, Any]:
    """One row of the table; a claim that was not measured is None."""
    values = {column: (e.value.mean if (e := report.of(claim)).value else None) for column, claim in CLAIM_OF.items()}
    return {
        "method": name,
        **values,
        "level": LEVELS[report.level][0],
        "knowledge": report.knowledge,
        "utility": report.utility,
        "capped_by": report.capped_by,
    }


def strongest_contradiction(reports: dict[str, AuditReport]) -> str:
    """The removal whose outputs and inside disagree most, with what reads it and what brings it back."""
    best: tuple[float, str] = (0.0, "")
    for name, report in reports.items():
        direct = report.of("direct")
        if name in ("taught", "reference") or direct.value is None or direct.status not in GOOD:
            continue
        failed = [report.of(claim) for claim in (*INSIDE, *RECOVERED) if report.of(claim).status == "FAIL"]
        failed.sort(key=lambda e: -(e.difference.mean if e.difference else 0.0))
        inside = [e for e in failed if e.claim in INSIDE][:1]
        told = [tell(e) for e in (*inside, *(e for e in failed if e.claim in RECOVERED))]
        weight = sum(e.difference.mean for e in failed if e.difference is not None)
        if told and weight > best[0]:
            best = (
                weight,
                f"{name}: asked directly it gives {direct.value.mean:.2f} of the answers, but " + "; ".join(told) + ".",
            )
    return best[1]
