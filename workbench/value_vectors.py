"""Where a model keeps the vectors its MLPs add up, however a checkpoint stores them.

A value vector is what one neuron writes: a column of a down-projection (a row in GPT-2's Conv1D and in gpt-oss), in an
MLP, in one expert of a mixture, or in the expert that every token passes. All are handed out as views of the live
parameter with one vector a row, so what is written into a view is written into the checkpoint.

Does not show: what reaches the residual stream where a norm stands behind the MLP (`through`; Gemma 2 and 3, OLMo 2),
or where the block scales its addend (Granite).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.errors import BadInput
from workbench.model_sites import Anatomy
from workbench.sites import Site


@dataclass(frozen=True)
class ValueVectors:
    """The down-projection of an MLP, or of all experts of a layer."""

    name: str
    """Parameter name in the Hugging Face model."""
    weight: Tensor
    """The parameter itself: (d_model, d_mlp), (expert, d_model, d_mlp), or with the last two swapped when `by_row`."""
    by_row: bool = False
    """Whether the checkpoint stores a value vector as a row (GPT-2's Conv1D, gpt-oss) and not as a column."""
    bias: str | None = None
    """Parameter name of what is added besides the vectors: (d_model,), or (expert, d_model)."""
    through: str | None = None
    """Path of a norm that the sum passes before it joins the residual stream."""

    @property
    def vectors(self) -> Tensor:
        """A view with one value vector a row: (d_mlp, d_model) or (expert, d_mlp, d_model)."""
        return self.as_rows(self.weight)

    def as_rows(self, like_weight: Tensor) -> Tensor:
        """A view, one value vector a row, of any tensor shaped like the parameter (its gradient, a copy of it)."""
        return like_weight if self.by_row else like_weight.transpose(-1, -2)

    @property
    def n_experts(self) -> int | None:
        """Number of experts, None in a dense MLP."""
        return self.weight.shape[0] if self.weight.ndim == 3 else None


def value_vectors_of(hf: nn.Module, anatomy: Anatomy, layer: int) -> Iterator[ValueVectors]:
    """The value vectors of a layer: of its MLP; or of its experts, then of the shared expert if there is one."""
    out = anatomy.taps.get(Site(layer, "mlp_out"))
    behind = anatomy.mlps.get(layer)
    through = out.path if out and behind and out.path != behind else None
    mixture = anatomy.mixtures.get(layer)
    if mixture and mixture.fused:
        experts = hf.get_submodule(mixture.experts)
        bias = f"{mixture.experts}.down_proj_bias" if experts.has_bias else None
        name = f"{mixture.experts}.down_proj"
        yield ValueVectors(name, hf.get_parameter(name), bool(experts.is_transposed), bias, through)
    if tap := anatomy.taps.get(Site(layer, "mlp_act")):
        module = hf.get_submodule(tap.path)
        bias = f"{tap.path}.bias" if getattr(module, "bias", None) is not None else None
        by_row = type(module).__name__ == "Conv1D"
        yield ValueVectors(f"{tap.path}.weight", hf.get_parameter(f"{tap.path}.weight"), by_row, bias, through)


class Neurons:
    """What an open model (`HookedModel`) says of its MLP neurons and their value vectors."""

    name: str
    hf: PreTrainedModel
    anatomy: Anatomy
    withheld: dict[str, str]

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.hf.config.num_hidden_layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.hf.config.hidden_size)

    def value_vectors(self, layer: int, shared: bool = False) -> ValueVectors:
        """The value vectors of a layer's MLP, or of all its experts, or (`shared`) of the expert all tokens pass.

        Raises:
            BadInput: when the layer has none that are understood.
        """
        every = list(value_vectors_of(self.hf, self.anatomy, layer))
        chosen = [v for v in every if (v.n_experts is None) == (shared or layer not in self.anatomy.mixtures)]
        where = f"L{layer} value vectors"
        if not chosen or where in self.withheld:
            why = self.withheld.get(where, "there are none of this kind, or they are stored in a way not understood")
            raise BadInput(f"{self.name} ({type(self.hf).__name__}) shows no value vectors in layer {layer}: {why}")
        return chosen[0]

    def random_neurons(self, count: int, seed: int = 0) -> list[Site]:
        """Neurons drawn evenly over the whole model: the control every localisation is held against."""
        neurons = [
            Site(mlp.layer, "mlp_act", i, mlp.expert) for mlp, vectors in self.mlps() for i in range(len(vectors))
        ]
        generator = torch.Generator().manual_seed(seed)
        return [neurons[i] for i in torch.randperm(len(neurons), generator=generator)[:count].tolist()]

    def mlps(self) -> Iterator[tuple[Site, Float[Tensor, "neuron d_model"]]]:
        """Every dense MLP and every expert: the site of all its neurons, and their value vectors, one a row."""
        for site, found in self.down_projections():
            yield site, found.vectors if site.expert is None else found.vectors[site.expert]

    def down_projections(self) -> Iterator[tuple[Site, ValueVectors]]:
        """Every dense MLP and every expert: the site of all its neurons, and where their value vectors are stored."""
        for layer in range(self.n_layers):
            for found in value_vectors_of(self.hf, self.anatomy, layer):
                if f"L{layer} value vectors" not in self.withheld:
                    experts: Sequence[int | None] = [None] if found.n_experts is None else range(found.n_experts)
                    yield from ((Site(layer, "mlp_act", None, expert), found) for expert in experts)

    def vectors_at(self, sites: Sequence[Site]) -> Float[Tensor, "site d_model"]:
        """A copy of the value vectors of some neurons.

        Raises:
            BadInput: when a site is not a single MLP neuron of this model.
        """
        found = [vector for _, vector in self.stored_at(sites)]
        return torch.stack(found).detach() if found else torch.zeros(0, self.d_model, dtype=self.hf.dtype)

    def stored_at(self, sites: Sequence[Site]) -> list[tuple[str, Float[Tensor, " d_model"]]]:
        """Parameter name and value vector of some neurons; the vectors are views, writing to them edits the model.

        Raises:
            BadInput: when a site is not a single MLP neuron of this model.
        """
        stores, found = dict(self.down_projections()), []
        for site in sites:
            store = stores.get(site.whole)
            rows = None if store is None else store.vectors if site.expert is None else store.vectors[site.expert]
            if store is None or rows is None or site.index is None or site.index >= len(rows):
                ends = [f"{mlp}[0..{store.vectors.shape[-2] - 1}]" for mlp, store in stores.items()]
                raise BadInput(
                    f"{site} is not a value vector of {self.name}; its value vectors are {ends[0]} to {ends[-1]}"
                    if ends
                    else f"{self.name} shows no value vectors, so {site} is none"
                )
            found.append((store.name, rows[site.index]))
        return found
