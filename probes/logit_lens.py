"""Logit lens: at which layer could the model already say the answer, if that layer were its last?

Source: nostalgebraist 2020, "interpreting GPT: the logit lens",
https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens: the residual stream after every
block through the model's own final norm and unembedding. Variant: an answer of several tokens is teacher forced and
scored whole, each token at the position that predicts it (the original reads one next token).
Read it as: an answer that a middle layer ranks first and the last layer does not was silenced, not removed. The last
layer is the model's own output. With `statistic="choice"` chance is 1 / number of candidates.
Does not show: knowledge in another form than the unembedding's; early layers of many models need a trained
translation to be readable, so a low value there is no proof of absence (see `linear_probes`).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.concepts import FactSet
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.scoring import chunks, sum_by_row
from workbench.tokens import Encoded
from workbench.trace import Trace

UNITS = {
    "probability": "probability",
    "logprob": "nats",
    "rank": "rank (1 is first, smaller is more knowledge)",
    "choice": "share of facts",
}
"""Unit of each statistic."""


class LogitLens(Method):
    """How far every layer already is with the answer."""

    statistic: Literal["probability", "logprob", "rank", "choice"] = "probability"
    """Of the answer: its probability, log-probability, worst rank of its tokens in the vocabulary, or whether it is
    the likeliest of the fact's candidates (1, 0, or 1/n when n tie)."""
    answer: Literal["whole", "first_token"] = "whole"
    """Score every token of the answer, or its first alone (as the original does)."""

    @torch.no_grad()
    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Read every layer at the positions that predict the answer."""
        about = model.about(facts)
        asked = [
            fact.model_copy(update={"answer": word})
            for fact in facts
            for word in (fact.candidates if self.statistic == "choice" else (fact.answer,))
        ]
        encoded = model.encode(asked)
        if self.answer == "first_token":
            encoded = [replace(e, ids=e.ids[: e.answer_start + 1]) for e in encoded]
        logprob, rank = lens_scores(model, encoded)
        candidates = [len(fact.candidates) for fact in facts]
        if self.statistic == "choice":
            values = torch.stack([choice(of_fact) for of_fact in logprob.split(candidates, dim=1)], dim=1)
        else:
            values = {"probability": logprob.exp(), "logprob": logprob, "rank": rank}[self.statistic]
        chance = float(np.mean([1 / n for n in candidates if n > 1])) if max(candidates, default=0) > 1 else None
        labels = {"layer": tuple(model.stream), "fact": facts.labels}
        return Trace(
            "logit_lens",
            values.numpy(),
            ("layer", "fact"),
            UNITS[self.statistic],
            labels,
            about
            | {
                "options": self.spec(),
                "chance": chance if self.statistic == "choice" else None,
                "without_candidates": candidates.count(1) if self.statistic == "choice" else None,
                "axes": {
                    "layer": "embed is what enters the first block, L3 what leaves block 3; the last is the output"
                },
            },
        )


def lens_scores(
    model: HookedModel, encoded: Sequence[Encoded]
) -> tuple[Float[Tensor, "layer n"], Float[Tensor, "layer n"]]:
    """Every layer's log-probability of each answer (nats, summed over its tokens) and the worst rank of its tokens."""
    logprobs, ranks = [], []
    for batch, targets in chunks(encoded):
        acts = model.run(batch, read=list(model.stream.values()), logits=False).acts
        rows = len(batch.ids)
        for_layers = [
            logprob_and_rank(model.decode(acts[site][targets.row, targets.position]), targets.token)
            for site in model.stream.values()
        ]
        logprobs.append(torch.stack([sum_by_row(logprob, targets.row, rows) for logprob, _ in for_layers]).cpu())
        ranks.append(
            torch.stack(
                [torch.zeros(rows).scatter_reduce(0, targets.row, rank.float().cpu(), "amax") for _, rank in for_layers]
            )
        )
    return torch.cat(logprobs, dim=1), torch.cat(ranks, dim=1)


def logprob_and_rank(
    logits: Float[Tensor, "n vocab"], token: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Log-probability of each token, and its rank among all tokens (1 is first)."""
    logits, token = logits.float(), token.to(logits.device)[:, None]
    rank = (logits > logits.gather(-1, token)).sum(dim=-1) + 1
    return torch.log_softmax(logits, dim=-1).gather(-1, token)[:, 0], rank


def choice(logprob: Float[Tensor, "layer candidate"]) -> Float[Tensor, " layer"]:
    """Whether the first candidate is the likeliest: 1, 0, or 1/n when it is one of n that tie; NaN without a choice."""
    if logprob.shape[1] == 1:
        return torch.full((len(logprob),), torch.nan)
    # Candidates that begin alike tie by construction, up to the rounding of separate rows.
    best = logprob >= logprob.max(dim=1, keepdim=True).values - 1e-5
    return best[:, 0] / best.sum(dim=1)
