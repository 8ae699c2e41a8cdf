"""`workbench schema`: the published form of a document, as JSON schema or as a template to fill in."""

from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer

from workbench.cli.console import Screen, table
from workbench.cli.options import AsJson, Quiet
from workbench.errors import BadInput, did_you_mean

DOCUMENTS = {
    "concept": ("workbench.datasets.own_file_schema", "a file of one's own facts (--example json, yaml or jsonl)"),
    "report": ("workbench.report_schema", "report.json of an audit"),
}
"""Document -> module with `schema()`, and `example(form)` and `FORMS` for a template; and what it is."""


def schema(
    document: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Without one, all are listed.")] = None,
    form: Annotated[
        str | None,
        typer.Option("--example", metavar="FORM", help="A template that loads as it is: json, yaml, jsonl."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Print the JSON schema of a document, or a template of it; `workbench schema concept > concept.schema.json`."""
    screen = Screen(as_json, quiet)
    if document is None:
        if form is not None:
            raise BadInput(f"--example needs a document: workbench schema concept --example {form}")
        rows = [(name, about) for name, (_, about) in DOCUMENTS.items()]
        listed = [{"name": name, "about": about} for name, about in rows]
        screen.result({"verb": "schema", "documents": listed}, [table(("document", "what"), rows)])
        return
    if document not in DOCUMENTS:
        raise BadInput(f"No document called {document!r}. {did_you_mean(document, DOCUMENTS)}")
    module = import_module(DOCUMENTS[document][0])
    if form is None:
        _print_schema(screen, module.schema())
        return
    if not module.FORMS:
        raise BadInput(f"There is no template of {document}: it is made by a command, not written by hand")
    if form not in module.FORMS:
        raise BadInput(f"There is no example of {document} as {form!r}. {did_you_mean(form, module.FORMS)}")
    _print_example(screen, document, form, module.example)


def _print_schema(screen: Screen, found: dict[str, Any]) -> None:
    """The schema alone, on many lines for people and on one for programs."""
    import json

    screen.result(found, [json.dumps(found, indent=2)])


def _print_example(screen: Screen, document: str, form: str, example: Callable[[str], str]) -> None:
    text = example(form)
    screen.result({"verb": "schema", "document": document, "form": form, "text": text}, [text])
