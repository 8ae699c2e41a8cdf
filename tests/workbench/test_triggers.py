"""Detectors of prompts beside the first two, and the short pass that reads for them."""

from pathlib import Path

import pytest
import torch

from workbench.edits import HookEdit, load_edit
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.sites import Site
from workbench.tokens import Batch, pad
from workbench.trigger_mahalanobis import mahalanobis
from workbench.triggers import Trigger

G = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def model(planted) -> HookedModel:
    return HookedModel(planted.model, planted.tokenizer, check=False)


def ellipsoid(keys: torch.Tensor, shrinkage: float = 0.1) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A detector's tensors by the book, and the whole covariance they stand for."""
    mean, width = keys.mean(0), keys.shape[1]
    cov = torch.cov(keys.T)
    ball = cov.trace() / width
    whole = (1 - shrinkage) * cov + shrinkage * ball * torch.eye(width)
    sizes, axes = torch.linalg.eigh(cov)
    kept = sizes > 1e-6
    gain = 1 / ((1 - shrinkage) * sizes[kept] + shrinkage * ball)
    return {"mean": mean, "axes": axes.T[kept], "gain": gain, "rest": 1 / (shrinkage * ball)}, whole


def test_mahalanobis_is_the_distance_under_the_whole_covariance() -> None:
    tensors, whole = ellipsoid(torch.randn(6, 9, generator=G))
    value = torch.randn(2, 4, 9, generator=G)
    away = value - tensors["mean"]
    exact = torch.einsum("rpi,ij,rpj->rp", away, torch.linalg.inv(whole), away).sqrt()
    mask = torch.ones(2, 4, dtype=torch.bool)
    middle = float(exact.median())
    for radius in (0.999 * middle, 1.001 * middle):
        assert torch.equal(mahalanobis(value, mask, **tensors, radius=radius), exact <= radius)


def test_what_lies_beside_the_axes_counts_too() -> None:
    """Off the plane of the known keys even a small step is far."""
    keys = torch.zeros(5, 4)
    keys[:, 0] = torch.tensor([-2.0, -1, 0, 1, 2])
    tensors, _ = ellipsoid(keys)
    value = torch.tensor([[[1.9, 0.0, 0, 0], [0, 1.9, 0, 0]]])
    fired = mahalanobis(value, torch.ones(1, 2, dtype=torch.bool), **tensors, radius=2.0)
    assert fired.tolist() == [[True, False]]


def test_it_survives_the_disk_and_judges_a_model(model: HookedModel, planted, tmp_path: Path) -> None:
    site = Site(2, "mlp_act")
    facts = planted.concept.forget.facts
    rows = [e.ids[: e.answer_start] for e in model.encode(facts)]
    keys = torch.stack([model.run(pad([row]), read=[site], logits=False).acts[site][0, -1] for row in rows]).detach()
    tensors, whole = ellipsoid(keys)
    away = keys - tensors["mean"]
    radius = float(torch.einsum("ni,ij,nj->n", away, torch.linalg.inv(whole), away).sqrt().max()) * 1.01
    trigger = Trigger(site, "mahalanobis", {n: t.contiguous() for n, t in tensors.items()}, {"radius": radius})
    HookEdit(model.identity, {}, trigger=trigger).save(tmp_path / "guard")
    loaded = load_edit(tmp_path / "guard")
    assert isinstance(loaded, HookEdit) and loaded.trigger is not None
    assert loaded.trigger.told(model, pad(rows))[:, 0].all()
    tight = Trigger(site, "mahalanobis", trigger.tensors, {"radius": 0.5 * radius})
    assert not tight.told(model, pad(rows))[:, 0].all()


@pytest.mark.parametrize("site", ["embed", "L0.resid_post", "L1.mlp_act", "L2.resid_mid"])
def test_the_pass_that_stops_early_sees_the_same(model: HookedModel, planted, site: str) -> None:
    at = Site.parse(site)
    batch = pad([e.ids for e in model.encode(planted.concept.near.facts)])
    value = model.run(batch, read=[at], logits=False).acts[at].detach()
    weight = torch.randn(value.shape[-1], generator=torch.Generator().manual_seed(0))
    pooled = (value * batch.mask[..., None]).cumsum(1) / batch.mask.cumsum(1)[..., None]
    raw = (pooled @ weight)[batch.mask]
    steps = raw.unique()  # the bias lies in the widest gap between scores, so that some fire and none is on the edge
    widest = int(steps.diff().argmax())
    trigger = Trigger(at, "linear", {"weight": weight, "bias": -steps[widest : widest + 2].mean()})
    scores = raw + trigger.tensors["bias"]
    assert torch.equal(trigger.fires(model, batch)[batch.mask], scores > 0)
    assert (scores > 0).any() and not (scores > 0).all()


def test_the_pass_computes_no_block_above_its_site(model: HookedModel) -> None:
    """Otherwise every guard would cost as much again as the model."""
    ran: list[int] = []
    handles = [
        block.self_attn.register_forward_hook(lambda *_, layer=i: ran.append(layer))
        for i, block in enumerate(model.hf.model.layers)
    ]
    try:
        Trigger(Site(1, "resid_post"), "linear", {"weight": torch.zeros(128), "bias": torch.tensor(0.0)}).fires(
            model, Batch(torch.tensor([[1, 5]]), torch.ones(1, 2, dtype=torch.bool))
        )
    finally:
        for handle in handles:
            handle.remove()
    assert ran == [0, 1]


def test_a_detector_of_another_width_says_so(model: HookedModel) -> None:
    trigger = Trigger(Site(0, "resid_post"), "linear", {"weight": torch.zeros(3), "bias": torch.tensor(0.0)})
    with pytest.raises(BadInput, match="cannot judge"):
        trigger.told(model, pad([[1, 5, 6]]))


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(BadInput, match="mahalanobis"):
        Trigger(Site(0, "resid_post"), "mahalanobi")
