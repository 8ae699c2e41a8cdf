"""Imports go down only, heavy libraries stay where they belong, and nothing prints: the house as it was designed.

roof     app.py  workbench/cli  workbench/__main__.py     may import all; nobody imports them
  3      audits                                           -> probes, workbench; never interventions
  2      probes, interventions                            -> workbench; they do not know each other
  1      workbench                                        -> none of ours
"""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("workbench", "probes", "interventions", "audits")

MAY_IMPORT = {
    "workbench": set(),
    "probes": {"workbench"},
    "interventions": {"workbench"},
    "audits": {"workbench", "probes"},
}
ROOF = ("app.py", "workbench/cli/*", "workbench/__main__.py")

AT_HOME = {
    "transformer_lens": ("workbench/model*.py",),
    "nnsight": ("workbench/model*.py",),
    "streamlit": ("app.py", "workbench/pages/*"),
    "sae_lens": ("workbench/*.py",),
}
"""Library -> the only files that may import it; sae_lens in one of them only."""

NO_NAME = ("utils.py", "helpers.py", "base.py", "common.py", "misc.py")


def sources(root: Path) -> list[str]:
    """Every file of the house, relative to its root."""
    found = [path for package in OURS for path in (root / package).rglob("*.py")]
    return sorted(str(path.relative_to(root)) for path in [*found, *root.glob("app.py")])


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module that is imported anywhere in a file, also inside functions and by `import_module("...")`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            yield from (word.value for word in node.args[:1] if isinstance(word, ast.Constant))


def is_on(file: str, places: tuple[str, ...]) -> bool:
    return any(fnmatch(file, place) for place in places)


def breaches(root: Path) -> list[str]:
    """One sentence for everything that stands where it must not."""
    found: list[str] = []
    savers: set[str] = set()
    for file in sources(root):
        tree = ast.parse((root / file).read_text(encoding="utf-8"))
        modules = set(imports(tree))
        tops = {module.partition(".")[0] for module in modules}
        floor = file.partition("/")[0]
        if not is_on(file, ROOF):
            found += [f"{file} imports {top}" for top in tops & set(OURS) - MAY_IMPORT[floor] - {floor}]
            found += [
                f"{file} imports the roof: {module}"
                for module in modules
                if f"{module}.".startswith(("app.", "workbench.cli."))
            ]
        found += [f"{file} imports {module} relatively" for module in modules if module.startswith(".")]
        found += [f"{file} imports {top}" for top, homes in AT_HOME.items() if top in tops and not is_on(file, homes)]
        savers |= {file} if "sae_lens" in tops else set()
        found += [f"{file} has no idea of its own: {Path(file).name}"] if Path(file).name in NO_NAME else []
        found += list(misdeeds(file, tree))
    return found + ([f"sae_lens is imported by {', '.join(sorted(savers))}"] if len(savers) > 1 else [])


def misdeeds(file: str, tree: ast.Module) -> Iterator[str]:
    """Printing, and touching the raw Hugging Face model from outside workbench."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"{file}:{node.lineno} prints"
        if isinstance(node, ast.Attribute) and node.attr == "hf" and not file.startswith("workbench/"):
            yield f"{file}:{node.lineno} touches the raw model (.hf)"


def test_the_house_stands_as_it_was_designed():
    assert len(sources(ROOT)) > 40
    assert breaches(ROOT) == []


PLANTED: list[tuple[str, str, str]] = [
    ("audits/claims.py", "from interventions import INTERVENTIONS", "audits/claims.py imports interventions"),
    ("audits/claims.py", "def f():\n    import interventions.gradient", "audits/claims.py imports interventions"),
    (
        "audits/claims.py",
        "from importlib import import_module\nimport_module('interventions')",
        "audits/claims.py imports interventions",
    ),
    ("probes/lens.py", "from interventions import x", "probes/lens.py imports interventions"),
    ("interventions/gradient/npo.py", "import probes.lens", "interventions/gradient/npo.py imports probes"),
    ("probes/lens.py", "from audits import read", "probes/lens.py imports audits"),
    ("workbench/report.py", "import audits", "workbench/report.py imports audits"),
    ("workbench/pages/one.py", "from probes import PROBES", "workbench/pages/one.py imports probes"),
    (
        "workbench/report.py",
        "from workbench.cli.console import table",
        "workbench/report.py imports the roof: workbench.cli.console",
    ),
    ("workbench/report.py", "from workbench import cli", "workbench/report.py imports the roof: workbench.cli"),
    ("probes/lens.py", "import app", "probes/lens.py imports the roof: app"),
    ("workbench/report.py", "from .store import now", "workbench/report.py imports .store relatively"),
    ("probes/lens.py", "import transformer_lens", "probes/lens.py imports transformer_lens"),
    ("workbench/sites.py", "from nnsight import LanguageModel", "workbench/sites.py imports nnsight"),
    ("probes/lens.py", "import streamlit as st", "probes/lens.py imports streamlit"),
    ("probes/lens.py", "from sae_lens import SAE", "probes/lens.py imports sae_lens"),
    ("probes/lens.py", "x = model.hf.config", "probes/lens.py:1 touches the raw model (.hf)"),
    ("workbench/report.py", "print(1)", "workbench/report.py:1 prints"),
    ("probes/utils.py", "", "probes/utils.py has no idea of its own: utils.py"),
]


@pytest.mark.parametrize(("file", "text", "breach"), PLANTED)
def test_a_planted_breach_is_found(tmp_path, file, text, breach):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert breach in breaches(tmp_path)


def test_two_homes_for_sae_lens_are_one_too_many(tmp_path):
    (tmp_path / "workbench").mkdir()
    for name in ("saes.py", "other.py"):
        (tmp_path / "workbench" / name).write_text("import sae_lens")
    assert breaches(tmp_path) == ["sae_lens is imported by workbench/other.py, workbench/saes.py"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("workbench/cli/audit.py", "from audits.auditor import audit\nfrom interventions import INTERVENTIONS"),
        ("app.py", "import streamlit, audits, workbench.cli.console"),
        ("workbench/pages/one.py", "import streamlit"),
        ("workbench/model_sites.py", "import transformer_lens"),
        ("workbench/edits.py", "model.hf.train()"),
        ("audits/read.py", "from probes.lens import Lens"),
        ("workbench/saes.py", "from sae_lens import SAE"),
    ],
)
def test_what_is_allowed_is_no_breach(tmp_path, file, text):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert breaches(tmp_path) == []


@pytest.mark.parametrize(
    "module",
    [
        "workbench",
        "probes",
        "interventions",
        "audits",
        "audits.behaviour",
        "audits.attacks",
        "workbench.cli",
        "workbench.trace",
        "workbench.report",
        "workbench.figures",
        "workbench.store",
        "audits.claims",
        "audits.judge",
        "audits.verdict",
    ],
)
def test_importing_it_imports_no_torch(module):
    code = f"import sys, {module}; sys.exit(' '.join(m for m in ('torch', 'transformers') if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{module} imports {done.stderr}"


def walk(check: Callable[[ast.AST], bool]) -> list[str]:
    return [
        f"{file}:{getattr(node, 'lineno', 0)}"
        for file in sources(ROOT)
        for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if check(node)
    ]


def test_every_module_says_what_it_is_for():
    silent = [file for file in sources(ROOT) if not ast.get_docstring(ast.parse((ROOT / file).read_text()))]
    assert silent == []


def test_no_bare_except():
    assert walk(lambda node: isinstance(node, ast.ExceptHandler) and node.type is None) == []
