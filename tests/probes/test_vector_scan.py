import pytest
import torch

from probes.vector_scan import BLOCK, Against, Scanned, count_inside, scan, within_reach
from workbench.errors import BadInput


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_jaccard(vectors, against, k):
    """By sets, one vector at a time: the better end, and which it is."""
    terms = set(against.terms.tolist()) & set(against.among.tolist())
    for vector in vectors:
        logits = against.unembedding @ vector
        ranked = sorted(against.among.tolist(), key=lambda token, logits=logits: -float(logits[token]))
        up, down = (set(end) for end in (ranked[:k], ranked[-k:]))
        best = up if len(up & terms) >= len(down & terms) else down
        yield len(best & terms) / len(best | terms), len(up & terms), len(down & terms)


@pytest.mark.parametrize(("size", "k"), [(50, 1), (50, 7), (53, 3), (400, 5), (403, 12), (403, 200), (50, 50)])
def test_overlap_is_the_jaccard_index_of_the_top_tokens_and_the_terms(size, k):
    unembedding, vectors = drawn(size + 4, 10), drawn(60, 10, seed=1)
    terms = torch.randperm(size, generator=torch.Generator().manual_seed(2))[:6] + 2
    against = Against(unembedding, terms, torch.arange(2, size + 2))
    found = scan([vectors[:25], vectors[25:]], against, "overlap", k)
    slow = list(slow_jaccard(vectors, against, k))
    assert torch.allclose(found.scores, torch.tensor([score for score, _, _ in slow]), atol=1e-6)
    decided = torch.tensor([up != down for _, up, down in slow])
    ends = torch.tensor([1 if up > down else -1 for _, up, down in slow])
    assert torch.equal(found.signs[decided], ends[decided])


@pytest.mark.parametrize("largest", [True, False])
def test_counting_at_most_blocks_changes_nothing(largest):
    logits, where = drawn(200, 2 * BLOCK * 40 + 5), torch.arange(0, 40, 3)
    for k in (1, 10, 40, 400):
        slow = [len(set(row.topk(k, largest=largest).indices.tolist()) & set(where.tolist())) for row in logits]
        assert count_inside(logits, where, k, largest).tolist() == slow


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("how", ["standardised", "average", "published"])
def test_signs_say_which_end_the_terms_are_at(how, pool):
    unembedding, vectors = drawn(50, 12) + 0.3, drawn(40, 12, seed=1)
    terms, among = torch.tensor([3, 7, 9]), torch.arange(2, 48)
    logits = vectors @ unembedding.T
    if how != "average":
        logits = logits - logits[:, among].mean(dim=1, keepdim=True)
    pulls = logits[:, terms].mean(dim=1, keepdim=True) if pool == "mean" else logits[:, terms]
    strongest = pulls.gather(1, pulls.abs().argmax(dim=1, keepdim=True))[:, 0]
    found = scan([vectors], Against(unembedding, terms, among, pool), how)
    assert torch.equal(found.signs, strongest.sign().long())
    other = scan([-vectors], Against(unembedding, terms, among, pool), how)
    assert torch.equal(other.signs, -found.signs)
    if how != "published":
        assert torch.allclose(other.scores, found.scores, atol=1e-5)


def test_published_score_is_blind_to_the_terms():
    unembedding, vectors, among = drawn(50, 12) + 0.3, drawn(40, 12, seed=1), torch.arange(50)
    one, other = (scan([vectors], Against(unembedding, torch.tensor(t), among), "published").scores for t in ([3], [9]))
    assert torch.equal(one, other)


@pytest.mark.parametrize("how", ["standardised", "average", "overlap"])
def test_a_zero_vector_spells_nothing(how):
    unembedding = drawn(60, 8)
    found = scan([torch.zeros(3, 8)], Against(unembedding, torch.tensor([3, 4]), torch.arange(60)), how, 5)
    assert found.scores.tolist() == [0, 0, 0] and found.signs.tolist() == [1, 1, 1]


def test_the_standardised_score_decides_between_equals():
    found = Scanned(torch.tensor([0.1, 0.2, 0.2, 0.1]), torch.ones(4).long(), torch.tensor([9.0, 1.0, 2.0, 9.0]))
    assert found.order().tolist() == [2, 1, 0, 3]


def test_chunks_are_no_larger_than_memory_allows(monkeypatch):
    against, vectors = Against(drawn(60, 8), torch.tensor([3, 4]), torch.arange(60)), drawn(40, 8, seed=1)
    whole, told = scan([vectors], against, "overlap", 5), []
    monkeypatch.setattr("probes.vector_scan.ENTRIES", 60 * 7)
    small = scan([vectors], against, "overlap", 5, lambda *at: told.append(at))
    assert told == [(n, 40) for n in (7, 14, 21, 28, 35, 40)]
    assert torch.allclose(small.scores, whole.scores)


def test_low_precision_is_scored_in_float32():
    unembedding, vectors = drawn(50, 12).bfloat16(), drawn(40, 12, seed=1).bfloat16()
    for how in ("standardised", "overlap"):
        low, high = (
            scan([v], Against(e, torch.tensor([3, 7]), torch.arange(50)), how, 4).scores
            for v, e in ((vectors, unembedding), (vectors.float(), unembedding.float()))
        )
        assert torch.equal(low, high) and low.dtype == torch.float32


def test_lists_are_at_most_a_twentieth_of_the_vocabulary():
    assert [within_reach(200, torch.arange(size)) for size in (32000, 2000, 190, 40, 3)] == [200, 100, 9, 5, 3]


def test_terms_must_be_ordinary_tokens_to_be_among_the_top():
    against = Against(drawn(60, 8), torch.tensor([0, 1]), torch.arange(2, 60))
    with pytest.raises(BadInput, match="ordinary token"):
        scan([drawn(3, 8)], against, "overlap", 5)
    assert scan([drawn(3, 8)], against, "standardised").scores.isfinite().all()
