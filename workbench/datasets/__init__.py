"""Where concepts come from: `load_concept("demo:chemistry")`, or the path of a file of one's own facts.

Each source is one file with a function `load(name) -> Concept`; this table is the whole list.
"""

import importlib
from pathlib import Path

from workbench.concepts import Concept
from workbench.errors import BadInput, did_you_mean

SOURCES = {"demo": "workbench.datasets.demo"}
"""Prefix of a concept's name -> module that loads it."""

FILE_SUFFIXES = (".json", ".jsonl", ".yaml", ".yml")
"""Kinds of file that can hold one's own facts."""


def load_concept(spec: str | Path) -> Concept:
    """Load a concept by name (`source:which`) or from a file.

    Raises:
        BadInput: for an unknown source or concept, a missing or malformed file, or an empty forget set.
    """
    text = str(spec)
    if Path(text).suffix in FILE_SUFFIXES:
        from workbench.datasets.own_file import load as load_file

        return load_file(Path(text)).check()
    source, colon, which = text.partition(":")
    if not colon:
        raise BadInput(
            f"{text!r} is no concept. A concept reads like demo:chemistry, or is the path of a file ending in "
            f"{', '.join(FILE_SUFFIXES)}"
        )
    if source not in SOURCES:
        raise BadInput(
            f"No concept source called {source!r}. {did_you_mean(source, SOURCES)}, or give the path of a file"
        )
    loaded: Concept = importlib.import_module(SOURCES[source]).load(which)
    return loaded.check()
