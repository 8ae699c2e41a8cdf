"""Lens words: which words stand first at every layer and token, and how likely the answer is there.

Source: the logit lens of nostalgebraist 2020, https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens,
as in `probes.logit_lens`, drawn as there: layers by tokens, the first word in each cell. Tokens of the prompt are asked
for the answer's first token, tokens of the answer for the one behind them.
For pages that show single facts; no claim rests on it. The KL divergence from the base is over the base's ten likeliest
words at the same layer and token, and all others as one: merging can only lower it, so it is a lower bound.
Read it as: the last layer is what the weights say (a guard that rewrites logits is not heard here); a word that stands
first in the middle and not at the end was written and then overruled.
Does not show: words in another form than the unembedding's; early layers of many models read as noise.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from probes.lens_readings import entropy, logprob_and_rank
from workbench.concepts import FactSet
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.registry import Method
from workbench.token_strings import strings_of, vocabulary_of
from workbench.tokens import Encoded, pad
from workbench.trace import Trace

ROWS, DECODED = 32, 512
"""Texts a pass, and positions whose logits are in memory at once."""

LIKELIEST = 10
"""Words that are kept of each cell."""

MEASURES = {
    "probability": "probability of the token asked for",
    "rank": "its rank in the vocabulary, 1 is first",
    "likeliest": "probability of the word that stands first",
    "word": "id of that word; `vocabulary` spells it",
    "entropy": "of the lens's whole distribution, nats",
    "kl": f"KL divergence from the base, over its {LIKELIEST} likeliest words and the rest, nats; a lower bound",
    **{f"likeliest {i}": f"probability of the word in place {i}" for i in range(2, LIKELIEST + 1)},
    **{f"word {i}": f"id of the word in place {i}" for i in range(2, LIKELIEST + 1)},
}
"""What is read in each cell; `kl` only of a model that is held against the base."""

PLACES = (
    ("likeliest", *(f"likeliest {i}" for i in range(2, LIKELIEST + 1))),
    ("word", *(f"word {i}" for i in range(2, LIKELIEST + 1))),
)
"""Measures of the likeliest words in order: their probabilities and their ids."""


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

    def look(self, model: HookedModel, facts: FactSet, base: Trace | None = None) -> Trace:
        """Axes (measure, fact, layer, token); NaN behind a fact's end, and for `kl` where no base is given.

        Args:
            model: the model.
            facts: what to read over.
            base: what this probe read of the base on the same facts.

        Raises:
            BadInput: when there are no facts, or the base was read on other facts, layers or tokens.
        """
        facts = facts.model_copy(update={"facts": facts.facts[: self.max_facts]})
        about = model.about(facts)
        encoded = model.encode(facts.facts)
        tokens = [strings_of(model.tokenizer, e.ids[:-1]) for e in encoded]
        if base is not None:
            _require_fit(base, tokens, tuple(model.stream))
        found = list(read_words(model, encoded, base))
        width = max(len(words.asked) for words in found)
        values = np.full((len(MEASURES), len(found), len(model.stream), width), np.nan, np.float32)
        for fact, words in enumerate(found):
            values[:, fact, :, : len(words.asked)] = words.values.numpy()
        ids = values[[list(MEASURES).index(name) for name in PLACES[1]]]
        notes = {
            **about,
            "options": self.spec(),
            "axes": {"measure": MEASURES},
            "prompt": [model.prompted(fact).prompt for fact in facts],
            "answer": [fact.answer for fact in facts],
            "prompt_tokens": [e.answer_start for e in encoded],
            "tokens": tokens,
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


def _require_fit(base: Trace, tokens: list[list[str]], layers: tuple[str, ...]) -> None:
    """The base's cells are the same cells, and hold its likeliest words."""
    measures = set(base.labels.get("measure", ()))
    same = base.notes.get("tokens") == tokens and base.labels.get("layer") == layers
    if base.name != "lens_words" or not same or not measures >= {name for names in PLACES for name in names}:
        raise BadInput(
            f"The KL divergence needs the base's lens_words on the same facts, layers and tokens; got {base.name!r} of "
            f"{base.notes.get('model')} on {base.notes.get('facts')}. Take it with LensWords().look(base, facts)"
        )


