"""The proof an open model gives of itself, so that no reading is taken from a layer that is not understood.

Each check is an identity of the transformer, tried on two short random rows (one padded): it holds to rounding
or the architecture is not what the site table says. Cheap enough to run at every opening.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.errors import BadInput
from workbench.hooks import READ_ONLY
from workbench.model import HookedModel
from workbench.sites import Site
from workbench.tokens import Batch, pad

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.bfloat16: 0.15, torch.float16: 0.02}
"""Largest allowed deviation, relative to the largest value compared, by dtype of the weights."""


@dataclass(frozen=True)
class Check:
    """One identity and how far the model is from it."""

    name: str
    """What was tried."""
    deviation: float
    """Largest relative deviation found; for `rewriting matters` the smallest change found."""
    passed: bool
    """Whether it holds."""


def probe_batch(model: HookedModel) -> Batch:
    """Two rows of random tokens, the second shorter, from a generator of their own."""
    generator = torch.Generator().manual_seed(0)
    high = min(int(model.hf.config.vocab_size), len(model.tokenizer))
    rows = [torch.randint(0, high, (n,), generator=generator).tolist() for n in (7, 5)]
    return pad(rows)


@torch.no_grad()
def check(model: HookedModel) -> list[Check]:
    """Try every identity; see `Check`."""
    batch = probe_batch(model)
    limit = TOLERANCE.get(model.hf.dtype, 1e-4)
    sites = list(model.taps)
    plain = model.run(batch, read=sites)
    assert plain.logits is not None
    inputs = batch.inputs(model.device)
    outside = model.hf(**inputs).logits
    twin = model.lens.bridge(inputs["input_ids"], attention_mask=inputs["attention_mask"])
    rewritten = model.run(batch, rewrite={site: torch.clone for site in sites if site.part not in READ_ONLY}).logits
    last = plain.acts[Site(model.n_layers - 1, "resid_post")]
    found = [
        _equal("hooked run equals plain Hugging Face", plain.logits, outside, batch, limit),
        _equal("TransformerLens twin equals Hugging Face", twin, outside, batch, limit),
        _equal("identity rewrite changes nothing", rewritten, outside, batch, limit),
        _equal("final norm and unembedding give the logits", model.decode(last), outside, batch, limit),
    ]
    found += [_sum_of_parts(plain.acts, layer, batch, limit) for layer in range(model.n_layers)]
    found += [
        _value_vectors(model, plain.acts, layer, batch, limit)
        for layer in range(model.n_layers)
        if layer not in model.mixture_layers
    ]
    return [*found, _matters(model, batch, outside)]


def require_sound(model: HookedModel) -> None:
    """Raise `BadInput` with the architecture's name if any check fails."""
    failed = [c for c in check(model) if not c.passed]
    if failed:
        what = "; ".join(f"{c.name} (deviation {c.deviation:.2g})" for c in failed)
        raise BadInput(
            f"{model.name}: the architecture {type(model.hf).__name__} fails its self-check, so no reading "
            f"from inside it can be trusted: {what}"
        )


def _equal(name: str, ours: Tensor | None, theirs: Tensor, batch: Batch, limit: float) -> Check:
    assert ours is not None
    mask = batch.mask.to(ours.device)
    scale = theirs[mask].abs().max().clamp(min=1e-6)
    deviation = float((ours[mask] - theirs[mask]).abs().max() / scale)
    return Check(name, deviation, deviation <= limit)


def _sum_of_parts(acts: dict[Site, Tensor], layer: int, batch: Batch, limit: float) -> Check:
    parts = [acts[Site(layer, part)] for part in ("resid_pre", "attn_out", "mlp_out")]
    return _equal(
        f"layer {layer}: residual, attention and MLP sum to the next residual",
        sum(parts[1:], parts[0]),
        acts[Site(layer, "resid_post")],
        batch,
        limit,
    )


def _value_vectors(model: HookedModel, acts: dict[Site, Tensor], layer: int, batch: Batch, limit: float) -> Check:
    tap = model.tap(Site(layer, "mlp_act"))
    total = acts[Site(layer, "mlp_act")] @ model.value_vectors(layer).vectors
    bias = getattr(model.hf.get_submodule(tap.path), "bias", None)
    total = total if bias is None else total + bias
    return _equal(
        f"layer {layer}: value vectors sum to the MLP's output", total, acts[Site(layer, "mlp_out")], batch, limit
    )


def _matters(model: HookedModel, batch: Batch, outside: Tensor) -> Check:
    mask = batch.mask.to(outside.device)
    smallest = float("inf")
    for site in model.taps:
        if site.part in READ_ONLY:
            continue
        zeroed = model.run(batch, rewrite={site: torch.zeros_like}).logits
        assert zeroed is not None
        smallest = min(smallest, float((zeroed[mask] - outside[mask]).abs().max()))
    return Check("rewriting any site with zeros changes the logits", smallest, smallest > 0)
