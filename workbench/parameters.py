"""Which parameters a site stands for, so that any localiser can tell any training where to act."""

from collections.abc import Sequence

from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.sites import Site

_MODULE = {
    "mlp_out": "mlp",
    "mlp_act": "mlp",
    "attn_out": "attention",
    "head": "attention",
    "resid_pre": "block",
    "resid_mid": "block",
    "resid_post": "block",
    "expert": "mlp",
}


def parameters_of(model: HookedModel, where: Sequence[Site] | None) -> list[str]:
    """Names of the parameters to train.

    Args:
        model: the model.
        where: whole parts such as `L3.mlp_out`; None for every parameter.

    Raises:
        BadInput: for an empty list, or a site inside a tensor (a neuron, head or expert).
    """
    names = [name for name, _ in model.hf.named_parameters()]
    if where is None:
        return names
    inside = [site for site in where if site.index is not None or site.layer is None]
    if inside or not where:
        raise BadInput(
            f"Training acts on whole parts like L3.mlp_out, L3.attn_out or L3.resid_post, got "
            f"{', '.join(map(str, inside)) or 'no site at all'}"
        )
    prefixes = {module_path(model, site) + "." for site in where}
    return [name for name in names if any(name.startswith(prefix) for prefix in prefixes)]


def module_path(model: HookedModel, site: Site) -> str:
    """Path of the attention, MLP or block that a site belongs to."""
    assert site.layer is not None
    match _MODULE[site.part]:
        case "attention":
            return _parent(model.tap(Site(site.layer, "head")).path)
        case "mlp" if site.layer in model.mixture_layers:
            return model.tap(Site(site.layer, "mlp_out")).path
        case "mlp":
            return _parent(model.tap(Site(site.layer, "mlp_act")).path)
        case _:
            return model.tap(Site(site.layer, "resid_post")).path


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
