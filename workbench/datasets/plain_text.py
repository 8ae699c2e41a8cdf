"""Plain text of one's own: passages that a model is to forget word for word.

`text:PATH`: a file of passages (.txt with empty lines between them, JSON strings, or rows with a field `text`), or a
folder with a file `forget` and, if there are, `near`, `far`, `retain`, `holdout`, `never_taught` and `general`. A
passage gives one fact: half of its words (at most 50), then the next ones (at most 20). The passages themselves are
`forget_texts`, `retain_texts`, `holdout_texts`; `general` is the plain text for perplexity.
"""

from dataclasses import replace
from pathlib import Path

from workbench.concepts import FACT_SETS, Concept
from workbench.datasets.assembling import NO_LICENCE, assemble
from workbench.datasets.draws import counted, drawn, drawn_texts
from workbench.datasets.passages import continued
from workbench.datasets.places import Folder, Table, rows_if_any
from workbench.datasets.row import Row
from workbench.datasets.spec import Wanted
from workbench.errors import BadInput

TEXTS = {"forget_texts": "forget", "retain_texts": "retain", "holdout_texts": "holdout", "text": "general"}
"""Field of a concept -> the file of a folder that fills it."""


def load(wanted: Wanted) -> Concept:
    """Passages of a file or a folder.

    Raises:
        BadInput: when there is none, or it has no passages.
    """
    where = f"{wanted.which}@{wanted.at}" if wanted.at else wanted.which
    path, draw = Path(where).expanduser(), wanted.draw
    if not where or not path.exists():
        raise BadInput(f"There is no file or folder {where!r}. Write text:PATH, the path of a file of passages")
    folder, here = (path.parent, path.stem) if path.is_file() else (path, "")
    rows = {
        name: Folder(path).rows(Table((here,))) if here and name == "forget" else _rows(folder, name, here)
        for name in (*FACT_SETS, "holdout", "general")
    }
    facts = {name: continued(rows[name], "passage") for name in FACT_SETS}
    caps = {"forget": draw.forget_limit or max(len(facts["forget"]), 1)}
    taken = {name: drawn(found, caps.get(name, draw.limit), draw.seed) for name, found in facts.items()}
    texts = {
        field: drawn_texts([row.text("text") for row in rows[name]], draw.limit, draw.seed)
        for field, name in TEXTS.items()
    }
    notes = {name: counted(taken[name], len(found), "passages") for name, found in facts.items() if found}
    named = replace(wanted, source="this text")
    return assemble(named, taken, source=str(path), licence=NO_LICENCE, notes=notes, **texts)


def _rows(folder: Path, name: str, file: str) -> list[Row]:
    return [] if file else rows_if_any(Folder(folder), Table((name,)))
