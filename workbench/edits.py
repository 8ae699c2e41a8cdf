"""`Edit`: a change to a model, as data. It is put on and taken off; the model underneath is restored bit for bit.

    WeightEdit    new values of parameters: an unlearning that can be written back as a checkpoint
    HookEdit      an operator at a site while the model runs: a guard (the weights still hold everything)
    PromptEdit    a template round every prompt: a jailbreak, or an instruction to forget

An edit remembers the model it was fitted to and refuses another one. `made_by` says which method with which options
made it, so a result can always name its cause.
"""

import contextlib
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from workbench.changes import Change, kept
from workbench.checkpoint import Checkpoint
from workbench.errors import BadInput, Diverged
from workbench.guards import Worn
from workbench.low_rank_change import LowRank
from workbench.model import HookedModel
from workbench.operators import OPERATORS, Operator
from workbench.receipts import edited, parameter_of, receipt_rows
from workbench.sites import Site
from workbench.speech import Speech
from workbench.store import write_atomically, write_json
from workbench.trace import beside
from workbench.triggers import Trigger

__all__ = [
    "OPERATORS",
    "Change",
    "Edit",
    "HookEdit",
    "Operator",
    "PromptEdit",
    "WeightEdit",
    "fit_weights",
    "kept",
    "load_edit",
]

