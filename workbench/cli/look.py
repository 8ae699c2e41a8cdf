"""`workbench look`: take one reading of one checkpoint, with its numbers, its picture and where it came from."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.console import Screen, table
from workbench.cli.options import CHECKPOINT, AsJson, ConceptName, Out, Quiet, Seed, Settings, default_out, opens_models
from workbench.cli.reading import SETS, TEXT, Reading, default_set
from workbench.errors import BadInput

if TYPE_CHECKING:
    from workbench.opening import Opening
    from workbench.store import RunFolder
    from workbench.trace import Trace

TOP = 10
"""Entries shown of an axis that has no order of its own."""

ORDERED = ("layer", "step")
"""Axes shown whole and in their own order."""


@opens_models
def look(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[PROBE] CHECKPOINT",
            help=f"What to look with (or --probe), and the model to look into. {CHECKPOINT}.",
            show_default=False,
        ),
    ],
    concept: ConceptName,
    probe: Annotated[
        str | None,
        typer.Option(
            "--probe",
            metavar="NAME",
            help="A probe or behavioural reading. `workbench list probes`, `workbench list behaviour`.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="CHECKPOINT", help="The model to compare with, for readings that need two."),
    ] = None,
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
    from audits.privacy import PRIVACY
    from probes import PROBES
    from workbench.cli.machine import prepare_torch
    from workbench.cli.progress import progress
    from workbench.cli.settings import method_of, parse_settings, with_options
    from workbench.cli.subjects import checkpoint_at, remote_at
    from workbench.datasets import load_concept
    from workbench.store import RunFolder, question_id
    from workbench.telling import Telling

    screen = Screen(as_json, quiet)
    prepare_torch(opening.device)
    name, checkpoint = asked(words, probe)
    method = with_options(method_of((PROBES, BEHAVIOUR, PRIVACY), name), parse_settings(settings), seed)
    reading = Reading(name, method, load_concept(concept, offline=opening.offline), on or default_set(method), limit)
    reading.subject()  # a set that is not there is found out before the folder is made
    opened = (remote_at if remote else checkpoint_at)(checkpoint, opening)
    other = None if against is None else checkpoint_at(against, opening)
    reading.require_models(opened, other, remote)
    question = {
        "verb": "look",
        "checkpoint": opened.digest,
        "dtype": opening.dtype,
        "concept": reading.concept.digest,
        "on": reading.on,
        "limit": limit,
        "method": method.spec(),
        **({} if other is None else {"against": other.digest}),
        **({"remote": opened.record["remote"]} if remote else {}),
    }
    run = RunFolder.claim(out or default_out("look", name, question_id(question)), question)
    if run.finished:
        screen.note("This reading was taken before; showing what is stored")
    else:
        screen.note(f"Looking into {opened.name} with {name} on {reading.on}")
        about = {"checkpoint": opened.record, **({} if other is None else {"against": other.record})}
        with run.running(**about), progress(screen) as step:
            _store(run, reading, reading.take(opened, other, Telling(run, step)))
    _show(screen, run, reading)


def asked(words: Sequence[str], probe: str | None) -> tuple[str, str]:
    """Name of the reading and of the model, from `PROBE CHECKPOINT` or `CHECKPOINT --probe NAME`.

    Raises:
        BadInput: when one is missing, or the reading is named twice.
    """
    if len(words) > 2 or (len(words) == 2 and probe is not None):
        raise BadInput(
            f"Give one reading and one model, as in `workbench look PROBE CHECKPOINT`; got {' '.join(words)}"
            + (f" and --probe {probe}" if probe is not None else "")
        )
    if len(words) == 1 and probe is None:
        raise BadInput(
            f"What to look into {words[0]!r} with? Name a reading: `workbench look PROBE {words[0]}`. "
            "`workbench list probes` and `workbench list behaviour` show them"
        )
    return (words[0], words[1]) if probe is None else (probe, words[0])


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
    if "measure" in trace.axes and axis != "measure":  # measures have units of their own: the probe's order counts
        labels: Sequence[str] = trace.labels[axis][:TOP]
    else:
        labels = trace.labels[axis] if axis in ORDERED else [str(label) for label in trace.top(axis, TOP)]
    return [(label, scores[label] if scores[label] == scores[label] else None) for label in labels]


def _mean(trace: "Trace") -> tuple[str, ...]:
    """The mean of a reading that has one number an item, with how many."""
    import numpy as np

    if len(trace.axes) != 1 or trace.axes[0] not in ("fact", "text"):
        return ()
    read = trace.values[np.isfinite(trace.values)]
    return (f"Mean {read.mean():.3g} {trace.units} over {len(read)} of {trace.values.size}",) if len(read) else ()
