"""The proof an open model gives of itself, so that no reading is taken from a layer that is not understood.

Each check is an identity of the transformer, tried on two short random rows (one padded): it holds to rounding
or the architecture is not what the site table says. Those here are cheap (a handful of forward passes, whatever the
depth) and run at every opening; `workbench.model_check_full` has those of `workbench doctor`.

Read it as: a deviation is relative to the largest value compared. Does not show: that a checkpoint's weights are the
right ones, nor that its tokenizer is the one it was trained with.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.architectures import TESTED
from workbench.errors import BadInput
from workbench.hooks import READ_ONLY, Keep, Rewrite, hooked, put
from workbench.model import HookedModel
from workbench.model_experts import gates
from workbench.model_sites import Tap, activation_of
from workbench.sites import Site
from workbench.tokens import Batch, pad

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.bfloat16: 0.15, torch.float16: 0.02}
"""Largest allowed deviation, relative to the largest value compared, by dtype of the weights."""

ROWS = 64
"""Rows of one pass when every row changes a site of its own."""


@dataclass(frozen=True)
class Check:
    """One identity and how far the model is from it."""

    name: str
    """What was tried."""
    deviation: float
    """Largest relative deviation found; for `zeros change the logits` the smallest change found."""
    passed: bool
    """Whether it holds."""
    vouches_for: tuple[str, ...] = ()
    """What is withheld when it fails: texts of sites (`L3.e*.mlp_pre` for those of all experts), `decode`,
    `L3 value vectors`, `twin`; empty: the whole model."""


def probe_batch(model: HookedModel) -> Batch:
    """Two rows of random tokens, the second shorter, from a generator of their own."""
    generator = torch.Generator().manual_seed(0)
    high = min(int(model.hf.config.vocab_size), len(model.tokenizer))
    rows = [torch.randint(0, high, (n,), generator=generator).tolist() for n in (7, 5)]
    return pad(rows)


@torch.no_grad()
def check(model: HookedModel, full: bool = False) -> list[Check]:
    """Try the identities; see `Check`."""
    batch, sites = probe_batch(model), list(model.taps)
    inputs = batch.inputs(model.device)
    outside = model.hf(**inputs, use_cache=False).logits
    acts, behind = _read(model, batch, sites)
    found = [
        equal(model, "hooked run equals plain Hugging Face", model.run(batch, read=sites).logits, outside, batch),
        _causal(model, batch, outside),
        *_twin(model, batch, outside),
        *_decoded(model, acts, outside, batch),
    ]
    for layer in range(model.n_layers):
        found += _sums(model, acts, layer, batch)
        found += _gates(model, acts, behind, layer, batch)
        found += _value_vectors(model, acts, behind, layer, batch)
    if not model.read_only:
        found += [_identity(model, batch, outside), _matters(model, batch, outside)]
    if full:
        from workbench.model_check_full import full_checks  # these need saving and reloading, which opening does not

        found += full_checks(model, batch, outside)
    return found


def require_sound(model: HookedModel) -> None:
    """Raise `BadInput` with the architecture's name, or withhold what failed, if any check fails.

    On an architecture the workbench was tried on any failure is an error; on another one only those that concern
    the whole model.
    """
    failed = [c for c in check(model) if not c.passed]
    fatal = [c for c in failed if not c.vouches_for or type(model.hf).__name__ in TESTED]
    if fatal:
        what = "; ".join(f"{c.name} (deviation {c.deviation:.2g})" for c in fatal)
        raise BadInput(
            f"{model.name}: the architecture {type(model.hf).__name__} fails its self-check, so no reading "
            f"from inside it can be trusted: {what}"
        )
    for c in failed:
        withhold(model, c)


def withhold(model: HookedModel, failed: Check) -> None:
    """Take away what a check that failed vouches for."""
    for what in failed.vouches_for:
        model.withheld[what] = f"its self-check failed: {failed.name} (deviation {failed.deviation:.2g})"
        if what == "twin":
            model.lens = None
        elif not what.endswith("value vectors") and what != "decode" and "*" not in what:
            model.taps.pop(Site.parse(what), None)


def equal(
    model: HookedModel,
    name: str,
    ours: Tensor | None,
    theirs: Tensor,
    batch: Batch,
    vouches_for: tuple[str, ...] = (),
) -> Check:
    """Compare two tensors (row, pos, ...) where there are tokens."""
    assert ours is not None
    mask = batch.mask.to(theirs.device)
    ours, theirs = ours.to(theirs.device)[mask].float(), theirs[mask].float()
    deviation = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))
    return Check(name, deviation, deviation <= TOLERANCE.get(model.hf.dtype, 1e-4), vouches_for)


def active_experts(model: HookedModel, batch: Batch) -> list[Site]:
    """The neurons of one expert of each mixture layer, one that the first row's first token is sent to."""
    layers = [layer for layer, mixture in model.anatomy.mixtures.items() if mixture.fused]
    routing = model.routing(batch, layers) if layers else {}
    return [Site(layer, "mlp_act", None, int(routing[layer].chosen[0, 0, 0])) for layer in layers]


