"""L2-regularised logistic regressions, hundreds at a time: every layer and every relation in one batched L-BFGS.

Source: the objective of scikit-learn's `LogisticRegression` (summed cross-entropy + l2 / 2 * |W|^2, bias free), which
is the oracle in the tests. Variant: L-BFGS (Nocedal 1980) in which every problem has its own memory, step and end,
begun at each step from the curvature that the readers have now along each axis. Where rows are few the states are
first turned onto their own principal axes: there are never more of them than rows, and along them that curvature is
nearly exact. float64 throughout, to a gradient of 1e-5 a row.
Read it as: `multinomial` chooses among the classes; `binary` asks for each class whether it is the one, and the surest
yes wins. With two classes scikit-learn's own (binary) objective is `binary` with one of the two.
Does not show: how sure a reader may be; nothing here is calibrated.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.erasure import principal_axes
from workbench.errors import BadInput

Reader = Literal["multinomial", "binary"]
"""One softmax over the classes, or one yes-or-no for each of them."""

STEPS, MEMORY, HALVINGS = 500, 10, 30
"""At most so many steps; pairs remembered; halvings of a step before a problem is left as it is."""

TURNED = 128
"""Up to so many rows or dimensions, finding axes costs less than it saves; beyond, where rows are few for the width."""

TOLERANCE = 1e-5
"""Largest entry of the gradient, a row, at which a problem is done."""


class Fitted(NamedTuple):
    """Weights and biases; zero for classes that no row could choose."""

    weight: Float[Tensor, "layer d_model class"]
    bias: Float[Tensor, "layer class"]
    unfinished: int
    """Problems that did not come to rest; their weights are the best found."""


@dataclass(frozen=True)
class Problems:
    """Regressions of one shape, solved together; rows, axes and classes are padded."""

    inputs: Float[Tensor, "problem row axis"]
    """Rows on their own axes, then a 1 for the bias; zero beyond a problem's rows."""
    square: Float[Tensor, "problem axis"]
    """Sum of squares along each axis."""
    penalty: Float[Tensor, "problem axis"]
    """Weight of half the squares of the weights: 0 for the bias, and 1 for axes that are padding."""
    label: Int[Tensor, "problem row"]
    """Class of every row."""
    is_row: Bool[Tensor, "problem row"]
    """False for padding."""
    is_class: Bool[Tensor, "problem class"]
    """False for padding; at least two are true."""
    reader: Reader
    """Which loss."""

    def loss(self, logits: Float[Tensor, "problem row class"]) -> Float[Tensor, " problem"]:
        """Summed loss of every problem, without the penalty."""
        picked = logits.gather(-1, self.label[..., None])[..., 0]
        if self.reader == "multinomial":
            barred = logits.masked_fill(~self.is_class[:, None], -torch.inf)
            return ((barred.logsumexp(dim=-1) - picked) * self.is_row).sum(dim=1)
        softplus = torch.nn.functional.softplus(logits) * self.is_class[:, None]
        return ((softplus.sum(dim=-1) - picked) * self.is_row).sum(dim=1)

    def said(self, logits: Float[Tensor, "problem row class"]) -> Float[Tensor, "problem row class"]:
        """Probabilities."""
        if self.reader == "multinomial":
            return logits.masked_fill(~self.is_class[:, None], -torch.inf).softmax(dim=-1)
        return logits.sigmoid() * self.is_class[:, None]

    def slopes(
        self, logits: Float[Tensor, "problem row class"], at: Float[Tensor, "problem axis class"]
    ) -> tuple[Float[Tensor, "problem axis class"], Float[Tensor, "problem axis class"]]:
        """Derivative of loss and penalty by the weights, and about what the second derivative is along each axis."""
        said = self.said(logits)
        told = torch.zeros_like(said).scatter_(-1, self.label[..., None], 1.0)
        gradient = self.inputs.mT @ ((said - told) * self.is_row[..., None]) + self.penalty[..., None] * at
        unsure = (said * (1 - said) * self.is_row[..., None]).sum(dim=1) / self.is_row.sum(dim=1, keepdim=True)
        curved = self.square[..., None] * unsure.clamp(min=1e-4)[:, None] + self.penalty[..., None]
        return gradient, curved

    def value(
        self, logits: Float[Tensor, "problem row class"], at: Float[Tensor, "problem axis class"]
    ) -> Float[Tensor, " problem"]:
        """Loss and penalty."""
        return self.loss(logits) + (self.penalty[..., None] * at.square()).sum(dim=(1, 2)) / 2


