"""Lens words: which word stands first at every layer and token, and how likely the answer is there.

Source: the logit lens of nostalgebraist 2020, https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens,
as in `probes.logit_lens`, drawn as there: layers by tokens, the first word in each cell. Tokens of the prompt are asked
for the answer's first token, tokens of the answer for the one behind them.
For pages that show single facts; no claim rests on it.
Read it as: the last layer is what the weights say (a guard that rewrites logits is not heard here); a word that stands
first in the middle and not at the end was written and then overruled.
Does not show: words in another form than the unembedding's; early layers of many models read as noise.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from probes.lens_readings import logprob_and_rank
from workbench.concepts import FactSet
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.token_strings import strings_of, vocabulary_of
from workbench.tokens import Encoded, pad
from workbench.trace import Trace

ROWS, DECODED = 32, 512
"""Texts a pass, and positions whose logits are in memory at once."""

MEASURES = {
    "probability": "probability of the token asked for",
    "rank": "its rank in the vocabulary, 1 is first",
    "likeliest": "probability of the word that stands first",
    "word": "id of that word; `vocabulary` spells it",
}
"""What is read in each cell."""


@dataclass(frozen=True)
class Words:
    """What the lens says over one text."""

    values: Float[Tensor, "measure layer token"]
    """`MEASURES`, on the CPU."""
    asked: tuple[int, ...]
    """The token each position is asked for."""


class LensWords(Method):
    """The first word, and the answer's probability and rank, at every layer and token of a few facts."""

    max_facts: int = Field(20, ge=1)
    """Facts that are read, from the first on: each is a map of its own."""

    def look(self, model: HookedModel, facts: FactSet) -> Trace:
        """Axes (measure, fact, layer, token); NaN behind a fact's end.

        Raises:
            BadInput: when there are no facts.
        """
        facts = facts.model_copy(update={"facts": facts.facts[: self.max_facts]})
        about = model.about(facts)
        encoded = model.encode(facts.facts)
        found = list(read_words(model, encoded))
        width = max(len(words.asked) for words in found)
        values = np.full((len(MEASURES), len(found), len(model.stream), width), np.nan, np.float32)
        for fact, words in enumerate(found):
            values[:, fact, :, : len(words.asked)] = words.values.numpy()
        ids = values[list(MEASURES).index("word")]
        notes = {
            **about,
            "options": self.spec(),
            "axes": {"measure": MEASURES},
            "prompt": [model.prompted(fact).prompt for fact in facts],
            "answer": [fact.answer for fact in facts],
            "prompt_tokens": [e.answer_start for e in encoded],
            "tokens": [strings_of(model.tokenizer, e.ids[:-1]) for e in encoded],
            "asked": [strings_of(model.tokenizer, words.asked) for words in found],
            "vocabulary": vocabulary_of(model.tokenizer, ids[np.isfinite(ids)].astype(int).tolist()),
        }
        labels = {
            "measure": tuple(MEASURES),
            "fact": facts.labels,
            "layer": tuple(model.stream),
            "token": tuple(map(str, range(width))),
        }
        return Trace("lens_words", values, ("measure", "fact", "layer", "token"), "see measure", labels, notes)


def asked_of(text: Encoded) -> tuple[int, ...]:
    """The token each position but the last is asked for: the answer's first, then the one that comes next."""
    return tuple(text.answer[max(0, i + 1 - text.answer_start)] for i in range(len(text.ids) - 1))


def read_words(model: HookedModel, encoded: Sequence[Encoded]) -> Iterator[Words]:
    """What the lens says over each text, at every position that has one behind it."""
    for start in range(0, len(encoded), ROWS):
        some = encoded[start : start + ROWS]
        asked = [asked_of(text) for text in some]
        row = torch.tensor([i for i, tokens in enumerate(asked) for _ in tokens])
        position = torch.tensor([i for tokens in asked for i in range(len(tokens))])
        token = torch.tensor([one for tokens in asked for one in tokens])
        batch = pad([text.ids for text in some], [text.answer_start for text in some])
        acts = model.run(batch, read=list(model.stream.values()), logits=False).acts
        layers = [_decoded(model, acts[site][row, position], token) for site in model.stream.values()]
        values = torch.stack(layers, dim=1)
        for part, tokens in zip(values.split([len(tokens) for tokens in asked], dim=2), asked, strict=True):
            yield Words(part, tokens)


@torch.no_grad()
def _decoded(
    model: HookedModel, states: Float[Tensor, "n d_model"], token: Int[Tensor, " n"]
) -> Float[Tensor, "measure n"]:
    parts = []
    for some, asked in zip(states.split(DECODED), token.split(DECODED), strict=True):
        logits = model.decode(some).float()
        logprob, rank = logprob_and_rank(logits, asked)
        best, word = logits.max(dim=-1)
        likeliest = (best - logits.logsumexp(dim=-1)).exp()
        parts.append(torch.stack([logprob.exp(), rank.float(), likeliest, word.float()]).cpu())
    return torch.cat(parts, dim=1)
