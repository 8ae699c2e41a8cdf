"""Which tokens a probe's weight directions promote: what the reader of an answer listens to, in the model's own words.

Source: projection of a direction to the vocabulary as in Geva et al. 2021, https://arxiv.org/abs/2012.14913. Variant:
the direction is the answer's weights in the states' own units (divided by the spread the probe was trained with),
times the gain of the final norm, through the unembedding.
Read it as: an answer whose own token is among the first is read off the direction that would say it; elsewhere the
probe listens to something else.
Does not show: anything of the tested facts: the probe learnt on other subjects, and a reference that never saw the
forgotten ones listens to the same tokens. Nor what the states write: weights also cancel what disturbs (Haufe et al.
2014, https://doi.org/10.1016/j.neuroimage.2013.10.067), so that a token is not there says nothing.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.probe_rows import Rows, spread_of
from probes.vector_scan import top_ids, vocabulary
from workbench.concepts import Fact
from workbench.model import HookedModel
from workbench.token_strings import vocabulary_of

NOTHING = 1e-5
"""Weights (of standardised states) smaller than this say nothing: where states do not differ they are all but zero."""


@torch.no_grad()
def promoted(
    model: HookedModel,
    rows: Rows,
    train: Bool[Tensor, " row"],
    weight: Float[Tensor, "layer d_model class"],
    truths: Mapping[int, Fact],
    k: int,
) -> dict[str, Any]:
    """Notes: layer -> answer -> ids of its first k tokens, the rank of the answer's own first token, and the spelling.

    An answer without training rows, or without weights at a layer, has no entry.

    Args:
        model: whose unembedding is used.
        rows: what was trained on.
        train: which of them.
        weight: of a regression on those rows, divided by their spread.
        truths: number of an answer -> a fact that has it: the answers that are looked at.
        k: tokens kept.
    """
    seen = sorted(set(rows.label[rows.fact[train]].tolist()) & set(truths))
    if not seen:
        return {"promoted": {}, "own_rank": {}, "vocabulary": {}}
    own = torch.tensor([e.answer[0] for e in model.encode([truths[one] for one in seen])])
    among, gain = vocabulary(model), model.final_gain
    first: dict[str, dict[str, list[int]]] = {}
    ranks: dict[str, dict[str, int]] = {}
    for layer, of_layer, spread in zip(model.stream, weight, spread_of(rows, train), strict=True):
        direction = (of_layer / spread.T)[:, seen].T.to(gain) * gain
        logits = direction @ model.unembedding.T
        mine = logits.gather(1, own.to(logits.device)[:, None])
        said = [(str(one), i) for i, one in enumerate(seen) if float(of_layer[:, one].norm()) > NOTHING]
        ids, rank = top_ids(logits, k, among).tolist(), ((logits[:, among] > mine).sum(dim=1) + 1).tolist()
        first[layer], ranks[layer] = {name: ids[i] for name, i in said}, {name: rank[i] for name, i in said}
    every = [token for by_answer in first.values() for ids in by_answer.values() for token in ids]
    return {"promoted": first, "own_rank": ranks, "vocabulary": vocabulary_of(model.tokenizer, every)}
