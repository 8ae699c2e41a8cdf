"""Which parameters a site stands for, so that any localiser can tell any training where to act.

Read it as: `parameters_of(model, [Site.parse("L2.expert[5]")])` names what may move, here slices of fused tensors
such as `model.layers.2.mlp.experts.down_proj[5]` (`workbench.experts`).
Does not show: that the knowledge lies there.
"""

from collections.abc import Sequence

from workbench.errors import BadInput
from workbench.experts import slice_name
from workbench.model import HookedModel
from workbench.sites import Site

_MODULE = {
    "mlp_out": "mlp",
    "mlp_act": "mlp",
    "mlp_pre": "mlp",
    "attn_out": "attention",
    "head": "attention",
    "resid_pre": "block",
    "resid_mid": "block",
    "resid_post": "block",
    "expert": "experts",
    "router": "router",
}


def parameters_of(model: HookedModel, where: Sequence[Site] | None) -> list[str]:
    """Names of the parameters, or of one expert's slices of them, to train.

    Args:
        model: the model.
        where: whole parts such as `L3.mlp_out` (of a mixture: experts and router), single experts such as
            `L2.expert[5]` (without the router), or routers such as `L2.router`; None for every parameter.

    Raises:
        BadInput: for an empty list, a site inside a tensor (a neuron or a head), or an expert that is not there.
    """
    names = [name for name, _ in model.hf.named_parameters()]
    if where is None:
        return names
    inside = [site for site in where if site.layer is None or (site.index is not None and site.part != "expert")]
    if inside or not where:
        raise BadInput(
            f"Training acts on whole parts like L3.mlp_out, L3.attn_out or L3.resid_post, or on experts like "
            f"L2.expert[5], got {', '.join(map(str, inside)) or 'no site at all'}"
        )
    found: dict[str, None] = {}
    for site in where:
        expert = site.index if site.part == "expert" else site.expert
        prefix = module_path(model, site) + "."
        here = [name for name in names if name.startswith(prefix)]
        found |= dict.fromkeys(here if expert is None else _of_expert(model, site, expert, here))
    return [name for name in found if name.partition("[")[0] == name or name.partition("[")[0] not in found]


def module_path(model: HookedModel, site: Site) -> str:
    """Path of the attention, MLP, experts, router or block that a site belongs to.

    Raises:
        BadInput: for an expert or router in a layer whose MLP is dense.
    """
    assert site.layer is not None
    mixture = model.anatomy.mixtures.get(site.layer)
    match "experts" if site.expert is not None else _MODULE[site.part]:
        case "attention":
            return _parent(model.tap(Site(site.layer, "head")).path)
        case "experts" | "router" if mixture is None:
            layers = ", ".join(map(str, model.mixture_layers))
            raise BadInput(
                f"{site} lies in no mixture of experts: {model.name} has "
                + (f"them in layers {layers}" if layers else "none at all; name a part like L3.mlp_out")
            )
        case "experts" if mixture:
            return mixture.experts
        case "mlp" if mixture:
            return mixture.block
        case "router":
            return model.tap(Site(site.layer, "router")).path
        case "mlp":
            return _parent(model.tap(Site(site.layer, "mlp_act")).path)
        case _:
            return model.tap(Site(site.layer, "resid_post")).path


def _of_expert(model: HookedModel, site: Site, expert: int, names: list[str]) -> list[str]:
    """One expert's slice of every fused tensor, or its own tensors where experts are modules."""
    fused = [name for name in names if name.rpartition(".")[0].endswith(".experts")]
    count = {len(model.hf.get_parameter(name)) for name in fused}
    own = [name for name in names if f".experts.{expert}." in name]
    if len(count) != 1 and not own:
        raise BadInput(f"{site}: the experts of {model.name} are stored in a way that one cannot be trained alone")
    if not own and expert >= min(count):
        raise BadInput(f"{site} does not exist in {model.name}: its layer has experts 0 to {min(count) - 1}")
    return own or [slice_name(name, expert) for name in fused]


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
