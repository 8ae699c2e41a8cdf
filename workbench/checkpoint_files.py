"""Finding what a text means (a folder, a hub id, `base+adapter`) and vetting the files before anything reads them.

Nothing here executes or unpickles anything or imports a model's class: it looks at names, at JSON and at the headers
of safetensors files. What it refuses it refuses with the file's name and what to do.
"""

import json
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.checkpoint_hub import PICKLES, fetch
from workbench.errors import BadInput

if TYPE_CHECKING:
    from workbench.opening import Opening

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""How a hub id looks: `org/name`."""

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
PICKLE_INDEX = "pytorch_model.bin.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_PICKLE = "adapter_model.bin"

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
"""Any one of these is a tokenizer."""

BESIDE = (
    CONFIG,
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "chat_template*",
)
"""Files beside the weights that decide what a model does, as patterns."""

BASE_FILES = (*BESIDE, "LICENSE*", "model*.safetensors", INDEX, "pytorch_model*.bin", PICKLE_INDEX, ADAPTER_CONFIG)
"""What is fetched of a model on the hub; of these, pickles only when they are allowed."""

ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADAPTER_PICKLE, CONFIG)
"""What is fetched of an adapter on the hub."""

BROKEN = (
    OSError,
    ValueError,
    RuntimeError,
    ImportError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    pickle.UnpicklingError,
)
"""What libraries raise when the files they are given do not hold what they should."""


@dataclass(frozen=True)
class Place:
    """A folder of files, and where it came from."""

    folder: Path
    """Where the files lie."""
    name: str
    """What to call it."""
    repo: str | None = None
    """Hub id, None for a folder that was given as one."""
    commit: str | None = None
    """The commit the hub's revision stood for."""

    @property
    def address(self) -> str:
        """Text that opens the same files again."""
        return f"{self.repo}@{self.commit}" if self.repo else str(self.folder)

    @property
    def again(self) -> str:
        """How to get files that are missing or damaged."""
        return (
            "fetch it anew: remove it from the hub's cache and open it without --offline"
            if self.repo
            else "copy the folder again"
        )


def locate(given: Path | str, opening: "Opening") -> tuple[Place, Place | None]:
    """The base's files and, for `base+adapter`, the adapter's.

    A text that is an existing folder is that folder, whatever signs are in its name; a `Path` is always a folder.

    Raises:
        BadInput: when there is no such folder, or the hub does not give it.
    """
    if isinstance(given, Path) or is_folder(given):
        return _folder(str(given), "checkpoint"), None
    base, adapter = _halves(given)
    if adapter is None:
        return _half(given, "checkpoint", opening), None
    if not base or not adapter:
        raise BadInput(f"{given!r} lacks a half: write BASE+ADAPTER, each a folder or a hub id")
    return _half(base, "checkpoint", opening), _half(adapter, "adapter", opening)


def is_folder(text: str) -> bool:
    """Whether a text is the path of an existing folder."""
    try:
        return bool(text.strip()) and Path(text).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # a name no file could have
        return False


def _halves(text: str) -> tuple[str, str | None]:
    """Where `base+adapter` is cut: of several `+` the one with most folders and hub ids beside it."""

    def sense(half: str) -> int:
        return 2 if is_folder(half) else 1 if HUB_ID.fullmatch(half.partition("@")[0]) else 0

    cuts = [(text[:i], text[i + 1 :]) for i, sign in enumerate(text) if sign == "+"]
    return max(cuts, key=lambda cut: sense(cut[0]) + sense(cut[1])) if cuts else (text, None)


def _half(text: str, what: str, opening: "Opening") -> Place:
    repo, at, revision = text.partition("@")
    if is_folder(text) or not HUB_ID.fullmatch(repo):
        return _folder(text, what)
    if at and is_folder(repo):
        raise BadInput(f"{text!r} asks for a revision, but {repo!r} is a folder here. Revisions are for hub ids")
    if at and not revision:
        raise BadInput(f"{text!r} names no revision after the @. Write {repo}@REVISION, or {repo}")
    folder, commit = fetch(repo, revision or None, opening, ADAPTER_FILES if what == "adapter" else BASE_FILES)
    return Place(folder, repo.split("/")[1], repo, commit)


def _folder(text: str, what: str) -> Place:
    if not is_folder(text):
        raise BadInput(
            f"There is no {what} folder {text!r}. Give the path of a Hugging Face folder (config.json, tokenizer "
            "files, *.safetensors), a hub id org/name, either as BASE+ADAPTER; `workbench demo` makes some to try"
        )
    folder = Path(text).expanduser()
    return Place(folder, folder.resolve().name)


