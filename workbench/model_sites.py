"""Where the sites of an architecture are, derived from TransformerLens and never written by hand.

TransformerLens is booted on a *twin*: a skeleton of the same class that holds the very same parameter objects, so
that booting (which replaces submodules) leaves the real model untouched and costs no memory. From the twin's
hook points follows, for every site, which Hugging Face module it is the input or the output of.

Source: TransformerLens 3 (`TransformerBridge`), https://transformerlensorg.github.io/TransformerLens/.
"""

import copy
import os
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.sites import Site

os.environ.setdefault("WANDB_MODE", "disabled")  # transformer_lens and sae_lens bring wandb; nothing may phone home

from transformer_lens.model_bridge import TransformerBridge  # noqa: E402

HOOK_NAMES = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "head": "attn.hook_z",
    "mlp_act": "mlp.hook_post",
    "router": "mlp.gate.hook_out",
}
"""TransformerLens's name, within a block, of each part."""


@dataclass(frozen=True)
class Tap:
    """A module boundary of the Hugging Face model."""

    path: str
    """Dotted module path."""
    side: Literal["in", "out"]
    """Whether the site is the module's first input or its (first) output."""


def twin_of(hf: PreTrainedModel) -> PreTrainedModel:
    """A second module tree of the same class over the same parameters and buffers: no copy is made."""
    config = copy.deepcopy(hf.config)
    config.architectures = [type(hf).__name__]  # a model that was never saved does not say, and TransformerLens asks
    with torch.device("meta"):
        twin = type(hf)._from_config(config, attn_implementation=hf.config._attn_implementation)
    for name, module in hf.named_modules():
        mirror = twin.get_submodule(name)
        mirror._parameters.update(module._parameters)
        mirror._buffers.update(module._buffers)
    return twin.eval()


@dataclass(frozen=True)
class Lens:
    """TransformerLens over a twin of one model. Read with it; never train, fold or save through it."""

    bridge: TransformerBridge
    """The booted bridge."""
    paths: dict[int, str]
    """Identity of each of the twin's modules -> its dotted path, taken before booting renamed things."""


def lens_of(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Lens:
    """Boot TransformerLens on a twin of the model.

    Raises:
        ValueError: when TransformerLens does not know the architecture.
    """
    twin = twin_of(hf)
    paths = {id(module): name for name, module in twin.named_modules()}
    bridge = TransformerBridge.boot_transformers(
        hf.config._name_or_path or type(hf).__name__,
        hf_model=twin,
        tokenizer=_own_tokenizer(tokenizer),
        device=str(hf.device),
        dtype=hf.dtype,
    )
    return Lens(bridge, paths)


def _own_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy for TransformerLens, which alters padding and may load the tokenizer a second time by name.

    It does not when told that a leading token is added already. The copy is never used: prompts are tokenised by
    `workbench.tokens`.
    """
    own = copy.deepcopy(tokenizer)
    own.init_kwargs.update(name_or_path=own.name_or_path, add_bos_token=True)
    return own


def taps_of(hf: PreTrainedModel, lens: Lens) -> dict[Site, Tap]:
    """Every site of the architecture that is a module boundary, with the boundary it is.

    A part that a layer lacks has no entry. `mlp_act` is left out where the MLP is a mixture of experts
    (TransformerLens's hook of that name is the block's output there, not neurons).
    """
    boundaries, hooks = _boundaries(lens), lens.bridge.hook_dict
    taps = {Site(None, "embed"): boundaries[id(hooks["embed.hook_out"])]}
    for layer in range(lens.bridge.cfg.n_layers):
        mlp = boundaries[id(hooks[f"blocks.{layer}.hook_mlp_out"])].path
        absent = "mlp_act" if hasattr(hf.get_submodule(mlp), "experts") else "router"
        for part, name in HOOK_NAMES.items():
            tap = boundaries.get(id(hooks.get(f"blocks.{layer}.{name}")))
            if tap is not None and part != absent:
                taps[Site(layer, part)] = tap
    return taps


def path_of(lens: Lens, component: str) -> str:
    """Module path of a component outside the blocks: `ln_final` or `unembed`."""
    return _boundaries(lens)[id(lens.bridge.hook_dict[f"{component}.hook_out"])].path


def _boundaries(lens: Lens) -> dict[int, Tap]:
    """Hook point identity -> module boundary, for every bridge component that stands for a module of the model."""
    found: dict[int, Tap] = {}
    for component in lens.bridge.modules():
        path = lens.paths.get(id(getattr(component, "original_component", None)))
        if path:
            found[id(component.hook_in)] = Tap(path, "in")
            found[id(component.hook_out)] = Tap(path, "out")
    return found
