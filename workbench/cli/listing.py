"""`workbench list`: what there is, from the catalogues and the runs on disk; with a name, all about that one."""

from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.cli.catalogue import METHODS, catalogue_of, first_lines, method_card
from workbench.cli.console import Screen, table
from workbench.cli.options import AsJson, Quiet
from workbench.errors import BadInput, did_you_mean

KINDS = (*METHODS, "claims", "concepts", "runs")
"""Everything that can be listed."""

KNOWN = ", ".join(METHODS)
"""Kinds whose entries have options."""


def listing(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help=f"One of {', '.join(KINDS)}; all but runs when not given.")
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show this one with its options.")] = None,
    options: Annotated[
        bool,
        typer.Option("--options", help="With a KIND of method: every one with all its options, not only its name."),
    ] = False,
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Where runs lie.")] = Path("runs"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List what there is, or one with its options."""
    screen = Screen(as_json, quiet)
    if kind is not None and kind not in KINDS:
        raise BadInput(f"Nothing is listed under {kind!r}. {did_you_mean(kind, KINDS)}")
    if options and (kind not in METHODS or name is not None):
        raise BadInput(f"--options is for all methods of a kind: `workbench list KIND --options`, KIND one of {KNOWN}")
    if kind is not None and options:
        cards = [method_card(catalogue_of(kind), kind, one) for one in catalogue_of(kind)]
        screen.result({"verb": "list", kind: cards}, [part for card in cards for part in _shown(card)])
        return
    if kind is not None and name is not None:
        card = _card(kind, name, runs)
        screen.result({"verb": "list", **card}, _shown(card))
        return
    found = {one: _rows(one, runs) for one in ([kind] if kind else [k for k in KINDS if k != "runs"])}
    tables = [
        table(tuple(rows[0]), [tuple(row.values()) for row in rows], one) if rows else f"No {one} in {runs}"
        for one, rows in found.items()
    ]
    screen.result({"verb": "list", **found}, tables)


def _rows(kind: str, runs: Path) -> list[dict[str, Any]]:
    """One row an entry; the first column is its name."""
    if kind in METHODS:
        return [{"name": name, "about": line} for name, line in first_lines(catalogue_of(kind)).items()]
    if kind == "claims":
        from audits.claims import CLAIMS

        return [
            {
                "name": claim.id,
                "level": f"U{claim.rung}" if claim.rung is not None else "utility" if claim.axis == "utility" else "—",
                "suite": claim.suite,
                "axis": claim.axis,
                "about": claim.question,
            }
            for claim in CLAIMS
        ]
    return _concepts() if kind == "concepts" else _runs(runs)


def _concepts() -> list[dict[str, Any]]:
    from workbench.datasets import EXAMPLES, FILE_SUFFIXES
    from workbench.demo.world import CONCEPTS

    about = EXAMPLES["demo:chemistry"]
    rows = [{"name": f"demo:{name}", "about": about} for name in CONCEPTS]
    rows += [{"name": name, "about": what} for name, what in EXAMPLES.items() if not name.startswith("demo:")]
    return [*rows, {"name": f"FILE{{{','.join(FILE_SUFFIXES)}}}", "about": "a file of one's own facts"}]


def _runs(folder: Path) -> list[dict[str, Any]]:
    """Every run below a folder, newest first; a damaged one is listed as such."""
    from workbench.store import MANIFEST, read_manifest

    rows = []
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        try:
            found = read_manifest(path.parent)
        except BadInput as error:
            found = {"status": f"unreadable: {error}"}
        question = found.get("question") or {}
        rows.append(
            {
                "name": path.parent.name,
                "verb": question.get("verb"),
                "status": found.get("status"),
                "run_id": found.get("run_id"),
                "written_at": found.get("written_at"),
            }
        )
    return sorted(rows, key=lambda row: str(row["written_at"]), reverse=True)


def _card(kind: str, name: str, runs: Path) -> dict[str, Any]:
    """All about one entry."""
    if kind in METHODS:
        return method_card(catalogue_of(kind), kind, name)
    if kind == "claims":
        from dataclasses import asdict

        from audits.claims import CLAIMS

        found = {claim.id: claim for claim in CLAIMS}
        if name not in found:
            raise BadInput(f"No claim called {name!r}. {did_you_mean(name, found)}")
        return {"kind": kind, "name": name, **{k: v for k, v in asdict(found[name]).items() if k != "id"}}
    if kind == "concepts":
        from workbench.cli.reading import SETS
        from workbench.datasets import load_concept

        concept = load_concept(name)
        return {
            "kind": kind,
            "name": concept.name,
            "digest": concept.digest,
            **{part: len(getattr(concept, part)) for part in (*SETS, "text", "jailbreaks")},
            "first": f"{concept.forget.facts[0].prompt} {concept.forget.facts[0].answer}",
        }
    from workbench.store import read_manifest

    manifest = read_manifest(runs / name)
    return {
        "kind": kind,
        "name": name,
        **{k: v for k, v in manifest.items() if k != "files"},
        "files": len(manifest["files"]),
    }


def _shown(card: dict[str, Any]) -> list[Any]:
    """A card for people: text, then the options, or simply every entry."""
    if "options" not in card:
        return [table(("", ""), card.items())]
    rows = [(row["name"], row["type"], str(row["default"]), row["doc"]) for row in card["options"]]
    options = table(("option", "type", "default", "what it is"), rows, "Options, for --set option=value")
    return [f"{card['name']} ({card['class']})\n", card["docs"] + "\n", options if rows else "No options."]
