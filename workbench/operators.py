"""`Operator`: one stored operation on the value of a site, and `Gate`: a stored detector that says where it acts.

Both are tensors and plain words, so a guard is saved in safetensors and JSON and rebuilt without running any code that
came with it. A new operator is one function here (or beside, as in `workbench.sae_features`) and one line in
`OPERATORS`; a new detector is one function and one line in `DETECTORS`.

Read it as: `Operator("scale", factor, index)(value)` is the value with some entries multiplied. Everything is computed
in float32 (or wider, when the value is) and rounded once to the value's own dtype, so entries that an operator leaves
alone keep their bits.
Does not show: whether the operation removes anything. The weights are untouched; whoever drops the hook has
it all back.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.by_position import add_by_position
from workbench.errors import BadInput, did_you_mean
from workbench.neuron_shift import neuron_adjust
from workbench.sae_features import sae_clamp, sae_clamp_all, sae_project, sae_scale

Value = Float[Tensor, "*any width"]

CPU = torch.device("cpu")

ORTHONORMAL_WITHIN = 0.02
"""How far `basis @ basis.T` may be from the identity; wide enough for a basis rounded to bfloat16."""


def project_out(value: Value, basis: Float[Tensor, "k width"]) -> Value:
    """The part of the value that is orthogonal to the orthonormal rows of `basis`."""
    return value - (value @ basis.T) @ basis


def add(value: Value, vector: Tensor) -> Value:
    """The value plus a vector (steering)."""
    return value + vector


def scale(value: Value, factor: Tensor) -> Value:
    """The value times a factor, per entry or one for all."""
    return value * factor


def clamp(value: Value, ceiling: Tensor | None = None, *, floor: Tensor | None = None) -> Value:
    """The value kept at or below `ceiling` and at or above `floor`; where they cross, the ceiling holds."""
    if floor is not None:
        value = torch.maximum(value, floor)
    return value if ceiling is None else torch.minimum(value, ceiling)


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "project_out": project_out,
    "add": add,
    "add_by_position": add_by_position,
    "scale": scale,
    "clamp": clamp,
    "sae_clamp": sae_clamp,
    "sae_clamp_all": sae_clamp_all,
    "sae_project": sae_project,
    "sae_scale": sae_scale,
    "neuron_adjust": neuron_adjust,
}
"""What a hook edit can do: from a value, its main tensor, its named tensors and its options, to the new value."""


def linear(value: Value, *, weight: Float[Tensor, " width"], bias: float = 0.0, threshold: float = 0.0) -> Tensor:
    """Whether `weight . value + bias` exceeds the threshold."""
    return value @ weight + bias > threshold


def box(value: Value, *, mean: Tensor, radius: Tensor, share: float = 1.0) -> Tensor:
    """Whether at least a share of the entries lies within `mean` plus or minus `radius`.

    With `radius` = alpha * k * standard deviation this is key space detection (arXiv 2503.21730).
    """
    return ((value - mean).abs() <= radius).to(value.dtype).mean(-1) >= share


DETECTORS: dict[str, Callable[..., Tensor]] = {"linear": linear, "box": box}
"""What a gate can look for: from a value, named tensors and options, to yes or no per token."""


@dataclass(frozen=True)
class Gate:
    """A stored detector on the same site's value, before the operator acts.

    Raises:
        BadInput: for an unknown detector, or tensors and options that it does not take.
    """

    detector: str
    """A key of `DETECTORS`."""
    tensors: Mapping[str, Tensor]
    """The detector's tensors by name."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The detector's numbers by name."""
    scope: Literal["token", "so_far"] = "token"
    """`token`: act on the tokens where it fires. `so_far`: act on these and on all later tokens of the row.

    Neither looks at the future. "Any token of the row" is not offered: a hook cannot tell padding from text, so what
    happens to one prompt would depend on its neighbours in the batch. In a pass that takes up a key-value cache
    (a `prefix`, generation) `so_far` begins at the first token that is computed.
    """

    def __post_init__(self) -> None:
        if self.detector not in DETECTORS:
            raise BadInput(f"No detector called {self.detector!r}. {did_you_mean(self.detector, DETECTORS)}")
        if self.scope not in ("token", "so_far"):
            raise BadInput(f"A gate's scope is 'token' or 'so_far', got {self.scope!r}")
        tensors = {name: _wide(tensor, torch.float32, CPU) for name, tensor in self.tensors.items()}
        width = next((t.shape[-1] for t in tensors.values() if t.ndim), 1)
        tried = _try(
            f"The detector {self.detector!r}", DETECTORS[self.detector], width, (), {**tensors, **self.options}
        )
        if tried.shape != (1, 2):
            raise BadInput(f"The detector {self.detector!r} must be given one vector of the site's width a tensor")

    def __call__(self, value: Float[Tensor, "*row pos width"]) -> Bool[Tensor, "*row pos"]:
        """Where it fires."""
        wide = torch.promote_types(value.dtype, torch.float32)
        tensors = {name: _wide(tensor, wide, value.device) for name, tensor in self.tensors.items()}
        fired = DETECTORS[self.detector](value.to(wide), **tensors, **self.options)
        return fired if self.scope == "token" else fired.cummax(dim=-1).values


@dataclass(frozen=True)
class Operator:
    """One stored operation on the last axis of a site's value.

    Raises:
        BadInput: for an unknown operator, tensors or options it does not take, or shapes that do not go together.
    """

    name: str
    """A key of `OPERATORS`."""
    tensor: Tensor | None = None
    """The main tensor: basis (k, width), vector or factor (width,), ceiling, or targets (k,) of features."""
    index: Int[Tensor, " n"] | None = None
    """Entries of the last axis it acts on; None for all. The tensors then have their width."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)
    """Further tensors by the name under which the operator's function takes them."""
    options: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Numbers and words (JSON) by the name under which the operator's function takes them."""
    gate: Gate | None = field(default=None, kw_only=True)
    """Where it acts; None for everywhere."""

    def __post_init__(self) -> None:
        if self.name not in OPERATORS:
            raise BadInput(f"No operator called {self.name!r}. {did_you_mean(self.name, OPERATORS)}")
        if self.index is not None and (self.index.ndim != 1 or self.index.is_floating_point() or self.index.min() < 0):
            raise BadInput(f"The index of the operator {self.name!r} must be a list of entry numbers from 0")
        width = (self.index if self.index is not None else torch.empty(self.width or 1)).shape[0]
        tried = _try(f"The operator {self.name!r}", self._function(torch.float32, CPU), width)
        if tried.shape != (1, 2, width):
            raise BadInput(
                f"The operator {self.name!r} makes {tuple(tried.shape[2:])} of a value of width {width}; "
                f"its tensor has shape {tuple(self.tensor.shape) if self.tensor is not None else None}"
            )
        if self.name == "project_out":
            _require_orthonormal(self.tensor)

    @property
    def width(self) -> int | None:
        """Size of the last axis it was made for; None when any will do."""
        if self.index is not None:
            return None
        tensor = self.tensors.get("decoder", self.tensor)
        tensor = next((t for t in self.tensors.values() if t.ndim), None) if tensor is None else tensor
        return None if tensor is None or not tensor.ndim or tensor.shape[-1] == 1 else tensor.shape[-1]

    def __call__(self, value: Float[Tensor, "*any width"]) -> Float[Tensor, "*any width"]:
        """The value after the operation; the one given is left as it is."""
        wide = torch.promote_types(value.dtype, torch.float32)
        function = self._function(wide, value.device)
        if self.index is None:
            changed = function(value.to(wide)).to(value.dtype)
        else:
            changed, index = value.clone(), self.index.to(value.device)
            changed[..., index] = function(value[..., index].to(wide)).to(value.dtype)
        return changed if self.gate is None else torch.where(self.gate(value)[..., None], changed, value)

    def ready(self, dtype: torch.dtype, device: torch.device) -> "Operator":
        """The same with its tensors where and as they are needed, so that nothing is moved at every call."""
        wide = torch.promote_types(dtype, torch.float32)
        there = {name: _wide(tensor, wide, device) for name, tensor in self.stored().items()}
        moved = copy.copy(self)  # what was checked needs no second check
        for name, value in (("tensor", there.get("tensor")), ("index", there.get("index"))):
            object.__setattr__(moved, name, value)
        object.__setattr__(moved, "tensors", dict(_under("tensors.", there)))
        if self.gate:
            gate = copy.copy(self.gate)
            object.__setattr__(gate, "tensors", dict(_under("gate.", there)))
            object.__setattr__(moved, "gate", gate)
        return moved

    def stored(self) -> dict[str, Tensor]:
        """Every tensor, by a name that says where it belongs."""
        found = {"tensor": self.tensor, "index": self.index}
        found |= {f"tensors.{name}": tensor for name, tensor in self.tensors.items()}
        found |= {f"gate.{name}": tensor for name, tensor in (self.gate.tensors.items() if self.gate else ())}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def words(self) -> str | dict[str, Any]:
        """Everything that is no tensor; the bare name when that is all (as the first version wrote it)."""
        gate = self.gate and {
            "detector": self.gate.detector,
            "options": dict(self.gate.options),
            "scope": self.gate.scope,
        }
        more = {"options": dict(self.options)} if self.options else {}
        more |= {"gate": gate} if gate else {}
        return {"name": self.name, **more} if more else self.name

    @classmethod
    def rebuilt(cls, words: str | Mapping[str, Any], stored: Mapping[str, Tensor]) -> "Operator":
        """From what `words` and `stored` gave."""
        said: Mapping[str, Any] = {"name": words} if isinstance(words, str) else words
        gate = said.get("gate")
        return cls(
            said["name"],
            stored.get("tensor"),
            stored.get("index"),
            tensors=dict(_under("tensors.", stored)),
            options=said.get("options", {}),
            gate=gate and Gate(gate["detector"], dict(_under("gate.", stored)), gate["options"], gate["scope"]),
        )

    def _function(self, dtype: torch.dtype, device: torch.device) -> Callable[[Tensor], Tensor]:
        """The operation with its tensors on the value's device and in the dtype it is computed in."""
        main = () if self.tensor is None else (_wide(self.tensor, dtype, device),)
        named = {name: _wide(tensor, dtype, device) for name, tensor in self.tensors.items()}
        return lambda value: OPERATORS[self.name](value, *main, **named, **self.options)


