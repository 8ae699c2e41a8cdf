"""`Checkpoint`: a model on disk, known by the sha256 of its files, opened as a `HookedModel`.

Any ordinary Hugging Face folder will do. Nothing in it is executed: remote code is off and weights must be
safetensors (pickled weights can run code when they are read, so they are refused).
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

from workbench.errors import BadInput

if TYPE_CHECKING:
    import workbench.model

log = logging.getLogger("workbench")

WEIGHT_FILES = "*.safetensors"

COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "chat_template*",
    "LICENSE*",
)
"""Files that an edited checkpoint takes over verbatim; a model card or measurements of the old model it does not."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder.

    Raises:
        BadInput: when the folder is missing, is no checkpoint, or could only be read by executing code.
    """

    path: Path | str
    """Folder with config.json, tokenizer and safetensors weights."""
    name: str = field(default="")
    """What to call it in results; the folder's name when not given."""

    def __post_init__(self) -> None:
        folder = Path(self.path).expanduser()
        object.__setattr__(self, "path", folder)
        object.__setattr__(self, "name", self.name or folder.resolve().name)
        if not folder.is_dir():
            raise BadInput(
                f"There is no checkpoint folder {str(folder)!r}. Give the path of a Hugging Face folder "
                "(config.json, tokenizer files, *.safetensors); `workbench demo` makes some to try"
            )
        if not (folder / "config.json").is_file():
            raise BadInput(
                f"{str(folder)!r} has no config.json, so it is not a checkpoint folder. It holds: "
                f"{', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'}"
            )
        if not any(folder.glob(WEIGHT_FILES)):
            raise BadInput(
                f"{str(folder)!r} has no *.safetensors weights. Pickled weights (*.bin, *.pt) can execute code "
                "when read and are refused; convert them with `save_pretrained` in a sandbox first"
            )
        if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
            raise BadInput(
                f"{str(folder)!r} has no tokenizer (tokenizer.json); copy the base model's tokenizer files in"
            )

    @property
    def folder(self) -> Path:
        """The folder as a path."""
        return Path(self.path)

    @cached_property
    def shards(self) -> dict[str, str]:
        """sha256 of every file that decides what the model does: weights, config and tokenizer."""
        files = [
            *self.folder.glob(WEIGHT_FILES),
            self.folder / "config.json",
            *self.folder.glob("tokenizer*"),
            *self.folder.glob("vocab.json"),
            *self.folder.glob("merges.txt"),
        ]
        return {file.name: file_digest(file) for file in sorted(set(files)) if file.is_file()}

    @cached_property
    def digest(self) -> str:
        """sha256 over `shards`; the same wherever the folder lies and whatever it is called."""
        return hashlib.sha256(json.dumps(self.shards, sort_keys=True).encode()).hexdigest()

    @cached_property
    def tokenizer_digest(self) -> str:
        """sha256 over the vocabulary, for telling whether two checkpoints read text alike."""
        tokenizer = self.tokenizer()
        return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()

    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, local_files_only=True, trust_remote_code=False)

    def open(self, device: str = "cpu", dtype: str = "auto", check: bool = True) -> "workbench.model.HookedModel":
        """Load the weights and prove that they are understood.

        Args:
            device: a torch device.
            dtype: `auto` keeps the checkpoint's own; else a torch dtype name.
            check: whether to run the self-check (`workbench.model_check`).

        Raises:
            BadInput: when the folder needs remote code, its weights do not fit its config, or the self-check fails.
        """
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM

        from workbench.model import HookedModel

        self._refuse_code()
        try:
            with quiet_transformers():
                hf, info = AutoModelForCausalLM.from_pretrained(
                    self.folder,
                    dtype=dtype,
                    attn_implementation="eager",
                    local_files_only=True,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise BadInput(f"Cannot load {str(self.folder)!r}: {str(error).strip()[:300]}") from None
        missing = sorted(info["missing_keys"])
        if missing:
            raise BadInput(
                f"{str(self.folder)!r} lacks {len(missing)} tensors its config asks for, first {missing[0]!r}; "
                "they would be random. Is a shard missing?"
            )
        return HookedModel(
            hf.to(device), self.tokenizer(), name=self.name, digest=self.digest, folder=self.folder, check=check
        )

    def _refuse_code(self) -> None:
        config = json.loads((self.folder / "config.json").read_text())
        if "auto_map" in config:
            raise BadInput(
                f"{str(self.folder)!r} asks for its own Python code (auto_map in config.json), which is not "
                "executed. Convert it to an architecture that transformers knows"
            )


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
    """Silence transformers' bars and report: progress is the caller's to show."""

    def __enter__(self) -> None:
        from transformers.utils import logging as hf_logging

        self._level = hf_logging.get_verbosity()
        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from transformers.utils import logging as hf_logging

        hf_logging.set_verbosity(self._level)