def read_words(model: HookedModel, encoded: Sequence[Encoded], base: Trace | None = None) -> Iterator[Words]:
    """What the lens says over each text, at every position that has one behind it."""
    for start in range(0, len(encoded), ROWS):
        some = encoded[start : start + ROWS]
        asked = [asked_of(text) for text in some]
        row = torch.tensor([i for i, tokens in enumerate(asked) for _ in tokens])
        position = torch.tensor([i for tokens in asked for i in range(len(tokens))])
        token = torch.tensor([one for tokens in asked for one in tokens])
        before = None if base is None else _of_base(base)[:, start + row, :, position]  # (position, part, layer, word)
        batch = pad([text.ids for text in some], [text.answer_start for text in some])
        acts = model.run(batch, read=list(model.stream.values()), logits=False).acts
        layers = [
            _decoded(model, acts[site][row, position], token, None if before is None else before[:, :, layer])
            for layer, site in enumerate(model.stream.values())
        ]
        values = torch.stack(layers, dim=1)
        for part, tokens in zip(values.split([len(tokens) for tokens in asked], dim=2), asked, strict=True):
            yield Words(part, tokens)


def _of_base(base: Trace) -> Float[Tensor, "part fact layer token word"]:
    """Probabilities and ids of the base's likeliest words in each cell."""
    parts = [np.stack([base.pick("measure", name).values for name in names], axis=-1) for names in PLACES]
    return torch.from_numpy(np.stack(parts))


@torch.no_grad()
def _decoded(
    model: HookedModel,
    states: Float[Tensor, "n d_model"],
    token: Int[Tensor, " n"],
    base: Float[Tensor, "n part word"] | None,
) -> Float[Tensor, "measure n"]:
    """Every measure in its order."""
    parts = []
    held = [None] * math.ceil(len(states) / DECODED) if base is None else base.split(DECODED)
    for some, asked, before in zip(states.split(DECODED), token.split(DECODED), held, strict=True):
        logits = model.decode(some).float()
        logprob, rank = logprob_and_rank(logits, asked)
        best, words = logits.topk(min(LIKELIEST, logits.shape[-1]), dim=-1)
        likeliest = (best - logits.logsumexp(dim=-1, keepdim=True)).exp()
        none = torch.full((len(some), LIKELIEST - words.shape[1]), torch.nan, device=logits.device)
        shares, ids = torch.cat([likeliest, none], dim=1).T, torch.cat([words.float(), none], dim=1).T
        moved = torch.full_like(logprob, torch.nan) if before is None else _kl(before.to(logits.device), logits)
        first = [logprob.exp(), rank.float(), shares[0], ids[0], entropy(logits), moved]
        parts.append(torch.cat([torch.stack(first), shares[1:], ids[1:]]).cpu())
    return torch.cat(parts, dim=1)


def _kl(base: Float[Tensor, "n part word"], logits: Float[Tensor, "n vocab"]) -> Float[Tensor, " n"]:
    """KL(base || model) over the base's likeliest words and, as one more, all others."""
    share, ids = base[:, 0].double(), base[:, 1]
    known = ids.isfinite()  # a small vocabulary has fewer words
    share, ids = share.where(known, 0.0), ids.nan_to_num(0.0).long()
    every = logits.double().log_softmax(dim=-1)
    others = every.scatter(-1, ids.where(known, ids[:, :1]), -torch.inf).logsumexp(dim=-1, keepdim=True)
    share = torch.cat([share, (1 - share.sum(dim=-1, keepdim=True)).clamp(min=0)], dim=-1)
    ours = torch.cat([every.gather(-1, ids), others], dim=-1)
    terms = torch.where(share > 0, share * (share.log() - ours), 0.0)
    return terms.sum(dim=-1).clamp(min=0).float()  # rounding alone can make it negative