def fit(
    states: Float[Tensor, "layer row d_model"],
    label: Int[Tensor, " row"],
    choices: Bool[Tensor, "row class"],
    l2: float,
    reader: Reader = "multinomial",
    tolerance: float = TOLERANCE,
) -> Fitted:
    """One regression for every layer and every set of choices (relation), to the optimum.

    Rows with the same choices belong to one regression. A set with fewer than two choices is left at zero.

    Args:
        states: what is read.
        label: the class of every row, one of its choices.
        choices: what each row's reader chooses from; two sets are equal or have nothing in common.
        l2: weight of |W|^2 / 2 beside the summed cross-entropy.
        reader: one softmax, or one yes-or-no a class.
        tolerance: largest entry of the gradient, a row, at which a regression is done.

    Raises:
        BadInput: when sets of choices overlap without being equal.
    """
    sets, group = choices.unique(dim=0, return_inverse=True)
    if int(sets.sum(dim=0).max()) > 1:
        raise BadInput("Sets of choices overlap without being equal; give each relation classes of its own")
    parts = [
        _Part((group == i).nonzero()[:, 0], one.nonzero()[:, 0]) for i, one in enumerate(sets) if int(one.sum()) > 1
    ]
    layers, _, width = states.shape
    weight = states.new_zeros(layers, width, choices.shape[1])
    bias = states.new_zeros(layers, choices.shape[1])
    unfinished = 0
    for alike in _by_size(parts):
        turned = [_turn(states, part) for part in alike]
        problems = _together(alike, turned, label, l2, reader)
        found, done = solve(problems, tolerance)
        unfinished += int((~done).sum())
        for i, (part, axes) in enumerate(zip(alike, turned, strict=True)):
            own = found[i * layers : (i + 1) * layers, :, : len(part.classes)]
            _write(part, axes, own, weight, bias)
    return Fitted(weight, bias, unfinished)


def fit_binary(
    states: Float[Tensor, "layer row d_model"], positive: Bool[Tensor, " row"], l2: float
) -> tuple[Float[Tensor, "layer d_model"], Float[Tensor, " layer"]]:
    """One yes-or-no regression a layer: scikit-learn's `LogisticRegression(C=1 / l2)` for two classes."""
    everything = torch.ones(len(positive), 2, dtype=torch.bool)
    found = fit(states, positive.long(), everything, l2, "binary")
    return found.weight[..., 1], found.bias[..., 1]


@torch.no_grad()
def solve(
    problems: Problems, tolerance: float = TOLERANCE
) -> tuple[Float[Tensor, "problem axis class"], Bool[Tensor, " problem"]]:
    """Minimise all problems by L-BFGS with a backtracking step each; also says which came to rest."""
    at = problems.inputs.new_zeros(*problems.penalty.shape, problems.is_class.shape[1])
    logits = problems.inputs @ at
    value, (gradient, curved) = problems.value(logits, at), problems.slopes(logits, at)
    rest = tolerance * problems.is_row.sum(dim=1)
    pairs: list[_Pair] = []
    moving = torch.ones_like(rest, dtype=torch.bool)
    for _ in range(STEPS):
        moving &= gradient.abs().amax(dim=(1, 2)) > rest
        if not moving.any():
            break
        direction = _direction(gradient, curved, pairs) * moving[:, None, None]
        ahead = problems.inputs @ direction
        step, value = _step(problems, (at, logits, value), (direction, ahead), _dot(gradient, direction))
        moving &= step > 0
        moved, before = step[:, None, None] * direction, gradient
        at, logits = at + moved, logits + step[:, None, None] * ahead
        gradient, curved = problems.slopes(logits, at)
        pairs = [*pairs[1 - MEMORY :], _Pair.of(moved, gradient - before)]
    return at, gradient.abs().amax(dim=(1, 2)) <= rest


class _Pair(NamedTuple):
    """A step taken and how the gradient changed with it."""

    moved: Tensor
    turned: Tensor
    both: Tensor
    """moved . turned, for every problem."""
    weight: Tensor
    """1 / (moved . turned), 0 where the problem did not move."""

    @classmethod
    def of(cls, moved: Tensor, turned: Tensor) -> "_Pair":
        both = _dot(moved, turned)
        return cls(moved, turned, both, torch.where(both > 1e-14 * _dot(turned, turned), 1 / both, 0.0))


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """For every problem."""
    return (one * other).sum(dim=(1, 2))


def _direction(gradient: Tensor, curved: Tensor, pairs: list[_Pair]) -> Float[Tensor, "problem axis class"]:
    """The two-loop recursion for all problems at once, begun from the curvature along the axes."""
    direction, used = -gradient, []
    for pair in reversed(pairs):
        used.append(pair.weight * _dot(pair.moved, direction))
        direction = direction - used[-1][:, None, None] * pair.turned
    direction = direction / curved
    if pairs:
        last = pairs[-1]
        scale = torch.where(last.weight > 0, last.both / _dot(last.turned, last.turned / curved), 1.0)
        direction = direction * scale[:, None, None]
    for pair, first in zip(pairs, reversed(used), strict=True):
        direction = direction + (first - pair.weight * _dot(pair.turned, direction))[:, None, None] * pair.moved
    return direction


