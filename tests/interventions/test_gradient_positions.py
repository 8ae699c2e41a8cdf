"""Only answer positions are unembedded, and the numbers are those of all positions, in every architecture."""

import pytest
import torch

from interventions.gradient.losses.said import Said
from tests.zoo import ARCHITECTURES, MOE_CONFIGS, make, tokenizer
from workbench.errors import BadInput
from workbench.model import HookedModel
from workbench.objectives import answer_logits, labelled, require_context, token_loss
from workbench.tokens import Encoded

TEXTS = [Encoded((0, 5, 9, 12, 40, 41), 3, (1,)), Encoded((0, 5, 77), 2, (1,)), Encoded((0, 50, 9, 12, 40), 4, (1,))]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest):
    wide = torch.float32 if request.param in MOE_CONFIGS else torch.float64  # torch multiplies no experts in float64
    return make(request.param, dtype=wide)


def unembedded(model, batch, **more) -> tuple[list[int], object]:
    """How many positions the unembedding got, and what came out."""
    seen: list[int] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[:-1].numel()))
    try:
        return seen, answer_logits(model, batch, **more)
    finally:
        handle.remove()


def test_loss_and_gradients_are_those_of_all_positions(model) -> None:
    batch = labelled(TEXTS)
    seen, found = unembedded(model, batch)
    assert seen == [5]
    whole = model(**{key: batch[key] for key in ("input_ids", "attention_mask", "position_ids")}).logits
    picked, all_of_it = Said(found.logits, found.token, found.row, found.rows), Said.of(whole, batch["labels"])
    assert torch.equal(picked.token, all_of_it.token) and torch.equal(picked.row, all_of_it.row)
    near = {"rtol": 1e-9, "atol": 1e-11} if whole.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(picked.logits, all_of_it.logits, **near)
    torch.testing.assert_close(picked.total, token_loss(whole, batch["labels"]).total, **near)
    parameters = [p for p in model.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad(s.mean, parameters, allow_unused=True) for s in (picked, all_of_it))
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, **near)


@pytest.fixture(scope="module")
def gemma():
    return make("gemma2", dtype=torch.float64)


def test_what_is_done_to_logits_afterwards_is_done(gemma) -> None:
    batch = labelled(TEXTS)
    _, found = unembedded(gemma, batch)
    cap = gemma.config.final_logit_softcapping
    gemma.config.final_logit_softcapping = None
    try:
        _, bare = unembedded(gemma, batch)
    finally:
        gemma.config.final_logit_softcapping = cap
    torch.testing.assert_close(found.logits, cap * (bare.logits / cap).tanh())
    assert not torch.allclose(found.logits, bare.logits)


def test_all_positions_are_unembedded_where_that_is_asked_for_or_no_other_way_is_known(gemma, monkeypatch) -> None:
    batch = labelled(TEXTS)
    _, found = unembedded(gemma, batch)
    seen, whole = unembedded(gemma, batch, whole=True)
    assert seen == [18]
    torch.testing.assert_close(whole.logits, found.logits)
    monkeypatch.setattr(gemma, "get_output_embeddings", lambda: None)
    torch.testing.assert_close(answer_logits(gemma, batch).logits, found.logits)


def test_one_row_of_one_answer_token_is_no_special_case(gemma) -> None:
    for text in (Encoded((0, 7), 1, (0,)), Encoded((0, 7, 8), 1, (0,))):
        batch = labelled([text])
        _, found = unembedded(gemma, batch)
        torch.testing.assert_close(found.logits, answer_logits(gemma, batch, whole=True).logits)
        assert found.token.tolist() == list(text.answer)


def test_texts_up_to_the_context_pass_and_longer_ones_are_counted(gemma) -> None:
    model, limit = HookedModel(gemma, tokenizer(), check=False), gemma.config.max_position_embeddings
    require_context(model, [Encoded((0,) * limit, 1, (0,))], "forget")
    with pytest.raises(BadInput, match=f"1 of 2 forget texts .* {limit} tokens: number 1 with {limit + 1}"):
        require_context(model, [Encoded((0, 1), 1, (0,)), Encoded((0,) * (limit + 1), 1, (0,))], "forget")
