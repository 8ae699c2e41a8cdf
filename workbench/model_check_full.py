"""The checks of `workbench doctor`: what saving, reloading, padding and shortcuts must leave as it is.

They write the checkpoint once to a temporary folder and load it again, so they take as long as opening does.
"""

import tempfile
from collections.abc import Iterator

import torch
from torch import Tensor

from workbench.model import HookedModel
from workbench.model_check import Check, active_experts, equal
from workbench.model_run import Start
from workbench.sites import Site
from workbench.tokens import Batch, pad


def full_checks(model: HookedModel, batch: Batch, outside: Tensor) -> Iterator[Check]:
    """What `check` tries only when asked for everything."""
    yield _padding(model, batch, outside)
    if not model.read_only:
        for site in active_experts(model, batch):
            yield _zeroed_weights(model, batch, site)
        yield from _started(model, batch, outside)
        yield _after_prefix(model, batch, outside)
    yield _reloaded(model, batch, outside)


def _padding(model: HookedModel, batch: Batch, outside: Tensor) -> Check:
    """The rows padded on the left instead, with position ids that count tokens only."""
    lengths = batch.mask.sum(dim=1).tolist()
    width = batch.ids.shape[1]
    ids, mask = torch.zeros_like(batch.ids), torch.zeros_like(batch.mask)
    for row, n in enumerate(lengths):
        ids[row, width - n :], mask[row, width - n :] = batch.ids[row, :n], True
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    given = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions}
    left = model.hf(**{k: v.to(model.device) for k, v in given.items()}, use_cache=False).logits
    moved = torch.zeros_like(outside)
    for row, n in enumerate(lengths):
        moved[row, :n] = left[row, width - n :]
    return equal(model, "left and right padding agree", moved, outside, batch)


def _zeroed_weights(model: HookedModel, batch: Batch, site: Site) -> Check:
    """An expert silenced at its tap, and by taking its value vectors out of the weights."""
    assert site.layer is not None and site.expert is not None
    tapped = model.run(batch, rewrite={site: torch.zeros_like}).logits
    weight = model.value_vectors(site.layer).weight
    before = weight[site.expert].detach().clone()
    try:
        weight[site.expert] = 0
        zeroed = model.run(batch).logits
    finally:
        weight[site.expert] = before
    assert zeroed is not None
    return equal(model, f"{site}: silenced at its tap as by zeroed weights", tapped, zeroed, batch)


def _started(model: HookedModel, batch: Batch, outside: Tensor) -> Iterator[Check]:
    """A pass that begins at a middle layer, with what enters it given."""
    layer = model.n_layers // 2
    resid = model.run(batch, read=[Site(layer, "resid_pre")], logits=False).acts[Site(layer, "resid_pre")]
    ours = model.run(batch, start=Start(layer, resid)).logits
    yield equal(model, f"a pass started at layer {layer} gives the same logits", ours, outside, batch)


def _after_prefix(model: HookedModel, batch: Batch, outside: Tensor) -> Check:
    """A pass over the last tokens of a row, after the others were remembered."""
    length, cut = int(batch.mask[0].sum()), 3
    row = batch.ids[0, :length].tolist()
    rest = pad([row[cut:]])
    ours = model.run(rest, prefix=model.prefix(row[:cut])).logits
    return equal(model, "a pass after a remembered prefix gives the same logits", ours, outside[:1, cut:length], rest)


def _reloaded(model: HookedModel, batch: Batch, outside: Tensor) -> Check:
    """Written and loaded again the model says the same to the last bit."""
    from workbench.checkpoint import quiet_transformers

    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        model.hf.save_pretrained(folder)
        again = type(model.hf).from_pretrained(
            folder,
            dtype=model.hf.dtype,
            attn_implementation=model.hf.config._attn_implementation,
            local_files_only=True,
        )
        ours = again.to(model.device).eval()(**batch.inputs(model.device), use_cache=False).logits
    mask = batch.mask.to(model.device)
    ours, theirs = ours[mask], outside[mask]
    deviation = float((ours.float() - theirs.float()).abs().max())
    return Check("saved and loaded again, the logits are the same bits", deviation, torch.equal(ours, theirs))