def _step(
    problems: Problems,
    here: tuple[Tensor, Tensor, Tensor],
    way: tuple[Tensor, Tensor],
    falls: Float[Tensor, " problem"],
) -> tuple[Float[Tensor, " problem"], Float[Tensor, " problem"]]:
    """For every problem the first of 1, 1/2, 1/4 ... that lowers its value enough, and the value there; else 0."""
    (at, logits, value), (direction, ahead) = here, way
    step = torch.ones_like(value)
    slack = 1e-12 * value.abs()  # close to the optimum a fall is smaller than the rounding of the value
    for _ in range(HALVINGS):
        along = step[:, None, None]
        there = problems.value(logits + along * ahead, at + along * direction)
        enough = there <= value + 1e-4 * step * falls + slack
        if enough.all():
            return step, there
        step = torch.where(enough, step, step / 2)
    return torch.where(enough, step, 0.0), torch.where(enough, there, value)


class _Part(NamedTuple):
    """The rows and the classes of one relation."""

    rows: Int[Tensor, " row"]
    classes: Int[Tensor, " class"]


class _Turned(NamedTuple):
    """The centred rows of a part, for every layer: on their own axes, or as they are where turning would not pay."""

    rows: Float[Tensor, "layer row axis"]
    axes: Float[Tensor, "layer d_model axis"] | None
    mean: Float[Tensor, "layer d_model"]


def _by_size(parts: list[_Part]) -> Iterator[list[_Part]]:
    """Parts of about the same number of rows, so that padding costs at most double."""
    for size in sorted({len(part.rows).bit_length() for part in parts}):
        yield [part for part in parts if len(part.rows).bit_length() == size]


def _turn(states: Float[Tensor, "layer row d_model"], part: _Part) -> _Turned:
    own = states[:, part.rows.to(states.device)].to(_exact(states.device), torch.float64)
    mean = own.mean(dim=1)
    centred = own - mean[:, None]
    rows, width = centred.shape[1:]
    if min(rows, width) > TURNED and 4 * rows > width:
        return _Turned(centred, None, mean)
    axes, _ = principal_axes(centred)
    return _Turned(centred @ axes, axes, mean)


def _exact(device: torch.device) -> torch.device:
    """Where float64 exists: everywhere but on Apple's accelerators."""
    return torch.device("cpu") if device.type == "mps" else device


def _together(
    parts: list[_Part], turned: list[_Turned], label: Int[Tensor, " row"], l2: float, reader: Reader
) -> Problems:
    """Parts of all layers as problems of one shape, part by part."""
    layers, device = len(turned[0].rows), turned[0].rows.device
    rows, axes = (max(one.rows.shape[i] for one in turned) for i in (1, 2))
    classes = max(len(part.classes) for part in parts)
    inputs = torch.zeros(len(parts), layers, rows, axes + 1, dtype=torch.float64, device=device)
    square = torch.zeros(len(parts), layers, axes + 1, dtype=torch.float64, device=device)
    penalty = torch.ones_like(square)
    labels = torch.zeros(len(parts), rows, dtype=torch.long)
    is_row, is_class = torch.zeros(len(parts), rows).bool(), torch.zeros(len(parts), classes).bool()
    for i, (part, own) in enumerate(zip(parts, turned, strict=True)):
        n, r = own.rows.shape[1:]
        inputs[i, :, :n, :r], inputs[i, :, :n, -1] = own.rows, 1.0
        square[i, :, :r], square[i, :, -1] = own.rows.square().sum(dim=1), n
        penalty[i, :, :r], penalty[i, :, -1] = l2, 0.0
        labels[i, :n] = torch.searchsorted(part.classes, label[part.rows].cpu())
        is_row[i, :n], is_class[i, : len(part.classes)] = True, True
    labels, is_row, is_class = (one.to(device).repeat_interleave(layers, dim=0) for one in (labels, is_row, is_class))
    inputs, square, penalty = (whole.flatten(0, 1) for whole in (inputs, square, penalty))
    return Problems(inputs, square, penalty, labels, is_row, is_class, reader)


def _write(
    part: _Part,
    turned: _Turned,
    found: Float[Tensor, "layer axis class"],
    weight: Float[Tensor, "layer d_model all"],
    bias: Float[Tensor, "layer all"],
) -> None:
    """Turn a part's solution back and put it in its columns."""
    own = found[:, : turned.rows.shape[2]]
    own = own if turned.axes is None else turned.axes @ own
    constant = found[:, -1] - (turned.mean[:, None] @ own)[:, 0]
    columns = part.classes.to(weight.device)
    weight[:, :, columns], bias[:, columns] = own.to(weight), constant.to(bias)
