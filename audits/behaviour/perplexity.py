"""Does it still write fluently? Negative log-likelihood per token of plain text.

Read it as: exp of the mean is the perplexity; compare with the base. Does not show: whether single facts stand.
"""

from collections.abc import Sequence

import torch

from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.objectives import IGNORED, token_loss
from workbench.registry import Method
from workbench.tokens import encode_text, pad
from workbench.trace import Trace

ROWS = 32
"""Texts a forward pass."""


class Perplexity(Method):
    """Token log-loss of texts."""

    def look(self, model: HookedModel, texts: Sequence[str]) -> Trace:
        """Mean negative log-likelihood per token of each text, nats.

        Raises:
            BadInput: when a text has fewer than two tokens.
        """
        rows = [encode_text(model.tokenizer, text) for text in texts]
        short = [text for text, row in zip(texts, rows, strict=True) if len(row) < 2]
        if short:
            raise BadInput(f"The text {short[0]!r} has fewer than two tokens; perplexity needs something to predict")
        values = []
        for start in range(0, len(rows), ROWS):
            batch = pad(rows[start : start + ROWS])
            logits = model.run(batch).logits
            assert logits is not None
            labels = batch.ids.masked_fill(~batch.mask, IGNORED).to(logits.device)
            loss = token_loss(logits.float(), labels)
            values.append((loss.total / loss.count).double().cpu())
        names = tuple(f"{i}: {text[:60]}" for i, text in enumerate(texts))
        return Trace(
            "perplexity",
            torch.cat(values).numpy(),
            ("text",),
            "nats per token",
            {"text": names},
            {"options": self.spec(), "model": model.name},
        )
