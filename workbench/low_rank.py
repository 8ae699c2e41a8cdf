"""Low-rank adapters (LoRA) for the length of a training, through PEFT, and nothing of PEFT left afterwards.

PEFT replaces linear maps inside the model by wrappers; `adapted` puts them in, names their parameters for
`HookedModel.train`, can give what they learnt (`Adapted.changes`) or add it to the weights, and takes them out again,
also after an error: the same modules, parameters and flags as before. Only plain linear maps get one (`nn.Linear`,
GPT-2's `Conv1D`): the experts of a mixture are fused tensors that no linear map holds, so in a mixture attention and a
shared expert alone are reached.
Does not show: what an adapter would have learnt there.
Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685; PEFT, https://huggingface.co/docs/peft.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from workbench.errors import BadInput, RunError
from workbench.low_rank_change import LowRank
from workbench.model import HookedModel
from workbench.sites import Site

if TYPE_CHECKING:
    from peft.tuners.lora import LoraModel

NAME = "adapter"
"""What PEFT calls the adapter while it is in."""


@dataclass(frozen=True, eq=False)
class Adapted:
    """Adapters that are in a model."""

    tuner: "LoraModel"
    """PEFT's own object."""
    parameters: tuple[str, ...]
    """Names of what they learn, to train."""
    layers: Mapping[str, Any]
    """Weight that is adapted -> PEFT's layer round it."""

    def changes(self) -> dict[str, LowRank]:
        """What each weight's adapter adds to it now; a copy."""
        return {
            name: LowRank(
                layer.lora_B[NAME].weight.detach().clone(),
                layer.lora_A[NAME].weight.detach().clone(),
                layer.scaling[NAME],
                layer.fan_in_fan_out,
            )
            for name, layer in self.layers.items()
        }

    @torch.no_grad()
    def begin(self, changes: Mapping[str, LowRank]) -> None:
        """Let the adapters of some weights begin with these matrices."""
        for name, change in changes.items():
            self.layers[name].lora_B[NAME].weight.copy_(change.up)
            self.layers[name].lora_A[NAME].weight.copy_(change.down)

    @torch.no_grad()
    def merge(self) -> None:
        """Add what was learnt to the weights, in place."""
        self.tuner.merge_adapter([NAME])


def linear_maps(model: HookedModel, layers: Sequence[int]) -> list[str]:
    """Paths of the plain linear maps inside some blocks; a router is none of them.

    Raises:
        BadInput: for a layer that the model does not have.
    """
    blocks = tuple(model.tap(Site(layer, "resid_post")).path + "." for layer in layers)
    routers = {mixture.router for mixture in model.anatomy.mixtures.values()}
    plain = [name for name, module in model.hf.named_modules() if type(module) in (nn.Linear, Conv1D)]
    return [name for name in plain if name.startswith(blocks) and not any(_within(name, r) for r in routers if r)]


def stored_transposed(model: HookedModel, path: str) -> bool:
    """Whether a linear map keeps its weight as (in, out)."""
    return isinstance(model.hf.get_submodule(path), Conv1D)


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(path + ".")


@contextlib.contextmanager
def adapted(
    model: HookedModel, paths: Sequence[str], *, rank: int, alpha: float | int, dropout: float, seed: int
) -> Iterator[Adapted]:
    """Adapters on some linear maps while the block runs; they change nothing before they are trained.

    Args:
        model: borrowed; afterwards as before but for what `Adapted.merge` added.
        paths: from `linear_maps`.
        rank: of each adapter.
        alpha: the adapter's product is multiplied by alpha / rank.
        dropout: share of an adapter's inputs that training leaves out.
        seed: of the first weights.

    Raises:
        BadInput: when there is nothing to adapt.
        RunError: when PEFT put adapters elsewhere than it was told.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel
    from peft.tuners.tuners_utils import cast_adapter_dtype

    if not paths:
        raise BadInput(f"{model.name} has no plain linear map there, so it can have no low-rank adapter")
    blocks = [model.tap(Site(layer, "resid_post")).path for layer in range(model.n_layers)]
    used = {f"block_{i}": path for i, path in enumerate(blocks) if any(_within(one, path) for one in paths)}
    targets = [name + one.removeprefix(path) for name, path in used.items() for one in paths if _within(one, path)]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # only alpha / rank is used, and need not be whole
        lora_dropout=dropout,
        target_modules=targets,
        bias="none",
    )
    with _put_back(model.hf, paths):
        # PEFT sees the blocks and not the model: in a mixture it knows by name it would adapt the experts, too.
        seen = nn.ModuleDict({name: model.hf.get_submodule(path) for name, path in used.items()})
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of Conv1D's orientation, which it then takes care of
            torch.manual_seed(seed)
            tuner = LoraModel(seen, {NAME: config}, NAME)
        cast_adapter_dtype(tuner, NAME)  # float32, also in a bfloat16 model, whose steps are too coarse to train in
        named = tuple(name for name, _ in model.hf.named_parameters() if f".{NAME}" in name)
        if len(named) != 2 * len(paths):
            raise RunError(f"PEFT made {len(named) / 2:g} adapters in {model.name}, not the {len(paths)} asked for")
        yield Adapted(tuner, named, {f"{path}.weight": model.hf.get_submodule(path) for path in paths})


@contextlib.contextmanager
def _put_back(hf: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Afterwards the modules at some paths, all flags and all modes are as before; not left to PEFT's own unloading."""
    modules = {path: hf.get_submodule(path) for path in paths}
    flags = {name: parameter.requires_grad for name, parameter in hf.named_parameters()}
    modes = {name: module.training for name, module in hf.named_modules()}
    try:
        yield
    finally:
        for path, module in modules.items():
            parent, _, name = path.rpartition(".")
            setattr(hf.get_submodule(parent), name, module)
        for name, parameter in hf.named_parameters():
            parameter.requires_grad_(flags[name])
        for name, module in hf.named_modules():
            module.training = modes[name]