def writable(model: HookedModel, batch: Batch) -> list[Site]:
    """Every site that can be rewritten, with one expert of each mixture layer."""
    experts = active_experts(model, batch)
    before = [replace(s, part="mlp_pre") for s in experts if s.layer is not None and not model.why_no_gates(s.layer)]
    return [site for site in model.taps if site.part not in READ_ONLY] + experts + before


def _read(model: HookedModel, batch: Batch, sites: list[Site]) -> tuple[dict[Site, Tensor], dict[str, Tensor]]:
    """Values at the sites; outputs of MLPs and experts, before any norm behind them; what enters the activations."""
    outputs: dict[Site, Tensor] = {}
    there = {Site(layer, "mlp_out"): Tap(path, "out") for layer, path in model.anatomy.mlps.items()}
    there |= {Site(layer, "expert"): Tap(mixture.experts, "out") for layer, mixture in model.anatomy.mixtures.items()}
    for act in (site for site in sites if site.part == "mlp_act"):
        if path := activation_of(model.hf, model.tap(act)):
            there[replace(act, part="mlp_pre")] = Tap(path, "in")
    with ExitStack() as hooks:
        for site, tap in there.items():
            hooks.enter_context(hooked(model.hf, tap, Keep(outputs, site)))
        acts = model.run(batch, read=sites).acts
    return acts, {str(site): value for site, value in outputs.items()}


def _causal(model: HookedModel, batch: Batch, outside: Tensor) -> Check:
    """A later token must not reach back: an encoder, or attention without its mask, would."""
    ids = batch.ids.clone()
    ids[:, 4] = (ids[:, 4] + 1) % min(int(model.hf.config.vocab_size), len(model.tokenizer))
    other = model.run(Batch(ids, batch.mask)).logits
    assert other is not None
    early = Batch(batch.ids[:, :4], batch.mask[:, :4])
    return equal(model, "a later token changes nothing before it", other[:, :4], outside[:, :4], early)


def _twin(model: HookedModel, batch: Batch, outside: Tensor) -> Iterator[Check]:
    if model.lens is None or len({p.device for p in model.hf.parameters()}) > 1:
        return  # TransformerLens runs on one device
    inputs = batch.inputs(model.device)
    twin = model.lens.bridge(inputs["input_ids"], attention_mask=inputs["attention_mask"])
    yield equal(model, "TransformerLens twin equals Hugging Face", twin, outside, batch, ("twin",))


def _decoded(model: HookedModel, acts: Mapping[Site, Tensor], outside: Tensor, batch: Batch) -> Iterator[Check]:
    if model.anatomy.norm is not None:
        ours = model.decode(acts[Site(model.n_layers - 1, "resid_post")])
        yield equal(model, "final norm and unembedding give the logits", ours, outside, batch, ("decode",))


def _sums(model: HookedModel, acts: Mapping[Site, Tensor], layer: int, batch: Batch) -> Iterator[Check]:
    """The residual stream is the sum of what was added to it."""

    def at(part: str) -> Tensor | None:
        return acts.get(Site(layer, part))

    pre, attention, mid, mlp, post = map(at, ("resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"))
    assert pre is not None and post is not None
    if layer + 1 < model.n_layers:
        name = f"layer {layer}: what leaves the block enters the next"
        yield equal(model, name, acts[Site(layer + 1, "resid_pre")], post, batch)
    if attention is not None and mid is not None:
        name = f"layer {layer}: residual and attention sum to the residual between"
        yield equal(model, name, pre + attention, mid, batch, (f"L{layer}.resid_mid", f"L{layer}.attn_out"))
    if attention is not None and mlp is not None:
        name = f"layer {layer}: residual, attention and MLP sum to the next residual"
        yield equal(model, name, pre + attention + mlp, post, batch, (f"L{layer}.attn_out", f"L{layer}.mlp_out"))


def _gates(
    model: HookedModel, acts: Mapping[Site, Tensor], behind: Mapping[str, Tensor], layer: int, batch: Batch
) -> Iterator[Check]:
    """`mlp_pre` is what enters the activation function: seen there in an MLP, by its effect in routed experts."""
    site, mixture = Site(layer, "mlp_pre"), model.anatomy.mixtures.get(layer)
    name = f"layer {layer}: what enters the activation is read before it"
    if site in acts and str(site) in behind:
        seen = behind[str(site)].reshape(*batch.ids.shape, -1)
        yield equal(model, name, acts[site], seen, batch, (str(site),))
    if mixture and mixture.layout:
        yield _told_apart(model, layer, model.hf.get_submodule(mixture.experts))


