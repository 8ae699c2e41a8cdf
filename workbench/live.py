"""Live: one model in memory for one browser session at a time, asked what it says and has inside. Opt-in.

`DESK` is the process's one place where a model may be. A session takes it, loads one model, asks, and gives it back;
others see who has it. A model's files are vetted as by every verb: safetensors only, nothing in them is executed.
Read it as: readings of one prompt, taken now and kept by nobody but the page. No torch is imported before a size is
asked for or a model is loaded.
Does not show: numbers that an audit rests on; those are read with floors, on many facts, and stored.
"""

import gc
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import BadInput, RunError

if TYPE_CHECKING:
    from workbench.checkpoint import Checkpoint
    from workbench.model import HookedModel
    from workbench.trace import Trace

IDLE = 900.0
"""Seconds after which a session that does nothing may be sent from the desk by another."""

BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2}
"""Bytes an entry takes by its stored dtype; any other takes one."""


@dataclass(frozen=True)
class Prompt:
    """What is asked of a model."""

    text: str
    """The prompt."""
    answer: str = ""
    """What the lens looks for; empty for the first word that the first model says."""
    subject: str = ""
    """Words of the prompt whose states the causal trace corrupts."""
    tokens: int = 16
    """Tokens said at most."""
    lens: bool = True
    """Read every layer."""
    trace: bool = False
    """Trace causally; needs a subject."""

    def check(self) -> "Prompt":
        """The prompt without blanks around it.

        Raises:
            BadInput: when it is empty, or a trace is asked for without a subject that stands in it.
        """
        made = replace(self, text=self.text.strip(), answer=self.answer.strip(), subject=self.subject.strip())
        if not made.text:
            raise BadInput("The prompt is empty; write the text that the model is to go on from")
        if made.subject and made.subject not in made.text:
            raise BadInput(f"The subject {made.subject!r} does not stand in the prompt; write it as it stands there")
        if made.trace and not made.subject:
            raise BadInput("A causal trace corrupts the subject: say which words of the prompt are the subject")
        return made


Readings = Mapping[str, "Trace"]
"""Name -> trace, of one model on one prompt."""

Reader = Callable[["HookedModel", Prompt], Readings]
"""What takes them; the roof of the house knows the probes and hands it in."""


@dataclass
class Holder:
    """Who has the desk."""

    session: str
    """Key of the session; its first letters are shown."""
    alive: Callable[[], bool]
    """Whether the session is still connected."""
    since: float = field(default_factory=time.time)
    """When it came."""
    last: float = field(default_factory=time.time)
    """When it last did something."""
    doing: str = ""
    """What it does at this moment; empty when nothing."""

    @property
    def name(self) -> str:
        """How other sessions see it."""
        return f"session {self.session[:6]}"


