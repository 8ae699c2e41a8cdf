"""Run the notebooks, and write each with its pictures: as a notebook, and as a page that opens offline.

    python -m notebooks.execute [--small] [--out runs/notebooks]

Needs the `notebook` extra. `--small` takes planted models, which need no training and make a poor story.
Does not change the notebooks themselves: those are kept without outputs.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment
from markdown_it import MarkdownIt
from markupsafe import Markup
from nbclient import NotebookClient
from plotly.offline import get_plotlyjs

HERE = Path(__file__).parent
NAMES = ("look_inside", "remove_and_audit", "audit_a_checkpoint")
"""In the order they are read."""

SECONDS = 900
"""A cell may take; the first one may have to train two models."""

FIGURE = "application/vnd.plotly.v1+json"
"""What plotly hands to Jupyter; JupyterLab and VS Code draw it without a network."""


def executed(name: str, *, small: bool) -> nbformat.NotebookNode:
    """The notebook with its outputs, run in a kernel of its own on this very copy of the project.

    Raises:
        nbclient.exceptions.CellExecutionError: when a cell fails.
    """
    notebook = nbformat.read(HERE / f"{name}.ipynb", as_version=4)
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    ours = {"PYTHONPATH": os.pathsep.join(paths), "WORKBENCH_NOTEBOOK_SMALL": "1" if small else "0"}
    ours |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # at this size a second thread makes everything slower
    quiet = ["--IPKernelApp.log_level=ERROR"]
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", extra_arguments=quiet)
    client.execute(env={**os.environ, **ours})
    return notebook


def page(notebook: nbformat.NotebookNode, title: str) -> str:
    """An executed notebook as one HTML file: prose, code, tables and live pictures, with everything inside."""
    template = Environment(autoescape=True).from_string((HERE / "page.html").read_text("utf-8"))
    cells = [_cell(cell, number) for number, cell in enumerate(notebook.cells)]
    return template.render(title=title, cells=cells, plotly=Markup(get_plotlyjs()))


def _cell(cell: nbformat.NotebookNode, number: int) -> dict[str, Any]:
    if cell.cell_type == "markdown":
        prose = MarkdownIt("commonmark", {"html": False}).render(cell.source)
        return {"prose": Markup(prose)}  # a tag in the source comes out as text
    return {"prose": None, "code": cell.source, "outputs": list(_outputs(cell.outputs, number))}


def _outputs(outputs: list[Any], number: int) -> Iterator[dict[str, Any]]:
    for position, output in enumerate(outputs):
        if output.get("name") == "stderr":  # progress bars
            continue
        data = output.get("data", {})
        figure = data.get(FIGURE)
        html = data.get("text/html")
        yield {
            "id": f"figure-{number}-{position}",
            "figure": None if figure is None else _script_safe(figure),
            "alt": "" if figure is None else figure["layout"].get("meta", {}).get("alt", ""),
            "html": None if html is None else Markup(html),  # our own cards, escaped where they are made
            "text": output.get("text") or data.get("text/plain", ""),
        }


def _script_safe(figure: dict[str, Any]) -> Markup:
    """Figure JSON that cannot end the script element it stands in."""
    return Markup(json.dumps(figure).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="planted models: seconds, no training")
    parser.add_argument("--out", type=Path, default=Path("runs/notebooks"), help="folder to write")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        notebook = executed(name, small=given.small)
        nbformat.write(notebook, given.out / f"{name}.ipynb")
        (given.out / f"{name}.html").write_text(page(notebook, name.replace("_", " ")), encoding="utf-8")
        sys.stdout.write(f"{given.out / name}.html\n")


if __name__ == "__main__":
    main()
