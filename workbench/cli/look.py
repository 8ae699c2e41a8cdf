"""`workbench look`: take one reading of one checkpoint, with its numbers, its picture and where it came from."""

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.console import Screen, table
from workbench.cli.options import CHECKPOINT, AsJson, ConceptName, Out, Quiet, Seed, Settings, default_out, opens_models
from workbench.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from workbench.concepts import Concept
    from workbench.opening import Opening
    from workbench.store import RunFolder
    from workbench.trace import Trace

SETS = ("forget", "near", "far", "retain", "never_taught")
"""Sets of facts a reading can be taken on."""

TEXT = "text"
"""The concept's plain text, for readings that need no facts."""

TOP = 10
"""Entries shown of an axis that has no order of its own."""

ORDERED = ("layer", "step")
"""Axes shown whole and in their own order."""


@opens_models
def look(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help=f"The model to look into. {CHECKPOINT}.")],
    concept: ConceptName,
    probe: Annotated[
        str,
        typer.Option(
            "--probe",
            metavar="NAME",
            help="A probe or behavioural reading. `workbench list probes`, `workbench list behaviour`.",
        ),
    ],
    on: Annotated[
        str | None,
        typer.Option(
            "--on", metavar="SET", help=f"What to read: {', '.join(SETS)}; {TEXT} for a reading of plain text."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N facts; for trying out.")
    ] = None,
    settings: Settings = None,
    out: Out = None,
    seed: Seed = None,
    remote: Annotated[
        bool,
        typer.Option(
            "--remote",
            help="Run on a deployment like NDIF; WORKBENCH_REMOTE_URL and WORKBENCH_REMOTE_KEY say which.",
        ),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    *,
    opening: "Opening",
) -> None:
    """Take one reading of one checkpoint."""
    from audits.behaviour import BEHAVIOUR
    from probes import PROBES
    from workbench.cli.machine import prepare_torch
    from workbench.cli.settings import method_of, parse_settings, with_options
    from workbench.cli.subjects import checkpoint_at, remote_at
    from workbench.datasets import load_concept
    from workbench.store import RunFolder, question_id

    screen = Screen(as_json, quiet)
    prepare_torch(opening.device)
    method = with_options(method_of((PROBES, BEHAVIOUR), probe), parse_settings(settings), seed)
    reading = Reading(probe, method, load_concept(concept), on or default_set(method), limit)
    subject = reading.subject()  # a set that is not there is found out before the folder is made
    opened = (remote_at if remote else checkpoint_at)(checkpoint, opening)
    question = {
        "verb": "look",
        "checkpoint": opened.digest,
        "dtype": opening.dtype,
        "concept": reading.concept.digest,
        "on": reading.on,
        "limit": limit,
        "method": method.spec(),
        **({"remote": opened.record["remote"]} if remote else {}),
    }
    run = RunFolder.claim(out or default_out("look", probe, question_id(question)), question)
    if run.finished:
        screen.note("This reading was taken before; showing what is stored")
    else:
        screen.note(f"Looking into {opened.name} with {probe} on {reading.on}")
        with run.running(checkpoint=opened.record), opened.open() as model:
            trace = method.look(model, subject, **reading.more())
            _store(run, reading, trace)
    _show(screen, run, reading)


def default_set(method: Any) -> str:
    """What a reading is taken on when `--on` does not say."""
    return TEXT if _reads(method, "texts") else SETS[0]


def _reads(method: Any, name: str) -> bool:
    """Whether `look` has an argument of that name."""
    return name in inspect.signature(method.look).parameters


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
        allowed = (TEXT,) if _reads(self.method, "texts") else SETS
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

    def more(self) -> dict[str, Any]:
        """Further arguments of `look`: a trained probe gets the same training facts as in an audit."""
        if not _reads(self.method, "train"):
            return {}
        from audits.read import Reader, ReadingOptions

        taught = Reader(self.concept, ReadingOptions()).probe_training()
        return {"train": taught} if len(taught) else {}


def _store(run: "RunFolder", reading: Reading, trace: "Trace") -> None:
    """The numbers and the picture."""
    from workbench.store import write_atomically

    trace.save(run.path / "traces" / "checkpoint" / reading.key)
    page = trace.plot().to_html(include_plotlyjs=True)
    write_atomically(run.path / f"{reading.name}.html", page.encode())


def _show(screen: Screen, run: "RunFolder", reading: Reading) -> None:
    """The stored reading as a short table."""
    from workbench.figures_bars import bar_axis
    from workbench.trace import Trace, beside

    stored = run.path / "traces" / "checkpoint" / reading.key
    trace, paths = Trace.load(stored), [run.path / f"{reading.name}.html", beside(stored, ".safetensors")]
    axis = bar_axis(trace)
    entries = _entries(trace, axis)
    sizes = " × ".join(f"{name} ({len(trace.labels[name])})" for name in trace.axes)
    payload = {
        "verb": "look",
        "run": str(run.path),
        "run_id": run.run_id,
        "probe": reading.name,
        "on": reading.on,
        "limit": reading.limit,
        "units": trace.units,
        "axes": {a: len(trace.labels[a]) for a in trace.axes},
        "axis": axis,
        "entries": [{axis: label, "value": value} for label, value in entries],
        "paths": list(map(str, paths)),
    }
    title = f"{trace.name} on {reading.on} of {reading.concept.name}: {sizes}"
    rows = table((axis, trace.units), entries, title)
    trial = () if reading.limit is None else (f"Only the first {reading.limit} facts were read: for trying out",)
    screen.result(payload, (rows, *_mean(trace), *trial), paths)


def _entries(trace: "Trace", axis: str) -> list[tuple[str, float | None]]:
    """Labels and scores along an axis: all in order where it has one, else the highest."""
    scores = dict(zip(trace.labels[axis], trace.scores(axis).tolist(), strict=True))
    labels = trace.labels[axis] if axis in ORDERED else [str(label) for label in trace.top(axis, TOP)]
    return [(label, scores[label] if scores[label] == scores[label] else None) for label in labels]


def _mean(trace: "Trace") -> tuple[str, ...]:
    """The mean of a reading that has one number an item, with how many."""
    import numpy as np

    if len(trace.axes) != 1 or trace.axes[0] not in ("fact", "text"):
        return ()
    read = trace.values[np.isfinite(trace.values)]
    return (f"Mean {read.mean():.3g} {trace.units} over {len(read)} of {trace.values.size}",) if len(read) else ()