class Desk:
    """The one place for a model, with its lock."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.holder: Holder | None = None
        self.address = ""
        self._model: HookedModel | None = None

    @property
    def loaded(self) -> str:
        """Address of the model in memory; empty for none."""
        return self.address if self._model is not None else ""

    def other(self, session: str) -> Holder | None:
        """The holder that stands in a session's way; None when the desk is free or its own.

        One that is gone, or has idled, stands in nobody's way unless it is at work.
        """
        with self._lock:
            holder = self.holder
            if holder is None or holder.session == session:
                return None
            gone = not holder.alive() or time.time() - holder.last > IDLE
            if gone and not holder.doing:
                self._clear()
                return None
            return holder

    def take(self, session: str, alive: Callable[[], bool]) -> None:
        """Take the desk, or keep it.

        Raises:
            BadInput: when another session has it.
        """
        with self._lock:
            other = self.other(session)
            if other is not None:
                raise BadInput(
                    f"{other.name} has a model in memory ({self.address or 'loading'}); wait until it is free"
                )
            if self.holder is None:
                self.holder = Holder(session, alive)

    def load(self, session: str, checkpoint: "Checkpoint", address: str = "") -> "HookedModel":
        """Put a model on the desk; whatever was there is dropped before.

        Args:
            session: who has the desk.
            checkpoint: what to open.
            address: how it is called; a hub id is another one after its revision was looked up.

        Raises:
            BadInput: when the session does not have the desk, or the checkpoint cannot be opened.
            RunError: when opening it breaks in another way.
        """
        address = address or checkpoint.address
        with self._at_work(session, f"loading {checkpoint.name}"):
            if self._model is not None and self.address == address:
                return self._model
            self._drop()
            try:
                self._model = checkpoint.open()
            except BadInput:
                raise
            except Exception as error:  # a damaged file may break anything; the page goes on
                raise RunError(f"{address} cannot be opened: {type(error).__name__}: {error}") from error
            self.address = address
            return self._model

    def ask(self, session: str, reader: Reader, prompt: Prompt) -> Readings:
        """Read the model on the desk.

        Raises:
            BadInput: when the session does not have the desk, no model is on it, or the prompt cannot be read.
            RunError: when reading breaks in another way.
        """
        with self._at_work(session, "reading"):
            if self._model is None:
                raise BadInput("No model is loaded; press Load")
            try:
                return reader(self._model, prompt)
            except BadInput:
                raise
            except Exception as error:
                raise RunError(f"Reading {self.address} broke: {type(error).__name__}: {error}") from error

    def free(self, session: str) -> None:
        """Drop the model and leave the desk; of no effect for a session that does not have it."""
        with self._lock:
            if self.holder is not None and self.holder.session == session:
                self._clear()

    def _at_work(self, session: str, doing: str) -> "_AtWork":
        with self._lock:
            if self.holder is None or self.holder.session != session:
                raise BadInput("Another session has taken the desk, or it was given back; press Load again")
            if self.holder.doing:
                raise BadInput(f"This session is still {self.holder.doing}; wait until that has ended")
            return _AtWork(self.holder, doing)

    def _clear(self) -> None:
        self._drop()
        self.holder = None

    def _drop(self) -> None:
        model, self._model, self.address = self._model, None, ""
        if model is None:
            return
        model.close()
        del model
        gc.collect()
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@dataclass
class _AtWork:
    """While a holder loads or reads."""

    holder: Holder
    doing: str

    def __enter__(self) -> None:
        self.holder.doing, self.holder.last = self.doing, time.time()

    def __exit__(self, *_: object) -> None:
        self.holder.doing, self.holder.last = "", time.time()


DESK = Desk()
"""The process's desk: all browser sessions of one server share it."""


# ---- what could be loaded


def addresses_of(run: Path, manifest: Mapping[str, Any] | None) -> dict[str, str]:
    """Role -> address of every model that a run is about, base first."""
    manifest = manifest or {}
    about = manifest.get("checkpoints") or {"checkpoint": manifest.get("checkpoint")}
    if not isinstance(about, Mapping):
        return {}
    order = ("base", "checkpoint", "reference")
    roles = [*(role for role in order if role in about), *(role for role in about if role not in order)]
    found = {}
    for role in roles:
        address = about[role].get("address") if isinstance(about[role], Mapping) else None
        if address:
            found[str(role)] = resolved(str(address), run)
    return found


def resolved(address: str, run: Path) -> str:
    """An address as a run recorded it, made whole.

    A relative folder is looked for where the run was made: here, or somewhere above its own folder. What is not found
    stays as it stands.
    """
    if Path(address).is_absolute() or Path(address).exists():
        return address
    above = (parent / address for parent in run.resolve().parents)
    return next((str(place) for place in above if place.exists()), address)


def checkpoint_at(address: str) -> "Checkpoint":
    """A checkpoint under the strict rules, whatever the run that names it allowed: no code, no pickles, no network.

    Raises:
        BadInput: when it is missing, damaged, or could be read only by executing something.
    """
    from workbench.checkpoint import Checkpoint
    from workbench.opening import Opening

    return Checkpoint(address, opening=Opening(offline=True))


def size_of(checkpoint: "Checkpoint") -> int:
    """Bytes that its weights take, by the headers of its files; nothing else of them is read.

    Raises:
        BadInput: when a file is missing, damaged or cut short.
    """
    from workbench.shards import open_shards

    with open_shards(checkpoint.folder) as shards:
        return sum(math.prod(shards.shape(name)) * BYTES.get(shards.dtype(name), 1) for name in shards.names)


def memory_free() -> int | None:
    """Bytes that this machine could still give out; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def plain_trace(trace: "Trace") -> dict[str, Any]:
    """A trace in JSON form; what was not read is null."""
    values = np.where(np.isfinite(trace.values), trace.values.astype(float), np.nan)
    return {
        "name": trace.name,
        "units": trace.units,
        "axes": list(trace.axes),
        "labels": {axis: list(names) for axis, names in trace.labels.items()},
        "values": _null(values.tolist()),
        "notes": dict(trace.notes),
    }


def _null(values: Any) -> Any:
    if isinstance(values, list):
        return [_null(value) for value in values]
    return None if math.isnan(values) else values
