"""How far the model's next-token distributions have moved from the base's, at the tokens of the answers.

Formula: KL(base || model), mean over the positions that predict each answer's tokens (teacher forcing). The base is
read first: its `likeliest` tokens with their log-probabilities, and that of all others together, are stored as a trace;
the other model is compared with that, so one model is open at a time. Merging the others makes it a lower bound, exact
when the whole vocabulary is stored (audits/metrics/coarse_kl.py).
Read it as: 0, as the base. On forget facts a retrained model is far from the base too; hold it against that. On near
and far facts it is damage that no single answer shows yet.
Does not show: direction: far from the base is not the same as forgotten.
"""

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from audits.behaviour.answer_reading import Predicted, predictions
from audits.behaviour.answers import fact_trace
from audits.behaviour.generations import with_text
from audits.metrics.coarse_kl import coarse_kl
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.trace import Trace


class NextTokens(Method):
    """The likeliest next tokens at every answer token, and how likely everything else is."""

    likeliest: int = Field(64, ge=1)
    """Tokens stored a position; the whole vocabulary when it has no more."""

    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Axes (token, rank): log-probabilities in nats, the last rank being all other tokens; ids are in the notes."""
        about = model.about(facts)
        parts = list(predictions(model, model.encode(facts.facts)))
        ids, values = zip(*(self._likeliest(p) for p in parts), strict=True)
        owners = [row for row, p in enumerate(parts) for _ in p.token]
        table = torch.cat(values).numpy()
        labels = {
            "token": tuple(f"{i}@{owner}" for i, owner in enumerate(owners)),
            "rank": (*map(str, range(table.shape[1] - 1)), "others"),
        }
        notes: dict[str, Any] = {
            **about,
            "options": self.spec(),
            "ids": torch.cat(ids).tolist(),
            "targets": [t for p in parts for t in p.token.tolist()],
        }
        return Trace("next_tokens", table, ("token", "rank"), "nats", labels, notes)

    def _likeliest(self, part: Predicted) -> tuple[Tensor, Float[Tensor, "token k"]]:
        every = part.logits.log_softmax(dim=-1)
        ids = every.topk(min(self.likeliest, every.shape[-1]), dim=-1).indices
        return ids.cpu(), of_tokens(every, ids)


class KlToBase(Method):
    """KL divergence from the base's next-token distributions to the model's."""

    donor_from: ClassVar[Literal["against", "checkpoint"]] = "against"

    likeliest: int = Field(64, ge=1)
    """The base's tokens that are told apart."""

    def donor_reading(self) -> NextTokens:
        """The base's distributions."""
        return NextTokens(likeliest=self.likeliest)

    def look(self, model: HookedModel, facts: FactSet, donor: Trace) -> Trace:
        """Nats a token, one mean a fact; the notes say how much of the base's probability was told apart.

        Args:
            model: the audited model.
            facts: where to compare.
            donor: what `NextTokens` read of the base on the same facts.

        Raises:
            BadInput: when the donor's reading is of other facts or another tokenizer.
        """
        model.about(facts)  # refuses an empty set
        parts = list(predictions(model, model.encode(facts.facts)))
        self._require_fit(facts, donor, [t for p in parts for t in p.token.tolist()])
        ids = torch.tensor(donor.notes["ids"]).split([len(p.token) for p in parts])
        ours = [of_tokens(p.logits.log_softmax(dim=-1), i) for p, i in zip(parts, ids, strict=True)]
        every = coarse_kl(donor.values, torch.cat(ours).numpy())
        owner = np.repeat(np.arange(len(parts)), [len(p.token) for p in parts])
        values = np.array([every[owner == fact].mean() for fact in range(len(parts))])
        told = float(1 - np.exp(donor.values[:, -1]).mean())
        trace = fact_trace("kl_to_base", values, "nats per token", facts, model, self)
        return with_text(trace, donor=donor.notes.get("model"), told_apart=told)

    def _require_fit(self, facts: FactSet, donor: Trace, targets: list[int]) -> None:
        told = donor.notes
        same = told.get("facts_digest") == facts.digest and told.get("targets") == targets
        if donor.name != "next_tokens" or not same:
            raise BadInput(
                f"KlToBase needs the base's next_tokens on {facts.name} with the same tokenizer; got {donor.name!r} of "
                f"{told.get('model')} on {told.get('facts')}. Take it with NextTokens().look(base, facts)"
            )


def of_tokens(every: Float[Tensor, "token vocab"], ids: Tensor) -> Float[Tensor, "token k"]:
    """Log-probabilities of some tokens and, last, of all the others together; minus infinity when there are none."""
    ids = ids.to(every.device)
    chosen = every.gather(-1, ids)
    others = every.scatter(-1, ids, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return torch.cat([chosen, others], dim=-1).double().cpu()