STREAM = ("embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Parts as wide as the residual stream."""


@dataclass(frozen=True)
class Edit(ABC):
    """What every edit has."""

    fitted_to: str
    """`HookedModel.identity` it was fitted to; empty for an edit that fits any model."""
    made_by: Mapping[str, Any]
    """Method and options (`Method.spec()`)."""
    notes: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """What the method wants a reader to know: sites used, sites left out, losses."""
    kind: ClassVar[str]

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything numeric, by name, for saving."""

    @abstractmethod
    def words(self) -> dict[str, Any]:
        """Everything else that `load_edit` needs, in JSON form."""

    @abstractmethod
    def on(self, model: HookedModel) -> AbstractContextManager[None]:
        """Put the edit on for the length of a `with` block.

        Raises:
            BadInput: when the edit was fitted to another model.
        """

    @property
    def digest(self) -> str:
        """sha256 over the change itself."""
        total = hashlib.sha256(json.dumps([self.kind, self.words()], sort_keys=True).encode())
        for name, tensor in sorted(self.tensors().items()):
            total.update(name.encode())
            total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return total.hexdigest()

    def save(self, path: Path) -> list[Path]:
        """Write `<path>.safetensors` and `<path>.json`."""
        from safetensors.torch import save

        numbers, words = beside(path, ".safetensors"), beside(path, ".json")
        write_atomically(numbers, save({name: t.detach().cpu().contiguous() for name, t in self.tensors().items()}))
        write_json(
            words,
            {
                "kind": self.kind,
                "fitted_to": self.fitted_to,
                "made_by": dict(self.made_by),
                "notes": dict(self.notes),
                "words": self.words(),
                "digest": self.digest,
            },
        )
        return [numbers, words]

    def require_fit(self, model: HookedModel) -> None:
        """Raise `BadInput` unless it was fitted to this model."""
        if self.fitted_to and self.fitted_to != model.identity:
            raise BadInput(
                f"This edit was fitted to model {self.fitted_to[:12]}, but {model.name} is "
                f"{model.identity[:12]}. Fit it again on this model"
            )

    def _repr_html_(self) -> str:
        from workbench.figures import edit_card

        return edit_card(self)


@dataclass(frozen=True)
class WeightEdit(Edit):
    """New values of some parameters, or products of thin matrices to add to them."""

    changes: Mapping[str, Change | LowRank] = field(kw_only=True)
    """Parameter name -> new values, or what is added."""
    kind: ClassVar[str] = "weights"

    def tensors(self) -> dict[str, Tensor]:
        """Everything numeric, by name."""
        return {f"{name}|{part}": t for name, change in self.changes.items() for part, t in change.stored().items()}

    def words(self) -> dict[str, Any]:
        """Everything else, in JSON form."""
        return {"low_rank": {name: change.words() for name, change in self.low_rank.items()}} if self.low_rank else {}

    @property
    def low_rank(self) -> dict[str, LowRank]:
        """The changes that a low-rank adapter makes."""
        return {name: change for name, change in self.changes.items() if isinstance(change, LowRank)}

    @contextlib.contextmanager
    def on(self, model: HookedModel) -> Iterator[None]:
        """Put the edit on for the length of a `with` block."""
        self.require_fit(model)
        with kept(model, list(self.changes)), model.wearing(self.digest):
            with torch.no_grad():
                for name, change in self.changes.items():
                    change.apply(parameter_of(model.hf, name))
            yield

    def write(self, model: HookedModel | Checkpoint, out: Path | str) -> Checkpoint:
        """Write a new checkpoint folder in which exactly the edited tensors differ (`workbench.edited_folder`).

        Args:
            model: what the edit was fitted to, open or as a folder (opened in its own dtype).
            out: the folder to make; a receipt of the edit is put into it.

        Raises:
            BadInput: when the edit was fitted to another model, or cannot be written there.
            RunError: when what was written is not what the edit says; it is removed.
        """
        from workbench.edited_folder import write_edited

        if isinstance(model, Checkpoint):
            with model.open(dtype="auto") as opened:
                return self.write(opened, out)
        self.require_fit(model)
        return write_edited(self, model, Path(out))

    def receipt(self, model: HookedModel) -> list[dict[str, Any]]:
        """What the edit changes: a row for every stored tensor, and for every expert in a fused one.

        Raises:
            BadInput: when the edit was fitted to another model.
        """
        from workbench.edited_folder import stored_names

        self.require_fit(model)
        stored = stored_names(model.folder)
        pairs = edited(model.hf, self.changes)
        return [row for name, old, new in pairs for row in receipt_rows(model.hf, name, old, new, stored)]


def fit_weights(
    model: HookedModel,
    names: Sequence[str],
    change: Callable[[], Mapping[str, Any] | None],
    made_by: Mapping[str, Any],
    *,
    partly: bool = False,
) -> WeightEdit:
    """Let `change` alter some parameters of the model in place, record what it did, and undo it.

    Args:
        model: the model to fit on; it is the same bits afterwards, also after an error.
        names: parameters, or slices of them, that `change` may alter.
        change: does the altering; what it returns becomes the edit's notes.
        made_by: method and options.
        partly: whether a training inside that diverges has done a part of it: what was kept then goes with the error.
    """
    identity = model.identity
    with kept(model, names) as before:
        try:
            notes = change() or {}
        except Diverged as error:
            if partly and error.kept:
                notes = {"diverged": str(error), "kept_after_step": error.kept}
                error.edit = WeightEdit(identity, made_by, notes=notes, changes=_changes(model, before))
            raise
        changes = _changes(model, before)
    return WeightEdit(identity, made_by, notes=notes, changes=changes)


def _changes(model: HookedModel, before: Mapping[str, Tensor]) -> dict[str, Change]:
    """What differs from before."""
    found = {name: Change.between(old, model.hf.get_parameter(name).detach()) for name, old in before.items()}
    return {name: change for name, change in found.items() if change is not None}


@dataclass(frozen=True)
class HookEdit(Edit):
    """A guard: operators at sites while the model runs, and what becomes of its logits.

    The weights are untouched: dropping the hook brings everything back.
    """

    operators: Mapping[Site, Operator] = field(default_factory=dict, kw_only=True)
    """Site -> operator."""
    trigger: Trigger | None = field(default=None, kw_only=True)
    """Which prompts it acts on; None for all."""
    speech: Speech | None = field(default=None, kw_only=True)
    """What becomes of the next-token logits."""
    kind: ClassVar[str] = "hooks"

    def tensors(self) -> dict[str, Tensor]:
        """Everything numeric, by name."""
        found = {f"{site}|{key}": tensor for site, op in self.operators.items() for key, tensor in op.stored().items()}
        for part, given in (("trigger", self.trigger), ("speech", self.speech)):
            found |= {f"{part}|{key}": tensor for key, tensor in (given.tensors.items() if given else ())}
        return found

    def words(self) -> dict[str, Any]:
        """Everything else, in JSON form."""
        words: dict[str, Any] = {"operators": {str(site): op.words() for site, op in self.operators.items()}}
        parts = {"trigger": self.trigger, "speech": self.speech}
        return words | {part: given.words() for part, given in parts.items() if given}

    @contextlib.contextmanager
    def on(self, model: HookedModel) -> Iterator[None]:
        """Put the edit on for the length of a `with` block.

        Raises:
            BadInput: when it was fitted to another model, which lacks a site or has another width there.
        """
        self.require_fit(model)
        for site, operator in self.operators.items():
            model.tap(site)
            _require_width(model, site, operator)
        here = {site: operator.ready(model.hf.dtype, model.device) for site, operator in self.operators.items()}
        standing = [(site, _single(op) if _is_entry(site) else op) for site, op in here.items()]
        if self.trigger:
            model.tap(self.trigger.site)
        with model.wearing(self.digest, Worn(self.trigger, standing, self.speech, self.digest)):
            yield


def _is_entry(site: Site) -> bool:
    """Whether the site is one number a token, which a model hands out without its last axis."""
    return site.index is not None and site.part not in ("head", "expert")


def _single(operator: Operator) -> Callable[[Tensor], Tensor]:
    """The operator on an axis of one entry."""
    return lambda value: operator(value[..., None])[..., 0]


def _require_width(model: HookedModel, site: Site, operator: Operator) -> None:
    wide = 1 if _is_entry(site) else model.d_model if site.part in STREAM else None
    if wide is None:
        return
    if operator.width not in (None, wide):
        raise BadInput(f"{site} of {model.name} has width {wide}, but its operator was made for {operator.width}")
    if operator.index is not None and len(operator.index) and int(operator.index.max()) >= wide:
        raise BadInput(f"{site} of {model.name} has width {wide}, so no entry {int(operator.index.max())}")


@dataclass(frozen=True)
class PromptEdit(Edit):
    """A template round every prompt."""

    template: str = field(kw_only=True)
    """Text with `{prompt}` once, and optionally `{subject}`."""
    kind: ClassVar[str] = "prompt"

    def __post_init__(self) -> None:
        if self.template.count("{prompt}") != 1:
            raise BadInput(f"The template {self.template!r} must hold {{prompt}} exactly once")

    def tensors(self) -> dict[str, Tensor]:
        """Everything numeric, by name."""
        return {}

    def words(self) -> dict[str, Any]:
        """Everything else, in JSON form."""
        return {"template": self.template}

    @contextlib.contextmanager
    def on(self, model: HookedModel) -> Iterator[None]:
        """Put the edit on for the length of a `with` block."""
        self.require_fit(model)
        with model.wearing(self.digest, template=self.template):
            yield


def load_edit(path: Path) -> Edit:
    """Read what `Edit.save` wrote.

    Raises:
        BadInput: when a file is missing or damaged, or of a kind this version does not know.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        words = json.loads(beside(path, ".json").read_text())
        numbers = load_file(beside(path, ".safetensors"))
        head = (words["fitted_to"], words["made_by"])
        edit = _BUILD[words["kind"]](head, words, numbers)
    except BadInput:  # says what is wrong itself
        raise
    except (OSError, SafetensorError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise BadInput(f"Cannot read the edit {path}: {type(error).__name__} {error}") from None
    if edit.digest != words["digest"]:
        raise BadInput(f"The edit {path} is damaged: its content does not match its digest")
    return edit


def _weights(head: tuple[str, dict[str, Any]], words: dict[str, Any], numbers: dict[str, Tensor]) -> Edit:
    names = [key.removesuffix("|values") for key in numbers if key.endswith("|values")]
    changes: dict[str, Change | LowRank] = {
        name: Change(numbers[f"{name}|values"], numbers.get(f"{name}|index")) for name in names
    }
    for name, said in words["words"].get("low_rank", {}).items():
        changes[name] = LowRank.rebuilt(said, _under(name, numbers))
    return WeightEdit(*head, notes=words["notes"], changes=changes)


def _hooks(head: tuple[str, dict[str, Any]], words: dict[str, Any], numbers: dict[str, Tensor]) -> Edit:
    said = words["words"]
    operators = {Site.parse(t): Operator.rebuilt(w, _under(t, numbers)) for t, w in said["operators"].items()}
    trigger = Trigger.rebuilt(said["trigger"], _under("trigger", numbers)) if "trigger" in said else None
    speech = Speech.rebuilt(said["speech"], _under("speech", numbers)) if "speech" in said else None
    return HookEdit(*head, notes=words["notes"], operators=operators, trigger=trigger, speech=speech)


def _under(part: str, numbers: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{part}|"): t for key, t in numbers.items() if key.startswith(f"{part}|")}


def _prompt(head: tuple[str, dict[str, Any]], words: dict[str, Any], _: dict[str, Tensor]) -> Edit:
    return PromptEdit(*head, notes=words["notes"], template=words["words"]["template"])


_BUILD = {"weights": _weights, "hooks": _hooks, "prompt": _prompt}
