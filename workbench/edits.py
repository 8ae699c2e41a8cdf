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
from jaxtyping import Int
from torch import Tensor

from workbench.checkpoint import Checkpoint, save_checkpoint
from workbench.errors import BadInput, did_you_mean
from workbench.model import HookedModel
from workbench.sites import Site
from workbench.store import write_atomically, write_json
from workbench.trace import beside

SPARSE_BELOW = 0.25
"""A tensor of which a smaller share changed is stored as positions and values, else whole."""


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

    def _require_fit(self, model: HookedModel) -> None:
        if self.fitted_to and self.fitted_to != model.identity:
            raise BadInput(
                f"This edit was fitted to model {self.fitted_to[:12]}, but {model.name} is "
                f"{model.identity[:12]}. Fit it again on this model"
            )

    def _repr_html_(self) -> str:
        from workbench.figures import edit_card

        return edit_card(self)


@dataclass(frozen=True)
class Change:
    """New values of one parameter."""

    values: Tensor
    """The whole parameter, or the values at `index`."""
    index: Int[Tensor, " n"] | None = None
    """Flat positions of `values`; None for the whole parameter."""

    def apply(self, parameter: Tensor) -> None:
        """Write the values into a parameter, in place."""
        values = self.values.to(parameter.device, parameter.dtype)
        if self.index is None:
            parameter.copy_(values)
        else:
            parameter.view(-1)[self.index.to(parameter.device)] = values


@dataclass(frozen=True)
class WeightEdit(Edit):
    """New values of some parameters."""

    changes: Mapping[str, Change] = field(kw_only=True)
    """Parameter name -> new values."""
    kind: ClassVar[str] = "weights"

    def tensors(self) -> dict[str, Tensor]:
        """Everything numeric, by name."""
        found = {f"{name}|values": change.values for name, change in self.changes.items()}
        return found | {f"{n}|index": c.index for n, c in self.changes.items() if c.index is not None}

    def words(self) -> dict[str, Any]:
        """Everything else, in JSON form."""
        return {}

    @contextlib.contextmanager
    def on(self, model: HookedModel) -> Iterator[None]:
        """Put the edit on for the length of a `with` block."""
        self._require_fit(model)
        with kept(model, list(self.changes)), model.wearing(self.digest):
            with torch.no_grad():
                for name, change in self.changes.items():
                    change.apply(model.hf.get_parameter(name))
            yield

    def write(self, model: HookedModel, out: Path | str) -> Checkpoint:
        """Write the edited model as a new checkpoint folder in which exactly the edited tensors differ."""
        with self.on(model):
            return save_checkpoint(model, Path(out))

    def receipt(self, model: HookedModel) -> list[dict[str, Any]]:
        """What the edit changes, a row a tensor: how many entries, and the Frobenius norm of the change."""
        rows = []
        for name, change in self.changes.items():
            old = model.hf.get_parameter(name).detach()
            new = old.clone()
            change.apply(new)
            delta = (new.float() - old.float()).norm()
            rows.append(
                {
                    "tensor": name,
                    "shape": list(old.shape),
                    "entries_changed": int((new != old).sum()),
                    "norm_of_change": float(delta),
                    "relative": float(delta / old.float().norm()),
                }
            )
        return rows


