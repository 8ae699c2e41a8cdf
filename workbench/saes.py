"""Sparse autoencoders (SAEs) from disk, from a published release or trained here, and slices of chosen features.

The home of SAELens: nothing else imports `sae_lens`, and it is imported inside functions, because that takes seconds.
What a guard stores is a `FeatureSlice` (`workbench.sae_features`), which needs no SAELens to run; what a probe reads
through is a `Dictionary` (`workbench.sae_reading`). `workbench.sae_training` gives `fit_sae` its activations.

Read it as: `sae = load_sae("my/sae"); found = feature_slice(sae, [3, 17])`. A BatchTopK (or Matryoshka) SAE is a
JumpReLU SAE once it is saved for inference; a TopK SAE is stored whole, because a feature's activation
depends on all others.
Does not show: whether an SAE was made for this model and site; compare `sae.cfg.metadata` (model_name, hook_name).

Source: SAELens 6, https://decoderesearch.github.io/SAELens/.
"""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from workbench.errors import BadInput
from workbench.sae_features import FeatureSlice, Kind
from workbench.sae_reading import Dictionary
from workbench.sites import Site

if TYPE_CHECKING:
    from sae_lens import SAE, TrainingSAE

KINDS: dict[str, Kind] = {"standard": "relu", "jumprelu": "jumprelu", "gated": "gated", "topk": "topk"}
"""SAELens's architectures that can be sliced."""

BUFFER = 8192
"""Activations that are mixed with each other before a batch is drawn."""

NORM_BATCHES = 10
"""Batches from which the mean norm of a site's values is estimated."""

HOOKS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_out": "resid_post",
    "hook_attn_out": "attn_out",
    "attn.hook_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "mlp.hook_out": "mlp_out",
    "mlp.hook_post": "mlp_act",
}
"""TransformerLens's names inside a block -> part of a site."""


class SaeOptions(BaseModel):
    """How an SAE is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["standard", "topk", "batchtopk", "jumprelu"] = "batchtopk"
    """ReLU with an L1 penalty, the k largest of a token, the k largest a token on average over a batch (stored as
    JumpReLU), or JumpReLU with an L0 penalty."""
    width: int = Field(4, ge=1)
    """Number of features, in multiples of the site's width."""
    k: int = Field(8, ge=1)
    """Features active at a token; for `topk` and `batchtopk`."""
    sparsity: float = Field(1.0, ge=0)
    """Weight of the penalty on active features; for `standard` and `jumprelu`."""
    steps: int = Field(1000, ge=1)
    """Number of updates."""
    batch_size: int = Field(256, ge=1)
    """Tokens an update."""
    lr: float = Field(3e-3, gt=0)
    """Adam's learning rate; it falls to a tenth over the last fifth of the steps."""
    seed: int = 0
    """Seed of the first weights and of the order of tokens."""


def load_sae(path_or_release: str | Path, sae_id: str | None = None, *, offline: bool = True) -> "SAE[Any]":
    """Open an SAE.

    Args:
        path_or_release: a folder with cfg.json and sae_weights.safetensors, or with `sae_id` the name of a release.
        sae_id: which SAE of the release.
        offline: read releases from the local Hugging Face cache only; False allows a download.

    Raises:
        BadInput: when there is no such SAE, or it is not in the cache and `offline` is set.
    """
    os.environ.setdefault("WANDB_MODE", "disabled")  # sae_lens brings wandb; nothing may phone home
    if sae_id is None:
        folder = Path(path_or_release).expanduser()
        if not (folder / "cfg.json").is_file():
            raise BadInput(
                f"{str(path_or_release)!r} is no SAE folder (it has no cfg.json). Give a folder that SAELens wrote "
                "with save_inference_model, or the name of a release together with sae_id"
            )
        return _from_disk(folder)
    return _from_release(str(path_or_release), sae_id, offline)


