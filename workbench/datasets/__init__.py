"""Where concepts come from: `load_concept("tofu:forget10")`, or the path of a file of one's own facts.

Each source is one file with a function `load(wanted) -> Concept`; this table is the whole list.
"""

import importlib
from pathlib import Path
from typing import Any

from workbench.concepts import Concept
from workbench.errors import BadInput, did_you_mean

SOURCES = {
    "demo": "workbench.datasets.demo",
    "tofu": "workbench.datasets.tofu",
    "muse": "workbench.datasets.muse",
    "rwku": "workbench.datasets.rwku",
    "wmdp": "workbench.datasets.wmdp",
    "conceptvectors": "workbench.datasets.concept_vectors",
    "counterfact": "workbench.datasets.counterfact",
    "known_1000": "workbench.datasets.known_1000",
    "lume": "workbench.datasets.lume",
    "pistol": "workbench.datasets.pistol",
    "mmlu": "workbench.datasets.mmlu",
    "text": "workbench.datasets.plain_text",
}
"""Prefix of a concept's name -> module that loads it."""

EXAMPLES = {
    "demo:chemistry": "embedded world of fictitious facts; needs no download",
    "tofu:forget10": "fictitious authors; forget01, forget05, forget10",
    "muse:news": "news articles or books (muse:books): questions, verbatim passages, members and non-members",
    "rwku:Stephen King": "200 famous people; three levels with nine attacks, neighbours, utility",
    "wmdp:bio": "multiple choice on hazardous knowledge: bio, cyber, chem; corpora",
    "conceptvectors:llama:Poland": "concepts with the value vector that holds them: llama:..., olmo:...",
    "counterfact:P103": "facts of one relation, one subject, or all; with neighbours",
    "known_1000:P36": "facts GPT-2 XL knows, of one relation, one subject, or all",
    "lume:task2": "creative texts, made-up personal data, biographies: task1 to task3, or all",
    "pistol:sample1:A_B": "made-up contracts; the edges of a graph",
    "mmlu:virology": "one subject of MMLU",
    "text:PATH": "passages of plain text, to be continued word for word",
}
"""A name of every source -> what it has."""

FILE_SUFFIXES = (".json", ".jsonl", ".yaml", ".yml")
"""Kinds of file that can hold one's own facts."""


def load_concept(spec: str | Path, *, data: Path | None = None, offline: bool = False, **draw: Any) -> Concept:
    """Load a concept by name (`source:which`) or from a file.

    Args:
        spec: as in `workbench.datasets.spec`, or the path of a file of one's own facts.
        data: folder of local data sets, a folder a source; else the environment variable WORKBENCH_DATA.
        offline: read no hub.
        draw: options of `workbench.datasets.spec.Draw`: limit, forget_limit, seed, frame, answer.

    Raises:
        BadInput: for an unknown source or concept, a missing or malformed file, or an empty forget set.
    """
    text = str(spec)
    source, colon, _ = text.partition(":")
    if Path(text).suffix in FILE_SUFFIXES and not (colon and source in SOURCES):
        from workbench.datasets.own_file import load as load_file

        return load_file(Path(text)).check()
    if not colon:
        raise BadInput(
            f"{text!r} is no concept. A concept reads like demo:chemistry, or is the path of a file ending in "
            f"{', '.join(FILE_SUFFIXES)}"
        )
    if source not in SOURCES:
        raise BadInput(
            f"No concept source called {source!r}. {did_you_mean(source, SOURCES)}, or give the path of a file"
        )
    from workbench.datasets.spec import parse

    loaded: Concept = importlib.import_module(SOURCES[source]).load(parse(text, data, offline, **draw))
    return loaded.check()