@contextlib.contextmanager
def kept(model: HookedModel, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Lend parameters out: whatever happens to them inside, afterwards they hold the same bits as before.

    Yields:
        Copies of the parameters as they were.
    """
    parameters = {name: model.hf.get_parameter(name) for name in names}
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        yield before
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(before[name])


def fit_weights(
    model: HookedModel, names: Sequence[str], change: Callable[[], Mapping[str, Any] | None], made_by: Mapping[str, Any]
) -> WeightEdit:
    """Let `change` alter some parameters of the model in place, record what it did, and undo it.

    Args:
        model: the model to fit on; it is the same bits afterwards, also after an error.
        names: parameters that `change` may alter.
        change: does the altering; what it returns becomes the edit's notes.
        made_by: method and options.
    """
    identity = model.identity
    with kept(model, names) as before:
        notes = change() or {}
        changes = {name: _difference(old, model.hf.get_parameter(name).detach()) for name, old in before.items()}
    return WeightEdit(identity, made_by, notes=notes, changes={n: c for n, c in changes.items() if c is not None})


def _difference(old: Tensor, new: Tensor) -> Change | None:
    moved = (old != new).view(-1).nonzero()[:, 0]
    if not len(moved):
        return None
    if len(moved) < SPARSE_BELOW * old.numel():
        return Change(new.reshape(-1)[moved].clone(), moved)
    return Change(new.clone())


@dataclass(frozen=True)
class Operator:
    """One stored operation on the last axis of a site's value."""

    name: str
    """`project_out` (rows of `tensor` are an orthonormal basis), `add`, `scale` or `clamp`."""
    tensor: Tensor
    """Basis, vector, factor or ceiling: (k, width) or (width,), or (n,) with `index`."""
    index: Int[Tensor, " n"] | None = None
    """Entries it acts on; None for all."""

    def __call__(self, value: Tensor) -> Tensor:
        """The value after the operation; the one given is left as it is."""
        tensor = self.tensor.to(value.device, value.dtype)
        if self.index is None:
            return OPERATORS[self.name](value, tensor)
        changed = value.clone()
        index = self.index.to(value.device)
        changed[..., index] = OPERATORS[self.name](value[..., index], tensor)
        return changed


OPERATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "project_out": lambda value, basis: value - (value @ basis.T) @ basis,
    "add": lambda value, vector: value + vector,
    "scale": lambda value, factor: value * factor,
    "clamp": lambda value, ceiling: torch.minimum(value, ceiling),
}
"""What a hook edit can do; new ones are added here."""


@dataclass(frozen=True)
class HookEdit(Edit):
    """Operators at sites while the model runs. The weights are untouched: dropping the hook brings everything back."""

    operators: Mapping[Site, Operator] = field(kw_only=True)
    """Site -> operator."""
    kind: ClassVar[str] = "hooks"

    def __post_init__(self) -> None:
        for operator in self.operators.values():
            if operator.name not in OPERATORS:
                raise BadInput(f"No operator called {operator.name!r}. {did_you_mean(operator.name, OPERATORS)}")

    def tensors(self) -> dict[str, Tensor]:
        """Everything numeric, by name."""
        found = {f"{site}|tensor": op.tensor for site, op in self.operators.items()}
        return found | {f"{s}|index": op.index for s, op in self.operators.items() if op.index is not None}

    def words(self) -> dict[str, Any]:
        """Everything else, in JSON form."""
        return {"operators": {str(site): op.name for site, op in self.operators.items()}}

    @contextlib.contextmanager
    def on(self, model: HookedModel) -> Iterator[None]:
        """Put the edit on for the length of a `with` block."""
        self._require_fit(model)
        for site in self.operators:
            model.tap(site)
        with model.wearing(self.digest, standing=list(self.operators.items())):
            yield


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
        self._require_fit(model)
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
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise BadInput(f"Cannot read the edit {path}: {type(error).__name__} {error}") from None
    if edit.digest != words["digest"]:
        raise BadInput(f"The edit {path} is damaged: its content does not match its digest")
    return edit


def _weights(head: tuple[str, dict[str, Any]], words: dict[str, Any], numbers: dict[str, Tensor]) -> Edit:
    names = [key.removesuffix("|values") for key in numbers if key.endswith("|values")]
    changes = {name: Change(numbers[f"{name}|values"], numbers.get(f"{name}|index")) for name in names}
    return WeightEdit(*head, notes=words["notes"], changes=changes)


def _hooks(head: tuple[str, dict[str, Any]], words: dict[str, Any], numbers: dict[str, Tensor]) -> Edit:
    operators = {
        Site.parse(text): Operator(name, numbers[f"{text}|tensor"], numbers.get(f"{text}|index"))
        for text, name in words["words"]["operators"].items()
    }
    return HookEdit(*head, notes=words["notes"], operators=operators)


def _prompt(head: tuple[str, dict[str, Any]], words: dict[str, Any], _: dict[str, Tensor]) -> Edit:
    return PromptEdit(*head, notes=words["notes"], template=words["words"]["template"])


_BUILD = {"weights": _weights, "hooks": _hooks, "prompt": _prompt}
