"""`workbench unlearn`: make a checkpoint that has forgotten, or a guard, with its edit, receipt and controls."""

import inspect
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.console import Screen, table
from workbench.cli.controls import compared, controls_table, fit
from workbench.cli.options import CHECKPOINT, AsJson, ConceptName, Out, Quiet, Seed, Settings, default_out, opens_models
from workbench.cli.places import RANDOM, TOP, Place
from workbench.cli.progress import progress
from workbench.errors import BadInput, Diverged, RunError
from workbench.guard_folder import WARNING

if TYPE_CHECKING:
    from workbench.checkpoint import Checkpoint
    from workbench.concepts import Concept
    from workbench.edits import Edit
    from workbench.model import HookedModel
    from workbench.opening import Opening
    from workbench.sites import Site
    from workbench.store import RunFolder

KEPT, CONTROLS, LAST_GOOD, ADAPTER = "fitting", "controls.json", "last_good", "adapter"
"""In the run: what an interrupted training goes on from, what the controls left, what a training that diverged had
reached, and what was trained of an adapter."""

SHOWN = 10
"""Tensors of the receipt that are shown; all are in receipt.json."""


@opens_models
def unlearn(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[METHOD] CHECKPOINT",
            help=f"What to unlearn with (or --method), and the model to change. {CHECKPOINT}.",
            show_default=False,
        ),
    ],
    concept: ConceptName,
    method: Annotated[
        str | None, typer.Option("--method", metavar="NAME", help="An intervention. `workbench list interventions`.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="SITE",
            help="Where to act: L5.mlp_act[412], L2.expert[3], L3.mlp_out, may be given many times; or run:ID, the "
            "sites that a stored reading names.",
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
    controls: Annotated[
        bool,
        typer.Option("--controls", help="Also act at as many random sites, and at all sites, and show what each left."),
    ] = False,
    adapter: Annotated[
        str | None,
        typer.Option(
            "--adapter",
            metavar="KIND",
            help="Train low-rank adapters, which are written beside the checkpoint: lora or fila. Of gradient methods.",
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
    """Make a checkpoint that has forgotten, or a guard that keeps one from saying what it knows."""
    from interventions import INTERVENTIONS
    from workbench.cli.machine import prepare_torch
    from workbench.cli.settings import method_of, parse_settings, with_options
    from workbench.cli.subjects import checkpoint_at
    from workbench.datasets import load_concept
    from workbench.store import RunFolder, question_id
    from workbench.telling import Telling

    screen = Screen(as_json, quiet)
    prepare_torch(opening.device)
    name, checkpoint = asked(words, method)
    chosen = [*(settings or ()), *([f"adapter={adapter}"] if adapter is not None else ())]
    made = with_options(method_of((INTERVENTIONS,), name), parse_settings(chosen), seed)
    place = Place(tuple(where or ()), localise, top, seed or 0)
    place.check(name, made)
    wanted, source = load_concept(concept, offline=opening.offline), checkpoint_at(checkpoint, opening)
    question = {
        "verb": "unlearn",
        "checkpoint": source.digest,
        "dtype": opening.dtype,
        "concept": wanted.digest,
        "method": made.spec(),
        "where": place.spec(),
        **({"controls": True} if controls else {}),
    }
    run = RunFolder.claim(out or default_out("unlearn", name, question_id(question)), question)
    if run.finished:
        screen.note("This was unlearned before; showing what is stored")
    else:
        with run.running(checkpoint=source.record), source.open() as model, progress(screen) as shown:
            step = Telling(run, shown)
            work = Work(run, name, made, wanted, place)
            work.require_writable(model)
            if controls:
                work.require_controls(model, step)
            edit = work.edit(model, step)
            work.write(model, edit, source)
            if controls:
                work.compare(model, edit, step)
    _show(screen, run, name)


def asked(words: Sequence[str], method: str | None) -> tuple[str, str]:
    """Name of the method and of the model, from `METHOD CHECKPOINT` or `CHECKPOINT --method NAME`.

    Raises:
        BadInput: when one is missing, or the method is named twice.
    """
    if len(words) > 2 or (len(words) == 2 and method is not None):
        raise BadInput(
            f"Give one method and one model, as in `workbench unlearn METHOD CHECKPOINT`; got {' '.join(words)}"
            + (f" and --method {method}" if method is not None else "")
        )
    if len(words) == 1 and method is None:
        raise BadInput(
            f"What to unlearn {words[0]!r} with? Name a method: `workbench unlearn METHOD {words[0]}`. "
            "`workbench list interventions` shows them"
        )
    return (words[0], words[1]) if method is None else (method, words[0])


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
    place: Place
    """Where to act."""

    def edit(self, model: "HookedModel", step: Any) -> "Edit":
        """Fit the edit, or load the one that an interrupted run fitted; its words are written last."""
        from workbench.edits import load_edit

        keep, began = self.run.path / KEPT, time.monotonic()
        if (self.run.path / "edit.json").is_file():
            shutil.rmtree(keep, ignore_errors=True)  # a kill may have come between the edit and this
            return load_edit(self.run.path / "edit")
        total = getattr(self.method, "steps", 0)
        where = self._where(model, step)
        step(f"unlearning by {self.name}", 0, total)
        with model.keeping(keep, self.run.question):
            try:
                edit = fit(self.method, model, self.concept, where, progress=_Told(step, self.name, total))
            except Diverged as error:
                raise RunError(f"{error}. {self._last_good(model, error)}") from None
        self.run.event(doing="fitted", seconds=time.monotonic() - began)
        edit.save(self.run.path / "edit")
        for done in (keep, self.run.path / LAST_GOOD):
            shutil.rmtree(done, ignore_errors=True)
        return edit

    def _last_good(self, model: "HookedModel", error: Diverged) -> str:
        """Write what a training had reached when it was last kept, and say where it is."""
        if error.edit is None:
            return "Nothing was kept before that, so the last good checkpoint is the model as it was"
        folder = self.run.path / LAST_GOOD
        shutil.rmtree(folder, ignore_errors=True)
        error.edit.save(folder / "edit")
        error.edit.write(model, folder / "checkpoint")
        return f"The checkpoint after step {error.kept}, the last that was kept, is in {folder / 'checkpoint'}"

    def _where(self, model: "HookedModel", step: Any) -> "Sequence[Site] | None":
        """The sites; what a localiser found is kept, so that it looks once."""
        from workbench.sites import parse_sites
        from workbench.store import write_json

        found = self.run.path / "where.json"
        if found.is_file():
            return list(parse_sites(json.loads(found.read_text())))
        if self.place.localiser:
            step(f"locating {self.concept.name} by {self.place.localiser}", 0, 1)
        sites = self.place.find(model, self.concept, self.run, step)
        if sites is not None and self.place.localiser:
            write_json(found, list(map(str, sites)))
        return sites

    def write(self, model: "HookedModel", edit: "Edit", source: "Checkpoint") -> None:
        """Write the checkpoint, the receipt and an adapter; of a guard, which changes no weights, the guard alone."""
        from workbench.adapter_folder import write_adapter
        from workbench.edits import HookEdit, WeightEdit
        from workbench.guard_folder import write_guard
        from workbench.store import write_json

        if isinstance(edit, WeightEdit):
            if not (self.run.path / "checkpoint").is_dir():  # written whole or not at all, from this very edit
                edit.write(model, self.run.path / "checkpoint")
            write_json(self.run.path / "receipt.json", edit.receipt(model))
            if edit.low_rank and source.plain and not (self.run.path / ADAPTER).is_dir():
                write_adapter(edit, model, self.run.path / ADAPTER)
        if isinstance(edit, HookEdit) and not (self.run.path / "guarded").is_dir():
            write_guard(edit, source, self.run.path / "guarded", self.name)

    def require_writable(self, model: "HookedModel") -> None:
        """Refuse a model that a checkpoint could not be written of, before anything is fitted.

        Raises:
            BadInput: when the method changes weights and they are open in another precision than they are stored in.
        """
        from workbench.edited_folder import require_own_dtype
        from workbench.edits import WeightEdit

        if inspect.signature(self.method.fit).return_annotation is WeightEdit:
            require_own_dtype(model)

    def require_controls(self, model: "HookedModel", step: Any) -> None:
        """Refuse a method that has nothing to be compared with, before anything is fitted.

        Raises:
            BadInput: saying why.
        """
        self.method.controls(model, self._where(model, step), self.place.seed)

    def compare(self, model: "HookedModel", edit: "Edit", step: Any) -> None:
        """Fit and measure the controls."""
        from workbench.store import write_json

        if not (self.run.path / CONTROLS).is_file():
            where, seed = self._where(model, step), self.place.seed
            rows = compared(model, self.concept, self.method, where, edit, seed, step)
            write_json(self.run.path / CONTROLS, rows)


@dataclass(frozen=True)
class _Told:
    """What a method calls as it goes: the step, and its loss where it has one."""

    step: Any
    name: str
    total: int

    def __call__(self, done: int, loss: float | None = None, total: int | None = None) -> None:
        detail = "" if loss is None or math.isnan(loss) else f"loss {loss:.3f}"
        self.step(f"unlearning by {self.name}", done, total or self.total, detail)


def _show(screen: Screen, run: "RunFolder", name: str) -> None:
    """The stored receipt as a table."""
    from workbench.checkpoint_files import ADAPTER_CONFIG

    def read(file: str, otherwise: Any) -> Any:
        return json.loads((run.path / file).read_text()) if (run.path / file).is_file() else otherwise

    edit, receipt = read("edit.json", {}), read("receipt.json", [])
    written = ("checkpoint", ADAPTER, "guarded", "edit.safetensors", "receipt.json", CONTROLS)
    paths, controls = [path for part in written if (path := run.path / part).exists()], read(CONTROLS, [])
    notes = {key: value for key, value in edit["notes"].items() if key != "losses"}
    losses = edit["notes"].get("losses") or [None]
    payload = {
        "verb": "unlearn",
        "run": str(run.path),
        "run_id": run.run_id,
        "method": name,
        "kind": edit["kind"],
        "notes": notes,
        "seconds": run.seconds("fitted"),
        "last_loss": losses[-1],
        "receipt": receipt,
        "controls": controls,
        "paths": list(map(str, paths)),
    }
    largest = sorted(receipt, key=lambda row: -row["norm_of_change"])[:SHOWN]
    columns = ("tensor", "entries changed", "norm of change", "relative")
    rows = [(r["tensor"], r["entries_changed"], r["norm_of_change"], r["relative"]) for r in largest]
    more = (f"and {len(receipt) - SHOWN} more tensors in receipt.json",) if len(receipt) > SHOWN else ()
    guard = (WARNING,) if edit["kind"] == "hooks" else ()
    changed = (table(columns, rows, f"Changed by {name}"),) if rows else ()
    left = (controls_table(controls, name),) if controls else ()
    base = read(f"{ADAPTER}/{ADAPTER_CONFIG}", {}).get("base_model_name_or_path")
    alone = (f"The adapter alone opens as {base}+{run.path / ADAPTER}",) if base else ()
    screen.result(payload, (*changed, *more, *left, *guard, *alone), paths)