def _told_apart(model: HookedModel, layer: int, experts: Any) -> Check:
    """Each neuron follows its own gate only, not in a straight line, and the rest in a straight line.

    So the gates are recognised without knowing the activation function: what multiplies it moves the neuron linearly.
    """
    width = model.width(Site(layer, "mlp_pre", None, 0))
    low = torch.randn(2, 2 * width, generator=torch.Generator().manual_seed(0)).to(model.device, torch.float64)
    step, other = torch.zeros_like(low), torch.zeros_like(low)
    gates(experts, step)[:, ::2] = 1.0
    other.fill_(1.0)
    gates(experts, other).zero_()
    at = [experts._apply_gate(low + move) for move in (-step, 0 * step, step, -other, 0 * other, other)]
    bend = (at[0] + at[2] - 2 * at[1]).abs()
    straight = (at[3] + at[5] - 2 * at[4]).abs()
    off = max(float(straight.max()), float(bend[:, 1::2].max())) / max(float(bend[:, ::2].mean()), 1e-9)
    name = f"layer {layer}: an expert's gates are told from the rest"
    return Check(name, off, off <= TOLERANCE[torch.float32], (f"L{layer}.e*.mlp_pre",))


def _value_vectors(
    model: HookedModel, acts: Mapping[Site, Tensor], behind: Mapping[str, Tensor], layer: int, batch: Batch
) -> Iterator[Check]:
    mixture, name = model.anatomy.mixtures.get(layer), f"layer {layer}: value vectors sum to the MLP's output"
    vouched = (f"L{layer} value vectors",)
    if mixture is None and Site(layer, "mlp_act") in acts:
        found = model.value_vectors(layer)
        total = acts[Site(layer, "mlp_act")] @ found.vectors
        if found.bias:
            total = total + model.parameter(found.bias)
        yield equal(model, name, total, behind[f"L{layer}.mlp_out"], batch, (*vouched, f"L{layer}.mlp_act"))
    if mixture is not None and mixture.fused:
        total = experts_sum(model, batch, layer)
        theirs = behind[f"L{layer}.expert"].view(*batch.ids.shape, -1)
        yield equal(model, name.replace("the MLP's", "the experts'"), total, theirs, batch, vouched)


def experts_sum(model: HookedModel, batch: Batch, layer: int) -> Float[Tensor, "row pos d_model"]:
    """What the chosen experts add up to, from their neurons, value vectors and routing weights."""
    found, routing = model.value_vectors(layer), model.routing(batch, [layer])[layer]
    sites = [Site(layer, "mlp_act", None, e) for e in range(found.n_experts or 0)]
    acts = model.run(batch, read=sites, logits=False).acts
    bias = model.parameter(found.bias) if found.bias else None
    total = torch.zeros(())
    for e, site in enumerate(sites):
        share = (routing.weights * (routing.chosen == e)).sum(dim=-1, keepdim=True)
        said = acts[site] @ found.vectors[e]
        total = total.to(said.device) + share * (said if bias is None else said + bias[e])
    return total


def _identity(model: HookedModel, batch: Batch, outside: Tensor) -> Check:
    same: dict[Site, Rewrite] = {site: torch.clone for site in writable(model, batch)}
    return equal(model, "identity rewrite changes nothing", model.run(batch, rewrite=same).logits, outside, batch)


def _matters(model: HookedModel, batch: Batch, outside: Tensor) -> Check:
    """Each row of a pass zeroes a site of its own; one that leaves the logits as they were is no site."""
    length = int(batch.mask[0].sum())
    ids, plain = batch.ids[0, :length].tolist(), outside[0, :length]
    sites, smallest = writable(model, batch), float("inf")
    for first in range(0, len(sites), ROWS):
        chunk = sites[first : first + ROWS]
        rewrite = {site: _zero_row(row, length) for row, site in enumerate(chunk)}
        zeroed = model.run(pad([ids] * len(chunk)), rewrite=rewrite).logits
        assert zeroed is not None
        smallest = min(smallest, float((zeroed - plain).abs().amax(dim=(1, 2)).min()))
    return Check("rewriting any site with zeros changes the logits", smallest, smallest > 0)


def _zero_row(row: int, length: int) -> Rewrite:
    def rewrite(value: Tensor) -> Tensor:
        rows = torch.full((length,), row)
        return put(rows, torch.arange(length), value.new_zeros(length, value.shape[-1]))(value)

    return rewrite
