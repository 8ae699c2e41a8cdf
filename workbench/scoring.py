"""The one function that scores answers, of any number of tokens, for every probe, metric and attack.

An answer's log-probability is the sum over its tokens, each predicted from the prompt and the answer's earlier
tokens (teacher forcing). Greedy decoding gives the answer exactly when every one of its tokens is the most likely
one there, so `greedy` is exact-match accuracy without generating. Only answer positions reach the unembedding.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.concepts import Fact
from workbench.errors import BadInput
from workbench.guards import spoken
from workbench.hooks import Rewrite
from workbench.model import HookedModel
from workbench.sites import Site
from workbench.tokens import Batch, Encoded, pad

CHUNK = 128
"""Facts a forward pass."""


@dataclass(frozen=True)
class Scores:
    """Scores of n answers."""

    logprob: Float[Tensor, " n"]
    """Sum of the answer tokens' log-probabilities, nats."""
    tokens: Int[Tensor, " n"]
    """How many tokens the answer has."""
    greedy: Bool[Tensor, " n"]
    """Whether greedy decoding gives the answer."""
    logit: Float[Tensor, " n"]
    """Sum of the answer tokens' logits, each less the mean logit of the vocabulary; does not saturate."""

    @property
    def probability(self) -> Float[Tensor, " n"]:
        """Probability of the whole answer."""
        return self.logprob.exp()

    @property
    def per_token(self) -> Float[Tensor, " n"]:
        """Geometric mean of the token probabilities, exp(-NLL / tokens): TOFU's and OpenUnlearning's `probability`."""
        return (self.logprob / self.tokens).exp()


@dataclass(frozen=True)
class Targets:
    """Where a batch's answer tokens are predicted, one entry an answer token."""

    row: Int[Tensor, " n"]
    """Row of the batch."""
    position: Int[Tensor, " n"]
    """Position whose logits predict the token."""
    token: Int[Tensor, " n"]
    """The token's id."""


def batch_of(encoded: Sequence[Encoded]) -> tuple[Batch, Targets]:
    """Pad prompts with their answers, and say where each answer token is predicted."""
    entries = [
        (row, e.answer_start + i - 1, token) for row, e in enumerate(encoded) for i, token in enumerate(e.answer)
    ]
    row, position, token = torch.tensor(entries).T
    return pad([e.ids for e in encoded], [e.answer_start for e in encoded]), Targets(row, position, token)


def chunks(encoded: Sequence[Encoded], size: int = CHUNK) -> Iterator[tuple[Batch, Targets]]:
    """Batches of at most `size` facts, in order."""
    for start in range(0, len(encoded), size):
        yield batch_of(encoded[start : start + size])


def token_scores(
    logits: Float[Tensor, "n vocab"], token: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"], Float[Tensor, " n"]]:
    """Log-probability of each token, whether it is the most likely one, and its logit less the mean logit."""
    token = token.to(logits.device)
    chosen = logits.gather(-1, token[:, None])[:, 0]
    return chosen - logits.logsumexp(dim=-1), logits.argmax(dim=-1) == token, chosen - logits.mean(dim=-1)


def sum_by_row(values: Float[Tensor, " n"], row: Int[Tensor, " n"], rows: int) -> Float[Tensor, " row"]:
    """Add up entries that belong to the same row."""
    return torch.zeros(rows, dtype=values.dtype, device=values.device).index_add(0, row.to(values.device), values)


def score_batch(
    model: HookedModel,
    batch: Batch,
    targets: Targets,
    *,
    rewrite: Mapping[Site, Rewrite] | None = None,
    grad: bool = False,
) -> Scores:
    """Score one batch, with sites rewritten if asked; with `grad` the log-probabilities carry the graph."""
    last = Site(model.n_layers - 1, "resid_post")
    resid = model.run(batch, read=[last], rewrite=rewrite, logits=False, grad=grad).acts[last]
    with torch.set_grad_enabled(grad):
        logits = model.decode(resid[targets.row, targets.position]).float()
        logits = spoken(model, batch, logits, targets.row, targets.position)
        logprob, best, logit = token_scores(logits, targets.token)
        rows = len(batch.ids)
        wrong = sum_by_row((~best).float(), targets.row, rows)
        return Scores(
            sum_by_row(logprob, targets.row, rows),
            targets.row.bincount(minlength=rows),
            wrong == 0,
            sum_by_row(logit, targets.row, rows),
        )


def score(model: HookedModel, facts: Sequence[Fact]) -> Scores:
    """Score the answers of facts, in order, without gradients; results are on the CPU.

    Raises:
        BadInput: when there are no facts.
    """
    if not facts:
        raise BadInput("The fact set is empty: there is nothing to score. Give at least one fact")
    parts = [score_batch(model, batch, targets) for batch, targets in chunks(model.encode(facts))]
    return Scores(
        *(torch.cat([getattr(p, name).cpu() for p in parts]) for name in ("logprob", "tokens", "greedy", "logit"))
    )


def score_candidates(model: HookedModel, facts: Sequence[Fact]) -> list[Float[Tensor, " candidate"]]:
    """Log-probability of every candidate answer of each fact, the true one first, nats."""
    asked = [fact.model_copy(update={"answer": word}) for fact in facts for word in fact.candidates]
    logprob = score(model, asked).logprob
    return list(logprob.split([len(fact.candidates) for fact in facts]))
