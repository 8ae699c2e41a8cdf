"""What the features of a sparse autoencoder did at every token of some texts, kept small: only what is not zero.

Two models read on the same texts are compared token by token, and which features that will be about is known only
when both were read; so the first reading keeps every activation. Of 80 facts of 10 tokens with 50 active features these
are 40,000 numbers, for any width of the autoencoder.
Read it as: `kept.of(17)` is feature 17 at every token, `kept.row` says which text a token is of.
Does not show: special tokens, which do not count (`workbench.sae_reading.counted`).
"""

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import BadInput

MOST = 2**20
"""Activations that notes hold, 8 bytes each before they are packed; a trace of more would be slow to read."""

TYPES = {"lengths": "<i4", "token": "<i4", "feature": "<i4", "value": "<f4"}
"""How each array is packed."""


@dataclass(frozen=True)
class Activations:
    """Activations of features, those that are not zero."""

    lengths: Int[np.ndarray, " row"]
    """How many tokens of each text count."""
    token: Int[np.ndarray, " entry"]
    """The token of each entry, counted through all texts."""
    feature: Int[np.ndarray, " entry"]
    """Number of its feature."""
    value: Float[np.ndarray, " entry"]
    """The activation, above zero."""

    @property
    def row(self) -> Int[np.ndarray, " token"]:
        """The text of every token."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def features(self) -> Int[np.ndarray, " fires"]:
        """Numbers of the features that fire at all, ascending."""
        return np.unique(self.feature)

    def of(self, feature: int) -> Float[np.ndarray, " token"]:
        """One feature at every token; 0 where it does not fire."""
        dense, here = np.zeros(int(self.lengths.sum())), self.feature == feature
        dense[self.token[here]] = self.value[here]
        return dense

    def packed(self) -> dict[str, str]:
        """As text, for the notes of a trace: each array as base64 of its compressed bytes."""
        arrays = {name: np.asarray(getattr(self, name), dtype=kind).tobytes() for name, kind in TYPES.items()}
        return {name: base64.b64encode(zlib.compress(raw)).decode() for name, raw in arrays.items()}

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> "Activations":
        """What `packed` wrote.

        Raises:
            BadInput: when it is damaged.
        """
        try:
            raw = {name: zlib.decompress(base64.b64decode(packed[name])) for name in TYPES}
            return cls(**{name: np.frombuffer(raw[name], dtype=kind) for name, kind in TYPES.items()})
        except (LookupError, TypeError, ValueError, zlib.error) as error:
            raise BadInput(f"The activations in the notes cannot be read: {error}. Take the reading again") from None
