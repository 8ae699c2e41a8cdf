"""Text of runs and models made safe for Streamlit, which reads Markdown (links and images included) in most places."""

import re

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^=@/])")


def safe(text: object, width: int = 0) -> str:
    """The text as it stands, on one line: no markup, no link, no image, no HTML; shortened when `width` is given.

    An image in a run's name would otherwise make the browser ask another machine for it.
    """
    words = " ".join(str(text).split())
    if width and len(words) > width:
        words = words[: width - 1] + "…"
    return _SPECIAL.sub(r"\\\1", words)
