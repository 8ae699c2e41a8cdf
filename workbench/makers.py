"""How an audited checkpoint was made, as the other runs on the shelf tell it: method, seed and options.

An audit knows its checkpoint by the sha256 of every file (`inputs` in its manifest); a finished run of `workbench
unlearn` or `demo` knows the sha256 of every file it wrote. Where all files of the one are among those of the other,
that run made the checkpoint, whatever the folders are called and wherever they lie.

Read it as: settings of the method, name -> text. Empty where no run on the shelf wrote these files: then nothing is
known, which says nothing about how it was made.
Does not show: what a checkpoint from elsewhere was made with, even if a paper says so.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from workbench.checkpoint import file_digest
from workbench.errors import BadInput
from workbench.shelf import Shelved, inside

RECEIPT = "edit_receipt.json"
"""Beside every checkpoint that an edit was written into: `workbench.edited_folder`."""

WRITES = {"": "checkpoint", "adapter": "adapter", "guard": "guarded"}
"""Part of an audited checkpoint -> the folder an unlearning writes it into."""

Settings = Mapping[str, str]


@dataclass(frozen=True)
class Made:
    """A checkpoint, adapter or guard that a run on the shelf wrote."""

    part: str
    """A key of `WRITES`."""
    files: Mapping[str, str]
    """Name -> sha256."""
    settings: Settings
    """`method`, `seed`, and every other option."""


def made_on(runs: Sequence[Shelved]) -> tuple[Made, ...]:
    """Everything that the finished runs of a shelf wrote and say the making of."""
    return tuple(made for run in runs if run.state == "finished" for made in _made_by(run))


def settings_of(shards: Mapping[str, str], made: Sequence[Made]) -> dict[str, str]:
    """The settings a checkpoint was made with; where two runs made the same bits, both values; empty where unknown.

    Args:
        shards: name -> sha256 of every file of the checkpoint, as an audit's manifest has them.
        made: of `made_on`.
    """
    prefix = next((f"{part}/" for part in ("guard", "adapter") if any(n.startswith(f"{part}/") for n in shards)), "")
    asked = {name.removeprefix(prefix): digest for name, digest in shards.items() if name.startswith(prefix)}
    same = [
        one for one in made if f"{one.part}/".lstrip("/") == prefix and asked and asked.items() <= one.files.items()
    ]
    names = dict.fromkeys(name for one in same for name in one.settings)
    return {
        name: " or ".join(dict.fromkeys(one.settings[name] for one in same if name in one.settings)) for name in names
    }


def _made_by(run: Shelved) -> Iterator[Made]:
    manifest = run.manifest or {}
    question, files = manifest.get("question") or {}, manifest.get("files") or {}
    if run.verb == "unlearn" and isinstance(question.get("method"), Mapping):
        for part, folder in WRITES.items():
            if found := _below(files, folder):
                yield Made(part, found, _settings(question["method"]))
    elif run.verb == "demo":
        for name in files:
            path = PurePosixPath(name)
            if path.name == RECEIPT and (told := _receipt(run, name, files[name])):
                yield Made("", _below(files, path.parent.as_posix()), told)


def _below(files: Mapping[str, str], folder: str) -> dict[str, str]:
    return {name.removeprefix(f"{folder}/"): digest for name, digest in files.items() if name.startswith(f"{folder}/")}


def _receipt(run: Shelved, name: str, digest: str) -> dict[str, str]:
    """What a receipt says the making was; nothing where it is not the one the run wrote."""
    try:
        path = inside(run.path, name)
        if file_digest(path) != digest:
            return {}
        return _settings(json.loads(path.read_text(encoding="utf-8"))["made_by"])
    except (BadInput, OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def _settings(made_by: Mapping[str, Any]) -> dict[str, str]:
    """Options as text; of the method its name, without the module."""
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in made_by.items()}
    return told | ({"method": told["method"].rpartition(":")[2]} if "method" in told else {})
