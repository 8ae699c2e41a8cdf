"""The notebooks run as they stand, are kept without outputs, use what is public, and end in pictures."""

import ast
import base64
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

from notebooks.execute import FIGURE, NAMES, executed, page

ROOT = Path(__file__).parents[1]
OURS = ("workbench", "probes", "interventions", "audits")
OTHERS = ("pandas", "plotly", "torch", "pathlib", "tempfile")


def stored(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code_of(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def figures_in(notebook: nbformat.NotebookNode) -> list[dict]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.data[FIGURE] for output in outputs if FIGURE in output.get("data", {})]


def numbers(drawn: list | dict) -> list:
    """What a picture draws along an axis; plotly packs arrays."""
    if isinstance(drawn, list):
        return drawn
    return np.frombuffer(base64.b64decode(drawn["bdata"]), drawn["dtype"]).tolist()


def test_every_notebook_is_named() -> None:
    assert sorted(p.stem for p in (ROOT / "notebooks").glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_kept_without_outputs_and_small(name: str) -> None:
    path, notebook = ROOT / "notebooks" / f"{name}.ipynb", stored(name)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    assert path.stat().st_size < 20_000


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_has_its_sentences_before_it(name: str) -> None:
    cells = stored(name).cells
    assert cells[0].source.startswith("# ") and cells[-1].cell_type == "code"
    for before, cell in zip(cells, cells[1:], strict=False):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown"
            assert 1 <= len(re.findall(r"[.?:](?=\s|$)", before.source)) <= 6
            assert len(cell.source.splitlines()) <= 18


@pytest.mark.parametrize("name", NAMES)
def test_it_imports_only_what_is_public(name: str) -> None:
    for node in ast.walk(ast.parse("\n".join(code_of(stored(name))))):
        if isinstance(node, ast.Import):
            modules, names = [a.name for a in node.names], []
        elif isinstance(node, ast.ImportFrom):
            modules, names = [node.module or ""], [a.name for a in node.names]
        elif isinstance(node, ast.Attribute):
            modules, names = [], [node.attr]
        else:
            continue
        assert {module.partition(".")[0] for module in modules} <= {*OURS, *OTHERS}
        assert not [word for word in [*names, *".".join(modules).split(".")] if word.startswith("_")]
        assert "hf" not in names  # the library's own model object


@pytest.fixture(scope="module")
def small_runs(tmp_path_factory: pytest.TempPathFactory):
    """Every notebook, run on the planted models when it is first asked for."""
    done: dict[str, nbformat.NotebookNode] = {}

    def run(name: str) -> nbformat.NotebookNode:
        if name not in done:
            done[name] = executed(name, small=True)
        return done[name]

    return run


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_says_nothing_unasked_and_ends_in_pictures(name: str, small_runs) -> None:
    notebook = small_runs(name)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    stray = [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    assert not [text for text in stray if "Warning" in text or "Error" in text]
    assert FIGURE in notebook.cells[-1].outputs[-1].data
    assert len(figures_in(notebook)) >= 3
    for figure in figures_in(notebook):
        assert figure["data"]


def test_looking_inside_tells_the_two_models_apart(small_runs) -> None:
    lens, *_ = figures_in(small_runs("look_inside"))
    ends = {s["name"].split()[0]: numbers(s["y"])[-1] for s in lens["data"] if s.get("mode") == "lines+markers"}
    assert ends["base"] > 0.9 and ends["reference"] < 0.4


def test_the_cut_removes_and_the_random_cut_does_not(small_runs) -> None:
    answers = figures_in(small_runs("remove_and_audit"))[1]
    forget = {s["name"]: dict(zip(s["y"], numbers(s["x"]), strict=True))["forget"] for s in answers["data"]}
    assert forget["base"] == 1.0 and forget["cut"] < 0.2 and forget["npo"] < 0.2 and forget["random cut"] > 0.6


def test_outputs_need_no_network(small_runs) -> None:
    for name in NAMES:
        notebook = small_runs(name)
        told = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
        assert "<script" not in told and "https://" not in told
        assert "default-src 'none'" in page(notebook, name)


def test_a_page_shows_prose_code_cards_and_pictures_and_lets_no_text_out() -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    data = {"data": [{"type": "bar", "y": [1], "name": hostile}], "layout": {"meta": {"alt": f"A bar {hostile}"}}}
    outputs = [
        nbformat.v4.new_output("display_data", data={FIGURE: data}),
        nbformat.v4.new_output("stream", name="stdout", text=f"said {hostile}"),
        nbformat.v4.new_output("stream", name="stderr", text="a progress bar"),
        nbformat.v4.new_output("display_data", data={"text/html": "<b>card</b>", "text/plain": "plain"}),
    ]
    cell = nbformat.v4.new_code_cell(f"print('{hostile}')")
    cell["outputs"] = outputs
    html = page(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# Title\n{hostile}"), cell]), "t")
    body = html[html.index("<body") :]
    assert "<h1>Title</h1>" in body and "<b>card</b>" in body and "said " in body and "Plotly.newPlot" in body
    assert "<img" not in body and body.count("</script>") == 1
    assert "a progress bar" not in body and "plain" not in body


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_on_the_models_it_is_written_for(name: str) -> None:
    notebook = executed(name, small=False)
    assert FIGURE in notebook.cells[-1].outputs[-1].data
    if name == "audit_a_checkpoint":
        said = "".join(o.text for c in notebook.cells for o in c.get("outputs", ()) if o.output_type == "stream")
        assert "Asked directly it gives" in said
