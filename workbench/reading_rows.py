"""What a neuron reads by: its rows of the projections in front of the activation, however a checkpoint stores them.

A value vector is what a neuron writes; whether it fires is a row of the up-projection, in a gated MLP also one of the
gate, and their biases. Gates and the rest may be one tensor: one half after the other (Phi-3, most fused experts), or
in turns (gpt-oss).

Read it as: `for rows in reading_rows(model, neuron): rows.of(tensor)`: a view-like selection of the neuron's entries in
any tensor shaped like the parameter `rows.name`.
Does not show: a norm between activation and down-projection (BitNet), which is no reading and mixes all neurons.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.sites import Site


@dataclass(frozen=True)
class ReadingRows:
    """A neuron's entries of one parameter."""

    name: str
    """The parameter."""
    rows: tuple[int, ...]
    """Which ones along the axis that counts neurons: one, or one for the gate and one for the rest."""
    axis: int = 0
    """That axis, of one expert's part where there are experts."""
    expert: int | None = None
    """Which expert of a fused tensor."""

    def of(self, like: Tensor) -> Tensor:
        """A copy of the entries in a tensor that is shaped like the parameter, one row each."""
        return self._part(like)[list(self.rows)]

    def mark(self, mask: Tensor) -> None:
        """Set the entries in a mask that is shaped like the parameter."""
        self._part(mask)[list(self.rows)] = True

    def _part(self, like: Tensor) -> Tensor:
        return (like if self.expert is None else like[self.expert]).movedim(self.axis, 0)


def reading_rows(model: HookedModel, neuron: Site) -> list[ReadingRows]:
    """Where the entries lie that one neuron reads by.

    Args:
        model: the model.
        neuron: a single MLP neuron (`L5.mlp_act[412]`, `L2.e5.mlp_act[7]`).

    Raises:
        BadInput: for a site that is no neuron, or projections that are laid out in a way not understood.
    """
    model.stored_at([neuron])  # refuses what is no neuron
    found = list(_in_expert(model, neuron) if neuron.expert is not None else _in_mlp(model, neuron))
    if not found:
        raise BadInput(
            f"What {neuron} of {model.name} ({type(model.hf).__name__}) reads by is stored in a way not understood: "
            "train what it writes (neuron_parts=written), or whole parts like L3.mlp_out"
        )
    return found


def _in_expert(model: HookedModel, neuron: Site) -> Iterator[ReadingRows]:
    """In fused experts, which say how gates and the rest are laid out."""
    assert neuron.layer is not None and neuron.index is not None
    mixture = model.anatomy.mixtures[neuron.layer]
    experts = model.hf.get_submodule(mixture.experts)
    if not mixture.layout:
        return
    count = int(experts.down_proj.shape[-2 if experts.is_transposed else -1])
    first = neuron.index if experts.is_concatenated else 2 * neuron.index
    rows = (first, first + (count if experts.is_concatenated else 1))
    for name, axis in (("gate_up_proj", 1 if experts.is_transposed else 0), ("gate_up_proj_bias", 0)):
        if isinstance(getattr(experts, name, None), nn.Parameter):
            yield ReadingRows(f"{mixture.experts}.{name}", rows, axis, neuron.expert)


def _in_mlp(model: HookedModel, neuron: Site) -> Iterator[ReadingRows]:
    """In a dense MLP or shared expert: the maps beside the down-projection that give one number a neuron, or two."""
    assert neuron.index is not None
    path = model.tap(neuron.whole).path
    parent, _, down = path.rpartition(".")
    count = model.width(neuron.whole)
    halves = model.taps.get(Site(neuron.layer, "mlp_pre"))
    for name, child in model.hf.get_submodule(parent).named_children():
        weight = getattr(child, "weight", None)
        if name == down or not isinstance(weight, nn.Parameter) or weight.ndim != 2:
            continue
        axis = 1 if type(child).__name__ == "Conv1D" else 0
        given = weight.shape[axis]
        if given == count:
            rows: tuple[int, ...] = (neuron.index,)
        elif given == 2 * count and halves is not None and halves.entries == (0, count):
            rows = (neuron.index, neuron.index + count)  # the self-check compared the first half with the gates
        else:
            continue
        yield ReadingRows(f"{parent}.{name}.weight", rows, axis)
        if isinstance(getattr(child, "bias", None), nn.Parameter):
            yield ReadingRows(f"{parent}.{name}.bias", rows)
