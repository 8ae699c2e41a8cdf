"""The map at the door is true: every module is on it, and everything on it exists."""

import fnmatch
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MAP = README[README.index("## The map") :].split("```")[1]
NAMED = set(re.findall(r"[\w*]+\.py\b|\w+/", MAP))


def test_every_module_is_on_the_map() -> None:
    on_floor = [
        p.name for package in ("workbench", "probes", "interventions", "audits") for p in (ROOT / package).glob("*.py")
    ]
    missing = {
        name
        for name in on_floor
        if not name.startswith("__") and not any(fnmatch.fnmatch(name, pattern) for pattern in NAMED)
    }
    assert not missing


def test_everything_on_the_map_exists() -> None:
    names = {p.name for p in ROOT.rglob("*") if ".venv" not in p.parts and ".git" not in p.parts}
    for name in NAMED:
        assert any(fnmatch.fnmatch(there, name.rstrip("/")) for there in names), name


def test_its_make_targets_and_verbs_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([\w-]+)", README):
        assert target == "make" or re.search(rf"^{target}:", makefile, re.M), target
    from workbench.cli import VERBS

    for verb in re.findall(r"^workbench (\w+)", README, re.M):
        assert verb in VERBS