def _from_disk(folder: Path) -> "SAE[Any]":
    from sae_lens import SAE
    from safetensors import SafetensorError

    try:
        return SAE.load_from_disk(folder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise BadInput(f"Cannot read the SAE {str(folder)!r}: {type(error).__name__} {str(error)[:200]}") from None


def _from_release(release: str, sae_id: str, offline: bool) -> "SAE[Any]":
    from sae_lens import SAE

    try:
        with _offline() if offline else contextlib.nullcontext():
            return SAE.from_pretrained(release, sae_id)
    except OSError as error:  # every connection error and a missing cache entry is one
        why = "it is not in the local Hugging Face cache, and offline is set" if offline else str(error)[:200]
        raise BadInput(
            f"Cannot get the SAE {sae_id!r} of release {release!r}: {why}. Download it where there is a network "
            "(offline=False), or give a folder"
        ) from None
    except (ValueError, KeyError) as error:
        raise BadInput(f"Cannot get the SAE {sae_id!r} of release {release!r}: {str(error)[:300]}") from None


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keep the Hugging Face client off the network for the length of a block."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def feature_slice(sae: "SAE[Any]", features: Sequence[int]) -> FeatureSlice:
    """What it takes to compute and change some features alone.

    Args:
        sae: an SAE for inference (`load_sae`).
        features: their numbers, without repeats.

    Raises:
        BadInput: for features the SAE does not have, or an SAE whose features are not a function of a site's value
            alone that can be stored (training SAEs, transcoders, normalised or reshaped inputs).
    """
    kind = _sliceable(sae)
    chosen = _numbers(features, sae.cfg.d_sae)
    weights = {name: tensor.detach().float().cpu() for name, tensor in sae.named_parameters()}
    take = torch.arange(sae.cfg.d_sae) if kind == "topk" else chosen
    tensors = {
        "encoder": weights["W_enc"][:, take],
        "bias": weights["b_mag" if kind == "gated" else "b_enc"][take],
        "decoder": weights["W_dec"][chosen],
    }
    if sae.cfg.apply_b_dec_to_input:
        tensors["shift"] = weights["b_dec"]
    options = {}
    if kind == "jumprelu":
        tensors["threshold"] = weights["threshold"][take]
    if kind == "gated":
        tensors |= {"gain": weights["r_mag"][take].exp(), "gate_bias": weights["b_gate"][take]}
    if kind == "topk":
        tensors["features"], options["k"] = chosen, int(sae.cfg.k)
        tensors |= _rescaled(sae, weights["W_dec"], chosen)
    return FeatureSlice(kind, {name: t.clone() for name, t in tensors.items()}, options, tuple(chosen.tolist()))


def _rescaled(sae: "SAE[Any]", decoder: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """A TopK SAE may rank by, and report, activations in units of its decoder rows' norms."""
    if not sae.cfg.rescale_acts_by_decoder_norm:
        return {}
    norm = decoder.norm(dim=-1)
    return {"norm": norm, "decoder": decoder[chosen] / norm[chosen, None]}


def _sliceable(sae: "SAE[Any]") -> Kind:
    from sae_lens import TrainingSAE

    architecture = sae.cfg.architecture()
    if isinstance(sae, TrainingSAE):
        raise BadInput("This SAE is still in training: save it with save_inference_model and open it with load_sae")
    if architecture not in KINDS:
        raise BadInput(f"SAEs of architecture {architecture!r} cannot be sliced; these can: {', '.join(sorted(KINDS))}")
    if sae.cfg.normalize_activations != "none":
        raise BadInput(
            f"This SAE normalises its input ({sae.cfg.normalize_activations}), so its decoder does not write in the "
            "site's own units. Fold the factor in first (SAE.fold_activation_norm_scaling_factor), where there is one"
        )
    if sae.hook_z_reshaping_mode or sae.cfg.reshape_activations != "none":
        raise BadInput("This SAE reshapes its input (hook_z); only SAEs on a whole vector can be sliced")
    return KINDS[architecture]


def _numbers(features: Sequence[int], there: int) -> Tensor:
    wrong = [feature for feature in features if not 0 <= feature < there]
    if wrong or not features or len(set(features)) != len(features):
        raise BadInput(
            f"Name features from 0 to {there - 1}, each once and at least one; got {list(features)[:10]}"
            + (f" (no such feature: {wrong[0]})" if wrong else "")
        )
    return torch.tensor(list(features))


# ---- reading through an SAE


def dictionary_of(sae: "SAE[Any]", device: torch.device | None = None) -> Dictionary:
    """All features of an SAE, as a probe reads through them.

    Raises:
        BadInput: for an SAE that cannot be sliced (`feature_slice`).
    """
    whole = feature_slice(sae, range(sae.cfg.d_sae))
    there = {name: tensor.to(device) for name, tensor in whole.tensors.items()}
    bias = sae.b_dec.detach().float().to(device or torch.device("cpu"))
    return Dictionary(replace(whole, tensors=there), bias, dict(sae.cfg.metadata.to_dict()))


def made_at(metadata: Mapping[str, Any]) -> Site | None:
    """The site an SAE says it was made for, in our words or in TransformerLens's; None when it does not say."""
    if metadata.get("site"):
        return Site.parse(str(metadata["site"]))
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", str(metadata.get("hook_name")))
    return Site(int(match[1]), HOOKS[match[2]]) if match and match[2] in HOOKS else None


# ---- training


@torch.enable_grad()
def fit_sae(
    activations: Iterator[Float[Tensor, "token width"]],
    width: int,
    options: SaeOptions,
    folder: Path,
    device: torch.device | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train an SAE and store it for inference, as `load_sae` opens it.

    Args:
        activations: values of a site, any number of tokens a time, without end.
        width: of the site.
        options: kind, size and length of training.
        folder: where to write cfg.json and sae_weights.safetensors.
        device: where to train; the CPU when None.
        progress: told how many updates are done and of how many.
    """
    os.environ.setdefault("WANDB_MODE", "disabled")
    from sae_lens.training.mixing_buffer import mixing_buffer
    from sae_lens.training.sae_trainer import SAETrainer

    place = device or torch.device("cpu")
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), _no_bars():
        torch.manual_seed(options.seed)
        sae = _untrained(width, options, place)
        batches = mixing_buffer(max(BUFFER, options.batch_size), options.batch_size, activations)
        if progress is not None:
            batches = _told(batches, options.steps, progress)
        SAETrainer(_trainer_config(options, place), sae, data_provider=batches).fit()
    sae.save_inference_model(folder)


def _told(batches: Iterator[Tensor], steps: int, progress: Callable[[int, int], None]) -> Iterator[Tensor]:
    """The batches, with word of each update; the first ones only measure the norm."""
    for number, batch in enumerate(batches):
        progress(min(max(number - NORM_BATCHES, 0) + 1, steps), steps)
        yield batch


def _untrained(width: int, options: SaeOptions, device: torch.device) -> "TrainingSAE[Any]":
    """An SAE with its first weights. Inputs are scaled to norm sqrt(width) for training, and the factor is folded in.

    The scale makes a penalty mean the same at every site.
    """
    import sae_lens

    # A decoder's bias that the encoder sees too, so that what all tokens share needs no features.
    shape: dict[str, Any] = {
        "d_in": width,
        "d_sae": options.width * width,
        "device": str(device),
        "apply_b_dec_to_input": True,
        "normalize_activations": "expected_average_only_in",
    }
    warm = options.steps // 10
    if options.kind == "standard":
        config = sae_lens.StandardTrainingSAEConfig(**shape, l1_coefficient=options.sparsity, l1_warm_up_steps=warm)
        return sae_lens.StandardTrainingSAE(config)
    if options.kind == "jumprelu":
        jump = sae_lens.JumpReLUTrainingSAEConfig(**shape, l0_coefficient=options.sparsity, l0_warm_up_steps=warm)
        return sae_lens.JumpReLUTrainingSAE(jump)
    if options.kind == "topk":
        return sae_lens.TopKTrainingSAE(sae_lens.TopKTrainingSAEConfig(**shape, k=options.k))
    return sae_lens.BatchTopKTrainingSAE(sae_lens.BatchTopKTrainingSAEConfig(**shape, k=options.k))


def _trainer_config(options: SaeOptions, device: torch.device) -> Any:
    from sae_lens import LoggingConfig
    from sae_lens.config import SAETrainerConfig

    return SAETrainerConfig(
        total_training_samples=options.steps * options.batch_size,
        train_batch_size_samples=options.batch_size,
        lr=options.lr,
        lr_end=options.lr / 10,  # without it SAELens fails a bare assertion
        lr_decay_steps=options.steps // 5,
        device=str(device),
        n_batches_for_norm_estimate=NORM_BATCHES,
        logger=LoggingConfig(log_to_wandb=False),
    )


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Keep SAELens' own progress bars off stderr for the length of a block; the caller has one."""
    from sae_lens.training import activation_scaler, sae_trainer

    modules: tuple[Any, ...] = (activation_scaler, sae_trainer)
    before = [module.tqdm for module in modules]
    for module in modules:
        module.tqdm = functools.partial(module.tqdm, disable=True)
    try:
        yield
    finally:
        for module, bar in zip(modules, before, strict=True):
            module.tqdm = bar
