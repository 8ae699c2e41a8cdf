"""Sparse autoencoders (SAEs) from disk or from a published release, and slices of chosen features: the home of SAELens.

Nothing else imports `sae_lens`, and it is imported inside functions, because that takes seconds. What a guard stores is
a `FeatureSlice` (`workbench.sae_features`), which needs no SAELens to run.

Read it as: `sae = load_sae("my/sae"); found = feature_slice(sae, [3, 17])`. A BatchTopK (or Matryoshka) SAE is a
JumpReLU SAE once it is saved for inference; a TopK SAE is stored whole, because a feature's activation
depends on all others.
Does not show: whether an SAE was made for this model and site; compare `sae.cfg.metadata` (model_name, hook_name).

Source: SAELens 6, https://decoderesearch.github.io/SAELens/.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from workbench.errors import BadInput
from workbench.sae_features import FeatureSlice, Kind

if TYPE_CHECKING:
    from sae_lens import SAE

KINDS: dict[str, Kind] = {"standard": "relu", "jumprelu": "jumprelu", "gated": "gated", "topk": "topk"}
"""SAELens's architectures that can be sliced."""


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