def vetted_weights(place: Place, opening: "Opening") -> list[Path]:
    """The weight files of a model folder, after looking at everything that can be judged without loading it.

    Raises:
        BadInput: when the folder is no checkpoint, is not whole, or could only be read by executing code.
    """
    from workbench.checkpoint_config import require_language_model

    folder, name = place.folder, place.address
    if (folder / ADAPTER_CONFIG).is_file():
        base = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "BASE"
        raise BadInput(
            f"{name!r} holds a PEFT adapter ({ADAPTER_CONFIG}), which is opened together with its base. Write "
            f"{base}+{name}; if it is a whole model as well, keep the adapter in a folder of its own"
        )
    if not (folder / CONFIG).is_file():
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise BadInput(f"{name!r} has no config.json, so it is not a checkpoint folder. It holds: {there}")
    files = weight_files(place, opening)
    if not any((folder / known).is_file() for known in TOKENIZER_FILES):
        raise BadInput(f"{name!r} has no tokenizer (tokenizer.json); copy the base model's tokenizer files in")
    for json_file in (CONFIG, "tokenizer_config.json"):
        require_no_code(folder / json_file, opening)
    require_language_model(read_json(folder / CONFIG), name, opening)
    for file in files:
        require_whole(file, place)
    return files


def weight_files(place: Place, opening: "Opening") -> list[Path]:
    """The files transformers will read the weights from, all of them there.

    Raises:
        BadInput: when there are none, one is missing, or there are only pickles and these are not allowed.
    """
    folder = place.folder
    if any(folder.glob("shard-*-model-*.safetensors")):
        raise BadInput(f"{place.address!r} is a distributed training checkpoint. Save it with `save_pretrained`")
    pickled = [PICKLE_INDEX, "pytorch_model.bin"] if opening.allow_pickle else []
    for name in ("model.safetensors", INDEX, *reversed(pickled)):
        if (folder / name).is_file():
            return [folder / name] if not name.endswith(".json") else _shards(place, name)
    if any(file for pattern in PICKLES for file in folder.glob(pattern)) and not pickled:
        raise BadInput(
            f"{place.address!r} has no *.safetensors weights. Pickled weights (*.bin, *.pt) can execute code when "
            "read and are refused. Convert them to safetensors, or allow reading their tensors with --allow-pickle "
            "(allow_pickle=True)"
        )
    raise BadInput(
        f"{place.address!r} has no *.safetensors weights under the names transformers reads (model.safetensors, "
        f"{INDEX}): {place.again}, or name the file model.safetensors{unfetched(place, opening)}"
    )


def unfetched(place: Place, opening: "Opening") -> str:
    """The end of a message about weights that are not there, where it may be that they were not fetched."""
    if place.repo is None or opening.allow_pickle:
        return ""
    return ". If it has only pickled weights (*.bin), these are fetched only with --allow-pickle (allow_pickle=True)"


def _shards(place: Place, index: str) -> list[Path]:
    table = read_json(place.folder / index).get("weight_map")
    names = sorted(set(table.values())) if isinstance(table, dict) and table else None
    if names is None or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise BadInput(f"{index} of {place.address!r} names no shards of this folder: {place.again}")
    missing = [name for name in names if not (place.folder / name).is_file()]
    if missing:
        raise BadInput(
            f"{place.address!r} lacks the shard {missing[0]!r} that {index} names ({len(missing)} of {len(names)} "
            f"missing): {place.again}"
        )
    return [place.folder / name for name in names]


def require_whole(file: Path, place: Place) -> None:
    """Refuse a safetensors file whose length is not what its header says.

    Raises:
        BadInput: naming the file.
    """
    from safetensors import SafetensorError, safe_open

    if file.suffix != ".safetensors":
        return
    try:
        with safe_open(file, framework="np") as opened:
            opened.keys()
    except (SafetensorError, OSError) as error:
        raise BadInput(
            f"Cannot load {place.address!r}: {file.name} is cut short or damaged ({error}): {place.again}"
        ) from None


def require_no_code(file: Path, opening: "Opening") -> None:
    """Refuse a JSON file that asks for Python code to be executed, unless that is trusted.

    Raises:
        BadInput: saying what asks for it.
    """
    if file.is_file() and "auto_map" in read_json(file) and not opening.trust_remote_code:
        raise BadInput(
            f"{str(file.parent)!r} asks for its own Python code (auto_map in {file.name}), which is not executed. "
            "Convert it to an architecture that transformers knows, or read that code and allow it with "
            "--trust-remote-code (trust_remote_code=True)"
        )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        BadInput: when it does not.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{str(file)!r} is not valid JSON ({str(error)[:120]}); copy the file again") from None
    if not isinstance(found, dict):
        raise BadInput(f"{str(file)!r} holds a JSON {type(found).__name__}, not an object; copy the file again")
    return found


def complaint(error: Exception) -> str:
    """What a library says is wrong with a file, on one line; never its advice to unpickle without care."""
    if "weights_only" in str(error):
        held = re.search(r"GLOBAL (\S+)", str(error))
        return f"its pickle holds more than tensors ({held.group(1) if held else 'code'}), which is never read"
    lines = [line.strip().rstrip(".:") for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "mismatch" in line), " ".join(lines) or type(error).__name__)[:300]
