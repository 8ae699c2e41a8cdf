"""MUSE: news articles, or books, of which some are to be forgotten.

Source: Shi et al. 2024, https://arxiv.org/abs/2407.06460; hub `muse-bench/MUSE-News` and `muse-bench/MUSE-Books`. The
code repository states no licence.
`muse:news`, `muse:books`: what is forgotten are the questions of `knowmem` (kind knowmem) and the passages of `verbmem`
to be continued word for word (kind verbmem); near are the questions about what stays. The passages of `privleak`
are `forget_texts` (members that were to be forgotten), `retain_texts` (members that stay) and `holdout_texts`.
Does not have: unrelated facts. Not taken: the examples shown in context (`*_icl`), `scal`, `sust`, the raw corpora.
"""

from workbench.concepts import Concept, Fact
from workbench.datasets.assembling import NO_LICENCE, assemble
from workbench.datasets.draws import counted, drawn, drawn_texts
from workbench.datasets.passages import completion
from workbench.datasets.places import Place, Table, place_of, rows_if_any
from workbench.datasets.questions import asked, subject_of
from workbench.datasets.row import Row
from workbench.datasets.spec import Wanted

REPOSITORIES = {"news": "muse-bench/MUSE-News", "books": "muse-bench/MUSE-Books"}
"""What can be named -> its hub repository."""


def load(wanted: Wanted) -> Concept:
    """MUSE's news or books.

    Raises:
        BadInput: for anything else, or when it cannot be found.
    """
    which, draw = wanted.named(REPOSITORIES, "corpus"), wanted.draw
    place = place_of(wanted, REPOSITORIES[which], f"muse/{which}")
    questions = [_question(row, wanted) for row in place.rows(_table("knowmem", "forget_qa"))]
    passages = [_passage(row) for row in rows_if_any(place, _table("verbmem", "forget"))]
    stay = [_question(row, wanted) for row in rows_if_any(place, _table("knowmem", "retain_qa"))]
    near, every = drawn(stay, draw.limit, draw.seed), [*questions, *passages]
    forget = drawn(every, draw.forget_limit or len(every), draw.seed)
    return assemble(
        wanted,
        {"forget": forget, "near": near},
        source=place.said,
        licence=NO_LICENCE,
        notes={
            "forget": counted(forget, len(every), f"({len(questions)} questions, {len(passages)} passages)"),
            "near": counted(near, len(stay), "questions about what stays"),
            "far": "MUSE has no unrelated facts",
            "never_taught": "MUSE has no questions about the holdout, only its passages",
        },
        **{f"{split}_texts": _texts(place, split, wanted) for split in ("forget", "retain", "holdout")},
    )


def _table(config: str, split: str) -> Table:
    return Table((f"{config}/{split}", f"{config}_{split}", f"{split}_{config}"), config, split)


def _question(row: Row, wanted: Wanted) -> Fact:
    prompt = asked(row.text("question"), wanted.draw)
    return row.fact(subject=subject_of(prompt), prompt=prompt, answer=row.text("answer"), kind="knowmem")


def _passage(row: Row) -> Fact:
    return completion(row, row.text("prompt"), row.text("gt"), kind="verbmem")


def _texts(place: Place, split: str, wanted: Wanted) -> tuple[str, ...]:
    found = [row.text("text") for row in rows_if_any(place, _table("privleak", split))]
    return drawn_texts(found, wanted.draw.limit, wanted.draw.seed)
