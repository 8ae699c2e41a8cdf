"""`workbench unlearn`: make a checkpoint that has forgotten, with the edit that did it and a receipt of the change."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.console import Screen, table
from workbench.cli.options import CHECKPOINT, AsJson, ConceptName, Out, Quiet, Seed, Settings, default_out, opens_models
from workbench.cli.progress import progress
from workbench.errors import BadInput, did_you_mean

if TYPE_CHECKING:
    from workbench.concepts import Concept
    from workbench.edits import Edit
    from workbench.model import HookedModel
    from workbench.opening import Opening
    from workbench.sites import Site
    from workbench.store import RunFolder
    from workbench.trace import Trace

RANDOM = "random"
"""The localiser that knows nothing: neurons drawn evenly, the control of every localised edit."""

TOP = 10
"""Sites a localiser hands over when `--top` does not say."""

SHOWN = 10
"""Tensors of the receipt that are shown; all are in receipt.json."""


@opens_models
def unlearn(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help=f"The model to change. {CHECKPOINT}.")],
    concept: ConceptName,
    method: Annotated[
        str, typer.Option("--method", metavar="NAME", help="An intervention. `workbench list interventions`.")
    ],
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="SITE",
            help="Where to act: L5.mlp_act[412], L2.expert[3], L3.mlp_out; may be given many times.",
        ),
    ] = None,
    localise: Annotated[
        str | None,
        typer.Option(
            "--localise", metavar="PROBE", help=f"Let a probe say where to act, or {RANDOM!r} for the control."
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", metavar="K", min=1, help=f"How many sites the localiser hands over ({TOP} when not given)."
        ),
    ] = None,
    settings: Settings = None,
    out: Out = None,
    seed: Seed = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    *,
    opening: "Opening",
) -> None:
    """Make a checkpoint that has forgotten."""
    from interventions import INTERVENTIONS
    from workbench.cli.machine import prepare_torch
    from workbench.cli.settings import method_of, parse_settings, with_options
    from workbench.cli.subjects import checkpoint_at
    from workbench.datasets import load_concept
    from workbench.sites import parse_sites
    from workbench.store import RunFolder, question_id

    screen = Screen(as_json, quiet)
    prepare_torch(opening.device)
    made = with_options(method_of((INTERVENTIONS,), method), parse_settings(settings), seed)
    place = Place(parse_sites(where or ()), localise, top, seed or 0)
    place.check(method, made)
    wanted, source = load_concept(concept), checkpoint_at(checkpoint, opening)
    question = {
        "verb": "unlearn",
        "checkpoint": source.digest,
        "dtype": opening.dtype,
        "concept": wanted.digest,
        "method": made.spec(),
        "where": place.spec(),
    }
    run = RunFolder.claim(out or default_out("unlearn", method, question_id(question)), question)
    if run.finished:
        screen.note("This was unlearned before; showing what is stored")
    else:
        with run.running(checkpoint=source.record), source.open() as model, progress(screen) as step:
            work = Work(run, method, made, wanted)
            work.write(model, work.edit(model, place, step))
    _show(screen, run, method)


@dataclass(frozen=True)
class Place:
    """Where to act: sites, or a probe that names them, or nothing."""

    sites: "tuple[Site, ...]"
    """From `--where`."""
    localiser: str | None
    """From `--localise`."""
    top: int | None
    """From `--top`."""
    seed: int
    """For the random localiser."""

    def check(self, name: str, method: Any) -> None:
        """Refuse what does not fit together, before anything is opened.

        Raises:
            BadInput: saying what is missing or too much.
        """
        from probes import PROBES

        if self.sites and self.localiser:
            raise BadInput("--where and --localise both say where to act; give one of them")
        if self.top and not self.localiser:
            raise BadInput(f"--top {self.top} says how many sites a localiser hands over; add --localise PROBE")
        if self.localiser and self.localiser != RANDOM and self.localiser not in PROBES:
            raise BadInput(f"No localiser called {self.localiser!r}. {did_you_mean(self.localiser, [*PROBES, RANDOM])}")
        needed = inspect.signature(method.fit).parameters["where"].default is inspect.Parameter.empty
        if needed and not self.sites and not self.localiser:
            raise BadInput(
                f"{name} must be told where to act: give --where SITE, like --where L5.mlp_act[412], or "
                "--localise PROBE --top K, like --localise concept_vectors --top 10"
            )

    def spec(self) -> Any:
        """For the question a run answers."""
        if self.localiser is None:
            return list(map(str, self.sites))
        return {"localise": self.localiser, "top": self.top or TOP, "seed": self.seed}

    def find(self, model: "HookedModel", concept: "Concept", run: "RunFolder") -> "Sequence[Site] | None":
        """The sites; None when nothing was said. What a probe read is kept in the run.

        Raises:
            BadInput: when the probe's reading names no sites.
        """
        from probes import PROBES

        count = self.top or TOP
        if self.localiser is None:
            return self.sites or None
        if self.localiser == RANDOM:
            return model.random_neurons(count, self.seed)
        trace: Trace = PROBES.load(self.localiser)().look(model, concept.forget)
        if "site" not in trace.axes:
            raise BadInput(
                f"{self.localiser} reads along {', '.join(trace.axes)} and names no sites, so it cannot say "
                "where to act; localise with concept_vectors, causal_trace or expert_attribution"
            )
        trace.save(run.path / "traces" / "checkpoint" / f"{self.localiser}.forget")
        return trace.top("site", count)


@dataclass(frozen=True)
class Work:
    """One unlearning, each of whose steps is skipped when its result is there."""

    run: "RunFolder"
    """Where everything goes."""
    name: str
    """The intervention, as in the catalogue."""
    method: Any
    """The intervention with its options."""
    concept: "Concept"
    """What is to be forgotten."""

    def edit(self, model: "HookedModel", place: Place, step: Any) -> "Edit":
        """Fit the edit, or load the one that an interrupted run fitted; its words are written last."""
        from workbench.edits import Edit, load_edit

        if (self.run.path / "edit.json").is_file():
            return load_edit(self.run.path / "edit")
        if place.localiser:
            step(f"locating {self.concept.name} by {place.localiser}", 0, 1)
        sites = place.find(model, self.concept, self.run)
        total = getattr(self.method, "steps", 1)
        step(f"unlearning by {self.name}", 0, total)
        given: dict[str, Any] = {} if sites is None else {"where": sites}
        if "progress" in inspect.signature(self.method.fit).parameters:
            given["progress"] = lambda done, loss: step(f"unlearning by {self.name}", done, total, f"loss {loss:.3f}")
        edit: Edit = self.method.fit(model, self.concept, **given)
        edit.save(self.run.path / "edit")
        return edit

    def write(self, model: "HookedModel", edit: "Edit") -> None:
        """Write the checkpoint and the receipt. A guard changes no weights, so it has neither."""
        from workbench.edits import WeightEdit
        from workbench.store import write_json

        if isinstance(edit, WeightEdit):
            if not (self.run.path / "checkpoint").is_dir():  # written whole or not at all, from this very edit
                edit.write(model, self.run.path / "checkpoint")
            write_json(self.run.path / "receipt.json", edit.receipt(model))


def _show(screen: Screen, run: "RunFolder", name: str) -> None:
    """The stored receipt as a table."""
    import json

    def read(file: str, otherwise: Any) -> Any:
        return json.loads((run.path / file).read_text()) if (run.path / file).is_file() else otherwise

    edit, receipt = read("edit.json", {}), read("receipt.json", [])
    paths = [path for part in ("checkpoint", "edit.safetensors", "receipt.json") if (path := run.path / part).exists()]
    notes = {key: value for key, value in edit["notes"].items() if key != "losses"}
    losses = edit["notes"].get("losses") or [None]
    payload = {
        "verb": "unlearn",
        "run": str(run.path),
        "run_id": run.run_id,
        "method": name,
        "kind": edit["kind"],
        "notes": notes,
        "last_loss": losses[-1],
        "receipt": receipt,
        "paths": list(map(str, paths)),
    }
    largest = sorted(receipt, key=lambda row: -row["norm_of_change"])[:SHOWN]
    columns = ("tensor", "entries changed", "norm of change", "relative")
    rows = [(r["tensor"], r["entries_changed"], r["norm_of_change"], r["relative"]) for r in largest]
    more = (f"and {len(receipt) - SHOWN} more tensors in receipt.json",) if len(receipt) > SHOWN else ()
    guard = () if receipt else ("No weights were changed: this is a guard, and dropping it brings everything back",)
    screen.result(payload, (*([table(columns, rows, f"Changed by {name}")] if rows else ()), *more, *guard), paths)
