"""What the Live page found, kept as a run of its own: a folder like any other, that the app lists and shows again.

Read it as: `live/<id>` under the runs folder; the same models asked the same prompt is the same run. Its traces are of
one prompt (`answer_tokens.prompt`, `lens_words.prompt`, `causal_trace.prompt`), a folder a model.
Does not show: a verdict; one prompt has no controls and no intervals.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from workbench.errors import BadInput
from workbench.live import Prompt, Readings
from workbench.report_pictures import ROLES
from workbench.shelf import load_trace, trace_keys
from workbench.store import RunFolder, question_id
from workbench.trace import Trace

VERB, FOLDER = "live", "live"
"""Name of what made such a run, and the folder below the runs folder."""

ON = "prompt"
"""What the readings are of, in their keys."""


def keep(root: Path, of: str, prompt: Prompt, found: Mapping[str, Readings], addresses: Mapping[str, str]) -> str:
    """Write what was found into a run; returns its name below the runs folder.

    Args:
        root: the runs folder.
        of: name of the run whose models were asked.
        prompt: what they were asked.
        found: role -> reading -> trace.
        addresses: role -> where the model lies.

    Raises:
        BadInput: when the folder cannot be written.
    """
    identities = {role: _identity(readings) for role, readings in found.items()}
    question = {"verb": VERB, "of": of, "prompt": asdict(prompt), "roles": identities}
    name = f"{FOLDER}/{question_id(question)}"
    run = RunFolder.claim(root / name, question)
    about = {"checkpoints": {role: {"address": addresses.get(role, "")} for role in found}}
    with run.running(**about, argv=["view", "--live"]):
        for role, readings in found.items():
            for reading, trace in readings.items():
                trace.save(run.path / "traces" / role / f"{reading}.{ON}")
    return name


def kept(path: Path, manifest: Mapping[str, Any]) -> tuple[Prompt, dict[str, dict[str, Trace]], str]:
    """What such a run holds: the prompt, role -> reading -> trace, and the run whose models were asked.

    Raises:
        BadInput: when it is no run of the Live page, or its files are damaged.
    """
    question = manifest.get("question") or {}
    if question.get("verb") != VERB:
        raise BadInput(f"The run {path.name!r} was not made by the Live page")
    try:
        prompt = Prompt(**question["prompt"])
    except (TypeError, KeyError) as error:
        raise BadInput(f"The run {path.name!r} does not say what was asked ({error})") from None
    there = trace_keys(path)
    roles = [*(role for role in ROLES if role in there), *(role for role in there if role not in ROLES)]
    found = {role: {key.removesuffix(f".{ON}"): load_trace(path, role, key) for key in there[role]} for role in roles}
    if not found or any("answer_tokens" not in readings for readings in found.values()):
        raise BadInput(f"The run {path.name!r} lacks what its models said; `workbench verify` tells which files it had")
    return prompt, found, str(question.get("of", ""))


def _identity(readings: Readings) -> str:
    """The digest that every reading notes of its model; empty where none does."""
    return next((str(t.notes["identity"]) for t in readings.values() if t.notes.get("identity")), "")
