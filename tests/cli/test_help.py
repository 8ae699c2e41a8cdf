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


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("unlearn", "npo", "--help"), ["--where SITE", "beta", "float, > 0", "Inverse temperature", "retain_weight"]),
        (("unlearn", "rmu", "--help"), ["wmdp | open_unlearning | None", "steps", "int, ≥ 1", "150"]),
        (("look", "--help", "logit_lens"), ["Options", "default"]),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_help_of_a_verb_with_a_method_has_the_methods_options(cli, words, parts):
    said = cli(*words)
    assert said.code == 0
    for part in parts:
        assert part in said.out


def test_help_without_a_method_is_the_verbs_alone(cli):
    assert "what it is" not in cli("unlearn", "--help").out
    assert "what it is" not in cli("unlearn", "nop", "--help").out


def test_every_intervention_tells_all_of_its_options(cli):
    said = cli("list", "interventions", "--options", "--json")
    assert said.code == 0
    cards = {card["name"]: card for card in said.json["interventions"]}
    assert set(cards) == {row["name"] for row in cli("list", "interventions", "--json").json["interventions"]}
    for name, card in cards.items():
        rows, properties = card["options"], card["schema"]["properties"]
        assert {row["name"] for row in rows} == set(properties), name
        for row in rows:
            assert row["type"] and "Literal" not in row["type"] and "Optional" not in row["type"]
            assert row["doc"] and "\n" not in row["doc"]
    lr = cards["npo"]["schema"]["properties"]["lr"]
    assert (lr["default"], lr["exclusiveMinimum"], lr["type"]) == (1e-5, 0, "number")
    assert cards["npo"]["schema"]["properties"]["mask"]["enum"] == ["none", "wagle", "salun", "sure", "fisher"]


@pytest.mark.parametrize(
    "words", [("list", "--options"), ("list", "claims", "--options"), ("list", "probes", "x", "--options")]
)
def test_options_are_of_methods(cli, words):
    said = cli(*words)
    assert (said.code, said.out) == (2, "") and "--options is for all methods of a kind" in said.err
