"""`Checkpoint`: a model on disk or on the hub, known by the sha256 of its files, opened as a `HookedModel`.

Any ordinary Hugging Face checkpoint will do: a folder, a hub id `org/name` or `org/name@revision`, or `base+adapter`
with a PEFT LoRA; or a guard (`workbench.guard_folder`), which opens as its base with the guard on. Nothing in it is
executed: remote code is off and weights must be safetensors (pickled weights can run code when they are read, so they
are refused), unless the `Opening` says otherwise.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.adapters import vetted_adapter
from workbench.checkpoint_files import BESIDE, Place, is_folder, locate, vetted_weights
from workbench.errors import BadInput
from workbench.guard_folder import GuardFiles, guard_in
from workbench.opening import Opening

if TYPE_CHECKING:
    import workbench.model

log = logging.getLogger("workbench")

COPIED = (*BESIDE, "LICENSE*")
"""Files that an edited checkpoint takes over verbatim; a model card or measurements of the old model it does not."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint: its files are found and vetted when it is made, its weights are loaded by `open`.

    Raises:
        BadInput: when it is missing, is no checkpoint, or could only be read by executing code.
    """

    path: Path | str
    """A folder, a hub id `org/name[@revision]`, or `base+adapter`; afterwards what opens the same files again."""
    name: str = field(default="")
    """What to call it in results; the folder's or the repository's name when not given."""
    opening: Opening = field(default_factory=Opening, hash=False)
    """How it is opened."""
    _base: Place = field(init=False, repr=False, compare=False)
    _adapter: Place | None = field(init=False, repr=False, compare=False)
    _weights: list[Path] = field(init=False, repr=False, compare=False)
    _added: list[Path] = field(init=False, repr=False, compare=False)
    guard: GuardFiles | None = field(init=False, repr=False, compare=False)
    """The guard it wears when it is opened; None for an ordinary checkpoint."""

    def __post_init__(self) -> None:
        guard = _guard_at(self.path)
        base, adapter = locate(self.path if guard is None else guard.base, self.opening)
        weights = vetted_weights(base, self.opening)
        added = [] if adapter is None else vetted_adapter(adapter, self.opening)
        plain = adapter is None and base.repo is None
        name = base.name if adapter is None else f"{base.name}+{adapter.name}"
        address = base.address if adapter is None else f"{base.address}+{adapter.address}"
        if guard is not None:
            plain, address, name = False, str(guard.folder), guard.folder.name
        for field_name, value in (
            ("path", base.folder if plain else address),
            ("name", self.name or name),
            ("guard", guard),
            ("_base", base),
            ("_adapter", adapter),
            ("_weights", weights),
            ("_added", added),
        ):
            object.__setattr__(self, field_name, value)

    @property
    def plain(self) -> bool:
        """Whether it is stored whole: neither a base with an adapter, nor with a guard."""
        return self._adapter is None and self.guard is None

    @property
    def folder(self) -> Path:
        """The folder that holds the model's files; of `base+adapter` the base's."""
        return self._base.folder

    @property
    def address(self) -> str:
        """Text that opens the same files again: hub ids with the commit their revision stood for."""
        return str(self.path)

    @property
    def record(self) -> dict[str, Any]:
        """Where it came from and how it is opened, for a run's record."""
        return {
            "address": self.address,
            "commit": self._base.commit,
            "adapter_commit": self._adapter.commit if self._adapter else None,
            "opening": self.opening.model_dump(mode="json"),
        }

    @cached_property
    def shards(self) -> dict[str, str]:
        """sha256 of every file that decides what the model does: weights, config, tokenizer, adapter, trusted code."""
        patterns = (*BESIDE, *(("*.py",) if self.opening.trust_remote_code else ()))
        beside = {file for pattern in patterns for file in self.folder.glob(pattern) if file.is_file()}
        files = {file.name: file for file in {*beside, *self._weights}} | {f"adapter/{f.name}": f for f in self._added}
        files |= {f"guard/{file.name}": file for file in (self.guard.files if self.guard else ())}
        return {name: file_digest(file) for name, file in sorted(files.items())}

    @cached_property
    def digest(self) -> str:
        """sha256 over `shards`; the same wherever the files lie and whatever the folder is called."""
        return hashlib.sha256(json.dumps(self.shards, sort_keys=True).encode()).hexdigest()

    @cached_property
    def tokenizer_digest(self) -> str:
        """sha256 over the vocabulary, for telling whether two checkpoints read text alike."""
        tokenizer = self.tokenizer()
        return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()

    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer.

        Raises:
            BadInput: when its files cannot be read.
        """
        from workbench.checkpoint_load import read_tokenizer

        return read_tokenizer(self._base, self.opening)

    def config(self) -> Any:
        """The checkpoint's config, as transformers reads it.

        Raises:
            BadInput: when it cannot.
        """
        from workbench.checkpoint_load import read_config

        return read_config(self._base, self.opening)

    def open(
        self, device: str | None = None, dtype: str | None = None, check: bool = True
    ) -> "workbench.model.HookedModel":
        """Load the weights and prove that they are understood.

        Args:
            device: a torch device; as `opening` says when None.
            dtype: `auto` keeps the checkpoint's own; else a torch dtype name; as `opening` says when None.
            check: whether to run the self-check (`workbench.model_check`).

        Raises:
            BadInput: when its weights do not fit its config or the device, or the self-check fails.
        """
        from workbench.checkpoint_load import load, require_room
        from workbench.model import HookedModel

        said = {"device": device, "dtype": dtype}
        changed = {name: value for name, value in said.items() if value is not None}
        opening = Opening(**(self.opening.model_dump() | changed))
        self.config()
        tokenizer = self.tokenizer()
        with quiet_transformers():
            hf = load(self._base, self._weights, self._adapter, opening)
        require_room(tokenizer, hf, self.address)
        guard = self.guard
        digest = self.digest if guard is None else self._below().digest
        model = HookedModel(hf, tokenizer, name=self.name, digest=digest, folder=self.folder, check=check)
        if guard is not None:
            model.stays.enter_context(guard.edit().on(model))
        return model

    def _below(self) -> "Checkpoint":
        """What the guard was made for.

        Raises:
            BadInput: when something else lies there now.
        """
        assert self.guard is not None
        found = Checkpoint(self.guard.base, opening=self.opening)
        if found.digest != self.guard.base_digest:
            raise BadInput(
                f"The guard {str(self.guard.folder)!r} was made for a model with sha256 {self.guard.base_digest[:12]}, "
                f"but {self.guard.base} has {found.digest[:12]}: put the old model back, or make the guard again"
            )
        return found


def _guard_at(given: Path | str) -> GuardFiles | None:
    """The guard in a folder that is named; None for anything else."""
    return guard_in(Path(given).expanduser()) if isinstance(given, Path) or is_folder(given) else None


def save_checkpoint(model: "workbench.model.HookedModel", out: Path) -> Checkpoint:
    """Write the open model, with whatever weight edits it wears, as an ordinary Hugging Face folder.

    Config, tokenizer and licence files of the source folder are copied verbatim (`COPIED`). The folder appears whole
    or not at all.

    Raises:
        BadInput: when `out` exists already or cannot be written.
    """
    if out.exists():
        raise BadInput(f"{str(out)!r} exists already; name a new folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
            building = Path(temporary) / "checkpoint"
            with quiet_transformers():
                model.hf.save_pretrained(building)
            if model.folder is None:
                model.tokenizer.save_pretrained(building)
            else:
                for file in (file for pattern in COPIED for file in model.folder.glob(pattern)):
                    shutil.copyfile(file, building / file.name)
            os.rename(building, out)
    except OSError as error:
        raise BadInput(f"Cannot write the checkpoint to {str(out)!r}: {error.strerror or error}") from None
    return Checkpoint(out)


def file_digest(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class quiet_transformers:
    """Silence the bars and reports of transformers and accelerate: progress and errors are ours to show."""

    def __enter__(self) -> None:
        from transformers.utils import logging as hf_logging

        self._level, self._bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
        self._accelerate = logging.getLogger("accelerate").level
        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()
        logging.getLogger("accelerate").setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging as hf_logging

        hf_logging.set_verbosity(self._level)
        logging.getLogger("accelerate").setLevel(self._accelerate)
        if self._bars:
            hf_logging.enable_progress_bar()
