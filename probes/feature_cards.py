"""What is kept of single features: the tokens each writes, how strongly it fires, and the texts it fires in most.

Kept for few features, because a card is long: those that were found, and those that changed most.
Read it as: `features` holds tokens by the decoder row's logits. `cards` holds, before and after, how many tokens of the
facts to forget lie in each bin of the activation (tokens at which it does not fire are not in it), and the facts in
which the feature fires most strongly in either model, with the activation at each token; both models read one text.
Does not show: activations on other text than the facts to forget; a feature's strongest examples say what drives it at
its strongest, and may say little of its weak ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from probes.vector_scan import top_ids, vocabulary
from workbench.model import HookedModel
from workbench.sae_activations import Activations
from workbench.sae_reading import Dictionary
from workbench.token_strings import strings_of
from workbench.tokens import Encoded

BINS = 16
"""Of a feature's histogram, from 0 to its largest activation in either model."""

DIGITS = 4
"""Significant digits of an activation that is kept to be shown."""


@torch.no_grad()
def written(
    model: HookedModel, dictionary: Dictionary, features: Sequence[int], tokens: int
) -> dict[str, dict[str, list[str]]] | None:
    """The tokens each feature writes for and against; None where it does not write into the residual stream."""
    if dictionary.decoder.shape[1] != model.d_model or not features:
        return None if dictionary.decoder.shape[1] != model.d_model else {}
    rows = dictionary.decoder[list(features)].to(model.unembedding.device)
    logits, among = rows @ model.unembedding.float().T, vocabulary(model)
    up, down = (top_ids(sign * logits, tokens, among).tolist() for sign in (1, -1))
    words = model.tokenizer.convert_ids_to_tokens
    return {
        str(feature): {"promotes": words(up[i]), "suppresses": words(down[i])} for i, feature in enumerate(features)
    }


def cards(features: Sequence[int], sides: Mapping[str, Activations], examples: int) -> dict[str, dict[str, Any]]:
    """Feature, as text -> its histogram and the facts in which it fires most.

    Args:
        features: whose.
        sides: `before` (where there is a donor) and `after`, of the same tokens.
        examples: facts a feature at most.
    """
    borders = np.cumsum(sides["after"].lengths)[:-1]
    return {
        str(feature): _card({name: one.of(feature) for name, one in sides.items()}, borders, examples)
        for feature in features
    }


def _card(dense: Mapping[str, np.ndarray], borders: np.ndarray, examples: int) -> dict[str, Any]:
    largest = max((float(values.max(initial=0.0)) for values in dense.values()), default=0.0)
    edges = np.linspace(0.0, largest, BINS + 1) if largest > 0 else np.zeros(0)
    by_fact = {name: np.split(values, borders) for name, values in dense.items()}
    peaks = np.max([[part.max(initial=0.0) for part in parts] for parts in by_fact.values()], axis=0)
    order = [int(i) for i in np.argsort(-peaks, kind="stable")[:examples] if peaks[i] > 0]
    return {
        "histogram": {
            "edges": edges.tolist(),
            **{
                name: np.histogram(values[values > 0], edges)[0].tolist() if len(edges) else []
                for name, values in dense.items()
            },
        },
        "examples": [{"fact": i, **{name: _short(parts[i]) for name, parts in by_fact.items()}} for i in order],
    }


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def texts_of(model: HookedModel, encoded: Sequence[Encoded], made: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Fact, as text -> its tokens that count, and which of these is the first of the answer; those on a card only."""
    special, told = set(model.tokenizer.all_special_ids), {}
    for fact in sorted({example["fact"] for card in made.values() for example in card["examples"]}):
        one = encoded[fact]
        before = [i for i in one.ids[: one.answer_start] if i not in special]
        answer = [i for i in one.answer if i not in special]
        told[str(fact)] = {
            "tokens": strings_of(model.tokenizer, [*before, *answer]),
            "answer_from": len(before),
        }
    return told