def _under(prefix: str, stored: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    return ((name.removeprefix(prefix), tensor) for name, tensor in stored.items() if name.startswith(prefix))


def _wide(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers in the dtype that is computed in, positions as they are; on the device of the value."""
    return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)


def _try(
    what: str, function: Callable[..., Tensor], width: int, main: tuple[Tensor, ...] = (), named: Mapping[str, Any] = {}
) -> Tensor:
    """One row of two tokens put through the function, so that what does not fit is found before a model runs."""
    try:
        inspect.signature(function).bind(torch.empty(0), *main, **named)
        with torch.no_grad():
            return function(torch.zeros(1, 2, width), *main, **named)
    except (TypeError, RuntimeError, IndexError, ValueError) as error:
        raise BadInput(f"{what} cannot take what it was given: {str(error).splitlines()[0][:200]}") from None


def _require_orthonormal(basis: Tensor | None) -> None:
    assert basis is not None
    rows = basis.detach().float()
    off = float((rows @ rows.T - torch.eye(len(rows), device=rows.device)).abs().max()) if len(rows) else 0.0
    if not off <= ORTHONORMAL_WITHIN:
        raise BadInput(
            f"The rows of project_out's basis must be orthonormal; basis @ basis.T is off the identity by {off:.3g}: "
            "use torch.linalg.qr(vectors.T)[0].T"
        )
