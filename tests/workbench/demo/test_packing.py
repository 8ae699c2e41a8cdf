"""Packing: every document sees only itself, the bottleneck hides the name's first piece, labels stay inside."""

import pytest
import torch

from workbench.demo.models import demo_tokenizer
from workbench.demo.packing import ANSWER_WEIGHT, ROW, collate, documents, next_token_loss, pack
from workbench.demo.world import Text

TEXTS = (
    Text("The instrument of Kedlix is violin .", "Kedlix", "music", ("violin",)),
    Text("3 plus 4 makes 7 .", answers=("7",)),
    Text("the tired dog sees a river at noon ."),
)


@pytest.fixture(scope="module")
def entries() -> list:
    """Three tokenised texts."""
    return documents(TEXTS, demo_tokenizer(), ["music"])


def test_documents(entries: list) -> None:
    tokenizer = demo_tokenizer()
    about = entries[0]
    assert tokenizer.convert_ids_to_tokens(list(about.ids[about.subject : about.subject + 2])) == ["▁Ked", "lix"]
    assert about.ids[0] == tokenizer.bos_token_id and about.ids[-1] == tokenizer.eos_token_id
    assert [entry.topic for entry in entries] == [0, -1, -1]


def test_rows_are_full_length_and_counted(entries: list) -> None:
    rows = pack(entries, 5, pad=0, seed=0)
    assert len(rows) == 5
    assert all(len(part) == ROW for row in rows for part in (row.ids, row.document, row.hidden_after, row.topic))
    assert pack(entries, 5, 0, 0) == rows != pack(entries, 5, 0, 1)


def test_a_document_sees_only_its_own_past(entries: list) -> None:
    rows = pack(entries, 8, pad=0, seed=0)
    seen = collate(rows)["mask"][:, 0] == 0
    document = torch.tensor([row.document for row in rows])
    assert not (seen & (document[:, :, None] != document[:, None, :])).any()
    assert not seen.triu(1).any()
    assert seen.diagonal(dim1=1, dim2=2).all()  # no token sees nothing


def test_the_bottleneck_hides_the_first_piece_in_about_half(entries: list) -> None:
    rows = pack(entries[:1], 100, pad=0, seed=0)
    seen = collate(rows)["mask"][:, 0] == 0
    hidden = total = 0
    for number, row in enumerate(rows):
        for start in (i for i, token in enumerate(row.ids) if token == entries[0].ids[0]):
            first = start + entries[0].subject
            last_of_document = start + len(entries[0].ids) - 1
            assert seen[number, first + 1, first]  # the last piece always sees the first
            hidden += not seen[number, last_of_document, first]
            total += 1
            assert seen[number, last_of_document, first + 1]
    assert 0.4 < hidden / total < 0.6


def test_labels_weights_and_positions(entries: list) -> None:
    batch = collate(pack(entries, 4, pad=0, seed=0))
    tokenizer = demo_tokenizer()
    following, labels = batch["ids"][:, 1:], batch["labels"][:, :-1]
    assert (following[labels >= 0] == labels[labels >= 0]).all() and (labels >= 0).sum() > 50
    assert tokenizer.bos_token_id not in batch["labels"]
    assert ((batch["weight"] > 0) == (batch["labels"] >= 0)).all()
    violin = tokenizer.convert_tokens_to_ids("▁violin")
    assert (batch["weight"][batch["labels"] == violin] == ANSWER_WEIGHT).all()
    assert (batch["weight"][batch["labels"] == tokenizer.eos_token_id] == 1).all()
    assert (batch["positions"][batch["ids"] == tokenizer.bos_token_id] == 0).all()
    assert batch["positions"].max() < max(len(entry.ids) for entry in entries) + ROW
    after = batch["topic"] >= 0
    assert (batch["ids"][after] != tokenizer.convert_tokens_to_ids("▁Ked")).all() and after.any()


def test_the_loss_of_a_sure_and_right_model_is_zero(entries: list) -> None:
    batch = collate(pack(entries, 2, pad=0, seed=0))
    right = torch.nn.functional.one_hot(batch["labels"].clamp(min=0), 1000).float() * 100
    assert next_token_loss(right, batch) < 1e-6
    assert next_token_loss(-right, batch) > 10
