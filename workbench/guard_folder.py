"""A guard on disk: a folder that names its base and holds the edit, and opens like any other checkpoint.

    guard.json         the base (a folder or a hub id), its sha256, the method, and what a guard is
    edit.json          the edit: operators, trigger, speech
    edit.safetensors   its numbers
    serve.py           a few lines that answer prompts through transformers' `generate` (`workbench.serving`)

No weights are copied, because none were changed. Read it as: `Checkpoint("runs/x/guarded").open()` is the base with the
guard on. Does not show: any removal. Whoever has the base has everything.
"""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import BadInput

if TYPE_CHECKING:
    from workbench.checkpoint import Checkpoint
    from workbench.edits import HookEdit

GUARD = "guard.json"
EDIT = "edit"
FILES = (GUARD, f"{EDIT}.json", f"{EDIT}.safetensors")
"""What decides what a guard does."""

WARNING = (
    "This is a guard: hooks that run beside the model. Its weights are those of the base, they still hold the "
    "knowledge, and whoever has them can leave the guard away."
)
"""What every guard, and every report on one, says."""

SERVE = '''"""Answer prompts through the guard: python serve.py "A prompt" ["Another prompt" ...]

The model answers to transformers' own `generate`; put it behind any server that takes such a model.
"""

import sys
from pathlib import Path

from workbench.serving import load_guarded

model, tokenizer = load_guarded(Path(__file__).resolve().parent)
for prompt in sys.argv[1:]:
    given = tokenizer(prompt, return_tensors="pt")
    said = model.generate(**given, max_new_tokens=40, do_sample=False)
    print(tokenizer.decode(said[0, given["input_ids"].shape[1] :], skip_special_tokens=True))
'''


@dataclass(frozen=True)
class GuardFiles:
    """A guard's folder."""

    folder: Path
    """Where it lies."""
    base: str
    """The base: a folder or a hub id."""
    base_digest: str
    """sha256 the base must have."""
    method: str
    """Which method made it."""

    @property
    def files(self) -> list[Path]:
        """What decides what it does."""
        return [self.folder / name for name in FILES]

    def edit(self) -> "HookEdit":
        """The guard itself.

        Raises:
            BadInput: when it is damaged, or no guard.
        """
        from workbench.edits import HookEdit, load_edit

        edit = load_edit(self.folder / EDIT)
        if not isinstance(edit, HookEdit):
            raise BadInput(f"The edit in {str(self.folder)!r} changes {edit.kind}; only hooks are kept beside a base")
        return edit


def guard_in(folder: Path) -> GuardFiles | None:
    """The guard that a folder holds; None when it holds none.

    Raises:
        BadInput: when its files are damaged or some are missing.
    """
    if not (folder / GUARD).is_file():
        return None
    try:
        said = json.loads((folder / GUARD).read_text())
        base, digest, method = (str(said[name]) for name in ("base", "base_digest", "method"))
        beside = said.get("beside")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{GUARD} of {str(folder)!r} is damaged: {type(error).__name__} {error}") from None
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise BadInput(f"The guard {str(folder)!r} lacks {', '.join(missing)}; copy the folder again")
    near = folder / str(beside) if beside else None
    return GuardFiles(folder, str(near.resolve()) if near and near.is_dir() else base, digest, method)


def write_guard(edit: "HookEdit", base: "Checkpoint", out: Path, method: str) -> Path:
    """Write a guard beside its base; the folder appears whole or not at all.

    Args:
        edit: what to put on.
        base: what it was fitted to.
        out: the folder to make.
        method: which method made it.

    Raises:
        BadInput: when the folder exists, cannot be written, or the edit was fitted to another model.
    """
    if edit.fitted_to not in ("", base.digest):
        raise BadInput(f"This guard was fitted to model {edit.fitted_to[:12]}, but {base.name} is {base.digest[:12]}")
    if out.exists():
        raise BadInput(f"{str(out)!r} exists already; name a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            building = Path(temporary) / "guarded"
            building.mkdir()
            edit.save(building / EDIT)
            (building / GUARD).write_text(json.dumps(_words(base, out, method), indent=1) + "\n")
            (building / "serve.py").write_text(SERVE)
            shutil.move(building, out)
    except OSError as error:
        raise BadInput(f"Cannot write the guard to {str(out)!r}: {error.strerror or error}") from None
    return out


def _words(base: "Checkpoint", out: Path, method: str) -> dict[str, Any]:
    """Where the base is, also as seen from the guard, so that both can be moved together."""
    words = {"base": base.address, "base_digest": base.digest, "method": method, "warning": WARNING}
    if Path(base.address).is_dir():
        words["base"] = str(Path(base.address).resolve())
        words["beside"] = os.path.relpath(words["base"], out.resolve())
    return words
