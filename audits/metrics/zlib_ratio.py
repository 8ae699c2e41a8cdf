"""Membership by loss over compressed size: a text that is hard to compress may have a high loss without being unknown.

Source: Carlini et al. 2021, https://arxiv.org/abs/2012.07805; as OpenUnlearning, MUSE and RWKU have it: mean token loss
divided by the number of bytes zlib makes of the text (bytes, not bits; OpenUnlearning compresses the answer only).
Read it as: lower, more likely trained on. Does not show: anything for texts of very unequal kinds.
"""

import zlib


def zlib_ratio(loss: float, text: str) -> float:
    """Mean token loss (nats) a compressed byte of the text's UTF-8 form."""
    return loss / len(zlib.compress(text.encode()))
