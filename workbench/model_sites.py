"""Where the sites of an architecture are, derived from TransformerLens and never written by hand.

TransformerLens is booted on a *twin*: a skeleton of the same class that holds the very same parameter objects, so
that booting (which replaces submodules) leaves the real model untouched and costs no memory. From the twin's
hook points follows, for every site, which Hugging Face module it is the input or the output of.

Source: TransformerLens 3 (`TransformerBridge`), https://transformerlensorg.github.io/TransformerLens/.
"""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.model_experts import Mixture, mixture_of
from workbench.sites import Site

os.environ.setdefault("WANDB_MODE", "disabled")  # transformer_lens and sae_lens bring wandb; nothing may phone home

from transformer_lens.model_bridge import TransformerBridge  # noqa: E402

HOOK_NAMES = {
    "resid_pre": ("hook_resid_pre",),
    "resid_mid": ("hook_resid_mid",),
    "resid_post": ("hook_resid_post",),
    "attn_out": ("hook_attn_out", "attn.hook_out"),
    "mlp_out": ("hook_mlp_out", "mlp.hook_out"),
    "head": ("attn.hook_z", "attn.o.hook_in"),
    "mlp_pre": ("mlp.hook_pre",),
    "mlp_act": ("mlp.hook_post",),
}
"""TransformerLens's names, within a block, of each part; the first that is a module boundary counts."""


@dataclass(frozen=True)
class Tap:
    """A module boundary of the Hugging Face model."""

    path: str
    """Dotted module path."""
    side: Literal["in", "out", "expert", "gate"]
    """Whether the site is the module's first input, its (first) output, neurons of one of its experts, or what enters
    their activation function."""
    scale: float = 1.0
    """What the boundary's value is multiplied by to be the site's (Granite's `residual_multiplier`)."""
    expert: int | None = None
    """Which expert, for neurons of one."""
    entries: tuple[int, int] | None = None
    """Which entries of the boundary's last axis the site is, first and one past the last; None for all."""


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


@dataclass(frozen=True)
class Anatomy:
    """Where everything is in one model."""

    taps: dict[Site, Tap]
    """Every site that is a module boundary, with the boundary it is."""
    mlps: dict[int, str]
    """Layer -> path of its MLP, or of its mixture of experts."""
    mixtures: dict[int, Mixture]
    """Layer -> its mixture of experts, for the layers that are one."""
    norm: str | None
    """Path of the final norm."""
    unembed: str
    """Path of the unembedding."""


def anatomy_of(hf: PreTrainedModel, lens: Lens) -> Anatomy:
    """Every site of the architecture, as TransformerLens names them.

    A part that a layer lacks has no entry. Where the MLP is a mixture of experts, `mlp_act` is the expert that every
    token passes, if there is one (TransformerLens's hook of that name is the block's output there, not neurons).
    """
    boundaries, hooks = _boundaries(lens), lens.bridge.hook_dict

    def find(*names: str) -> Tap | None:
        found = (boundaries.get(id(hooks.get(name))) for name in names)
        return next((tap for tap in found if tap is not None), None)

    taps: dict[Site, Tap | None] = {Site(None, "embed"): find("embed.hook_out")}
    mlps: dict[int, str] = {}
    for layer in range(lens.bridge.cfg.n_layers):
        for part, names in HOOK_NAMES.items():
            taps[Site(layer, part)] = find(*(f"blocks.{layer}.{name}" for name in names))
        if mlp := find(f"blocks.{layer}.mlp.hook_out"):
            mlps[layer] = mlp.path
    mixtures = {layer: found for layer, path in mlps.items() if (found := mixture_of(hf, path))}
    for layer, mixture in mixtures.items():
        taps[Site(layer, "mlp_act")] = Tap(mixture.shared, "in") if mixture.shared else None
        taps[Site(layer, "mlp_pre")] = find(*_shared_pre(hooks, layer)) if mixture.shared else None
        taps[Site(layer, "router")] = Tap(mixture.router, "out") if mixture.router else None
    for layer in range(lens.bridge.cfg.n_layers):
        taps[Site(layer, "mlp_pre")] = taps[Site(layer, "mlp_pre")] or _fused_pre(hf, taps[Site(layer, "mlp_act")])
    there = {site: _as_addend(hf, site, taps) for site, tap in taps.items() if tap is not None}
    norm, unembed = find("ln_final.hook_out"), find("unembed.hook_out")
    if unembed is None:
        raise ValueError("TransformerLens names no unembedding")
    return Anatomy(there, mlps, mixtures, norm.path if norm else None, unembed.path)


def _shared_pre(hooks: Mapping[str, object], layer: int) -> list[str]:
    """TransformerLens's names of what enters the activation of the expert that every token passes."""
    start = f"blocks.{layer}.mlp.shared"
    return [name for name in hooks if name.startswith(start) and name.endswith(".hook_pre")]


def _fused_pre(hf: PreTrainedModel, act: Tap | None) -> Tap | None:
    """Where one projection makes gates and the rest together: the first half of what it gives (Phi-3).

    Which half the gates are is a guess until the check has compared it with what enters the activation function, so
    without an activation module there is none.
    """
    if act is None or activation_of(hf, act) is None:
        return None
    down, path = hf.get_submodule(act.path), act.path.rpartition(".")[0]
    width = getattr(down, "in_features", 0)
    for name, child in hf.get_submodule(path).named_children():
        if width and child is not down and getattr(child, "out_features", None) == 2 * width:
            return Tap(f"{path}.{name}", "out", entries=(0, width))
    return None


def activation_of(hf: PreTrainedModel, act: Tap) -> str | None:
    """Path of the activation function of the MLP whose neurons `act` is, when it is a module of its own."""
    path = act.path.rpartition(".")[0]
    names = [name for name, _ in hf.get_submodule(path).named_children() if "act" in name]
    return f"{path}.{names[0]}" if len(names) == 1 else None


def _as_addend(hf: PreTrainedModel, site: Site, taps: Mapping[Site, Tap | None]) -> Tap:
    """Some blocks multiply what attention and MLP give before they add it; the addend is the site."""
    tap, block = taps[site], taps.get(Site(site.layer, "resid_post")) if site.layer is not None else None
    assert tap is not None
    if block is None or site.part not in ("attn_out", "mlp_out"):
        return tap
    return replace(tap, scale=float(getattr(hf.get_submodule(block.path), "residual_multiplier", 1.0)))


def _boundaries(lens: Lens) -> dict[int, Tap]:
    """Hook point identity -> module boundary, for every bridge component that stands for a module of the model."""
    found: dict[int, Tap] = {}
    for component in lens.bridge.modules():
        path = lens.paths.get(id(getattr(component, "original_component", None)))
        if path:
            found[id(component.hook_in)] = Tap(path, "in")
            found[id(component.hook_out)] = Tap(path, "out")
    return found
