"""The command line answers at once and keeps stdout for the result; tried as a user does, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "transformer_lens", "pandas", "plotly", "streamlit", "sklearn", "scipy", "sae_lens")


def run(*words: object, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workbench", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


@pytest.mark.parametrize(
    "words", [["--help"], ["audit", "--help"], ["list"], ["list", "runs"], ["--version"], ["look", "--help"]]
)
def test_help_and_lists_import_nothing_heavy(words):
    code = (
        f"import sys; from workbench.cli import main; main({words!r}); "
        f"sys.stderr.write(' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout


def test_report_and_verify_import_no_torch(audit_run):
    code = (
        f"import sys; from workbench.cli import main; main(['report', {str(audit_run)!r}, '--out', "
        f"{str(audit_run.parent / 'again')!r}, '--quiet']); main(['verify', {str(audit_run)!r}]); "
        "sys.stderr.write(' '.join(m for m in ('torch', 'transformers') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_run_keeps_stdout_for_the_result(planted_folder, concept_file, tmp_path):
    done = run(
        "look",
        planted_folder,
        "--concept",
        concept_file,
        "--probe",
        "accuracy",
        "--json",
        "--out",
        tmp_path / "run",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["probe"] == "accuracy"
    assert "accuracy" in done.stderr


VERBS = ["audit", "unlearn", "look", "compare", "report", "list", "verify", "doctor", "data", "schema"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_without_developers_words(cli, verb):
    assert f"  {verb} " in cli("--help").out
    shown = cli(verb, "--help")
    assert shown.code == 0 and "--json" in shown.out
    assert "Raises:" not in shown.out and "Args:" not in shown.out


def test_an_unknown_verb_exits_2_with_an_empty_stdout():
    done = run("adit")
    assert (done.returncode, done.stdout) == (2, "")
    assert "No verb called 'adit'. Did you mean 'audit'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_verb_shows_the_verbs():
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert "unlearn" in done.stderr


def test_a_bug_keeps_its_traceback():
    code = (
        "import workbench.store, sys\nfrom workbench.cli import main\n"
        "def broken(path): raise ZeroDivisionError('ours')\n"
        "workbench.store.verify = broken\nsys.exit(main(['verify', '.']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ZeroDivisionError: ours" in done.stderr
