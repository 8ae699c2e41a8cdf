"""Every metric against its formula worked out by hand, and against what it must not do."""

import math
from math import exp, log, sqrt

import numpy as np
import pytest
import torch

from audits.metrics.answer_tokens import answer_tokens, tokens_of
from audits.metrics.bleu import bleu, words
from audits.metrics.choice import chance, choice
from audits.metrics.coarse_kl import coarse_kl
from audits.metrics.cut import before
from audits.metrics.exact_match import exact_match, normalised
from audits.metrics.exact_memorisation import exact_memorisation
from audits.metrics.extraction_strength import extraction_strength
from audits.metrics.forget_quality import floor, forget_quality
from audits.metrics.gradient_size import gradient_size
from audits.metrics.membership import less_reference, membership, membership_of
from audits.metrics.min_k import min_k, standardised
from audits.metrics.model_utility import model_utility
from audits.metrics.ngram_entropy import entropy, ngram_entropy
from audits.metrics.privleak import privleak, privleak_between, relative_difference
from audits.metrics.probability import among_options, token_probability
from audits.metrics.rouge import rouge
from audits.metrics.rwku_rouge import rwku_rouge
from audits.metrics.truth_ratio import truth_ratio, truth_score
from audits.metrics.zlib_ratio import zlib_ratio
from workbench.errors import BadInput
from workbench.trace import Trace

NAN = float("nan")


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


class TestTokens:
    """The table of one text."""

    def test_mean_and_variance_of_a_distribution_of_three(self):
        p = np.array([0.5, 0.3, 0.2])
        found = tokens_of(torch.tensor(np.log(p))[None], torch.tensor([1]))
        mean = (p * np.log(p)).sum()
        assert float(found.logprob[0]) == pytest.approx(log(0.3), rel=1e-12)
        assert float(found.mean[0]) == pytest.approx(mean, rel=1e-12)
        assert float(found.variance[0]) == pytest.approx((p * (np.log(p) - mean) ** 2).sum(), rel=1e-12)
        assert not bool(found.hit[0]) and bool(tokens_of(torch.tensor(np.log(p))[None], torch.tensor([0])).hit[0])

    def test_an_impossible_token_makes_nothing_else_undefined(self):
        found = tokens_of(torch.tensor([[0.0, 0.0, -math.inf]], dtype=torch.float64), torch.tensor([2]))
        assert float(found.logprob[0]) == -math.inf
        assert float(found.mean[0]) == pytest.approx(-log(2)) and float(found.variance[0]) == pytest.approx(0)

    def test_a_label_is_predicted_from_the_position_before(self):
        logits = torch.zeros(1, 3, 4, dtype=torch.float64)
        logits[0, 0, 2] = logits[0, 1, 3] = 5.0
        found = answer_tokens(logits, torch.tensor([[1, 2, 0]]))[0]
        assert found.hit.tolist() == [True, False]
        assert answer_tokens(logits, torch.tensor([[1, 2, 0]]), published=True)[0].hit.tolist() == [True]

    def test_a_row_without_labels_has_no_loss(self):
        found = answer_tokens(torch.zeros(1, 3, 4), torch.full((1, 3), -100))[0]
        assert len(found.logprob) == 0 and math.isnan(found.loss)


class TestProbability:
    """Of answers, alone and among wrong ones."""

    def test_it_is_the_geometric_mean_of_the_tokens(self):
        assert token_probability(array(-(log(0.5) + log(0.2)) / 2))[0] == pytest.approx(sqrt(0.1), rel=1e-12)

    def test_among_options(self):
        found = among_options(array(0.2, 0.5), np.array([[0.1, 0.1], [0.5, NAN]]))
        assert found == pytest.approx([0.5, 0.5], rel=1e-12)
        assert np.isnan(among_options(array(0.0), np.array([[0.0]]))[0])
        assert among_options(array(0.0), np.array([[0.0]]), published=True)[0] == 0.0


class TestTruthRatio:
    """Wrong answers beside the right one."""

    def test_the_mean_of_the_wrong_ones_is_arithmetic_or_as_published(self):
        right, wrong = array(1.0), np.array([[1.0, 3.0]])
        assert truth_ratio(right, wrong)[0] == pytest.approx((exp(-1) + exp(-3)) / 2 / exp(-1), rel=1e-12)
        assert truth_ratio(right, wrong, published=True)[0] == pytest.approx(exp(-2) / exp(-1), rel=1e-9)

    def test_alike_answers_are_even(self):
        same = array(2.0), np.array([[2.0, 2.0]])
        assert truth_ratio(*same)[0] == pytest.approx(1)
        assert [truth_score(*same, how=h)[0] for h in ("closer_to_1", "true_better", "prob_mean")] == pytest.approx(
            [1, 0, 0.5]
        )

    def test_scores_know_right_from_wrong(self):
        right, wrong = array(0.1, 3.0), np.array([[3.0], [0.1]])
        assert truth_score(right, wrong, "true_better") == pytest.approx([1 - exp(-2.9), 0])
        assert truth_score(right, wrong, "prob_mean") == pytest.approx([1 / (1 + exp(-2.9)), 1 / (1 + exp(2.9))])
        assert truth_score(right, wrong, "closer_to_1") == pytest.approx([exp(-2.9)] * 2)

    def test_fewer_wrong_answers_are_no_zeros(self):
        assert truth_ratio(array(1.0), np.array([[1.0, NAN]]))[0] == pytest.approx(1)
        assert truth_ratio(array(1.0), np.array([[1.0, NAN]]), published=True)[0] == pytest.approx(1)


class TestForgetQuality:
    """Against a retrained model."""

    def test_the_same_is_1_and_apart_is_the_floor(self):
        own = np.arange(12.0)
        assert forget_quality(own, own).p_value == pytest.approx(1)
        apart = forget_quality(own, own + 100)
        assert apart.p_value == pytest.approx(floor(12), rel=1e-9) == apart.floor
        assert apart.statistic == 1

    def test_the_inverse_ratios_give_the_same(self):
        a, b = np.linspace(0.1, 2, 9), np.linspace(0.5, 3, 11)
        assert forget_quality(a, b).p_value == pytest.approx(forget_quality(1 / a, 1 / b).p_value)

    def test_the_floor_of_many_items_is_the_same_formula(self):
        assert floor(500) == pytest.approx(2 / math.comb(1000, 500), rel=1e-9)

    def test_nothing_to_compare_with_is_refused(self):
        with pytest.raises(BadInput, match="retrained"):
            forget_quality(array(1.0), array())
        with pytest.raises(BadInput, match="audited"):
            forget_quality(array(NAN), array(1.0))


def test_model_utility_is_the_harmonic_mean_and_hides_no_gap():
    assert model_utility({"a": 0.5, "b": 1.0}) == pytest.approx(2 / 3)
    assert model_utility({"a": 0.0, "b": 1.0}) == 0
    with pytest.raises(BadInput, match="b is not one"):
        model_utility({"a": 0.5, "b": NAN})
    with pytest.raises(BadInput, match="none were given"):
        model_utility({})


def hits(word: str) -> np.ndarray:
    return np.array([c == "1" for c in word], dtype=bool)


@pytest.mark.parametrize(
    ("hit", "ours", "published"),
    [("1111", 1, 1), ("0111", 0.75, 0.75), ("1011", 0.5, 0.5), ("0001", 0.25, 0.25), ("1110", 0, 0.25), ("0", 0, 1)],
)
def test_extraction_strength_counts_what_must_be_given(hit: str, ours: float, published: float):
    assert extraction_strength(hits(hit)) == ours
    assert extraction_strength(hits(hit), published=True) == published


def test_without_tokens_there_is_no_strength_and_no_share():
    assert math.isnan(extraction_strength(hits(""))) and math.isnan(exact_memorisation(hits("")))
    assert extraction_strength(hits(""), published=True) == 0
    assert exact_memorisation(hits("1011")) == 0.75


class TestText:
    """Metrics of words."""

    def test_rouge_counts_words_in_order(self):
        found = rouge("the old house", "House of the old king", stem=False)
        assert found.rouge1_recall == 1
        assert found.rougeL_recall == pytest.approx(2 / 3)
        assert found.rougeL_f1 == pytest.approx(2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5))
        assert rouge("the old house", "").rougeL_recall == 0

    def test_only_stemming_takes_walks_for_walking(self):
        assert rouge("walks", "walking").rougeL_recall == 1
        assert rouge("walks", "walking", stem=False).rougeL_recall == 0

    def test_rwku_counts_unique_words_and_case(self):
        assert rwku_rouge("a a b", "a b").recall == 1
        assert rwku_rouge("Ada", "ada").recall == 0
        assert rwku_rouge("x y. z", "y z").recall == pytest.approx(2 / 3)
        assert rwku_rouge("NOANSWER", " ").recall == 1
        assert rwku_rouge("b c", "...").precision == 0
        with pytest.raises(BadInput, match="no word"):
            rwku_rouge("", "a")

    def test_bleu_by_hand(self):
        said, right = "the cat sat on a mat", "the cat sat on the mat"
        precisions = [5 / 6, 3 / 5, 2 / 4, 1 / 3]
        assert bleu(right, said) == pytest.approx(math.prod(precisions) ** 0.25, rel=1e-12)
        assert bleu(right, "the cat sat") == pytest.approx(exp(1 - 6 / 3), rel=1e-12)
        assert bleu("chemist", "chemist") == 1 and bleu("chemist", "") == 0
        assert bleu("chemist", "cook") == 0
        assert bleu("a b", "b a") == pytest.approx(sqrt(0.1))
        assert bleu(["a b", "c d"], "c d") == 1

    def test_words_and_marks(self):
        assert words("Don't, he said.") == ["Don", "'", "t", ",", "he", "said", "."]

    def test_exact_match(self):
        assert normalised("The  Chemist, of York!") == ["chemist", "of", "york"]
        assert exact_match("chemist", "A chemist. She lived") == 1
        assert exact_match("chemist", "was a chemist") == 0
        assert exact_match("chemist", "was a chemist", "anywhere") == 1
        assert exact_match("a chemist", "The chemist.", "whole") == 1
        assert exact_match("chemist", "chemist too", "whole") == 0
        assert exact_match("chemist", "chemistry") == 0
        assert exact_match("the", "the") == 0

    def test_the_text_before_the_first_stop(self):
        assert before("a Question: b\n\nc") == "a "
        assert before("a\n\nb Question: c") == "a"
        assert before("a.b", ["."]) == "a"

    def test_entropy_by_hand(self):
        tokens = ["a", "b", "a", "b"]  # ab twice, ba once; aba, bab
        two = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
        assert entropy(tokens, 2) == pytest.approx(two)
        assert ngram_entropy("a b a b") == pytest.approx((2 / 3 * two + 4 / 3 * 1) / 2)
        assert ngram_entropy("a a a a a a") == 0 == ngram_entropy("")
        assert ngram_entropy("one two three four five six") > ngram_entropy("one two one two one two")


class TestChoice:
    """Ties are guesses."""

    def test_first_place_alone_or_shared(self):
        assert choice(array(-1, -2, -3)) == 1
        assert choice(array(-2, -1, -3)) == 0
        assert choice(array(-1, -1, -3)) == 0.5
        assert choice(array(-2, -1, -1)) == 0

    def test_a_model_that_says_nothing_guesses(self):
        assert choice(array(*[-math.inf] * 4)) == 0.25
        assert choice(array(*[-7.0] * 5)) == 0.2
        assert choice(array(*[-7.0] * 5), published=True) == 1

    def test_chance(self):
        assert chance([2, 4]) == pytest.approx(0.375)


class TestKl:
    """From stored tokens and the rest."""

    def test_it_is_the_divergence_when_everything_is_stored(self):
        p, q = np.array([[0.5, 0.3, 0.2]]), np.array([[0.2, 0.3, 0.5]])
        none = np.full((1, 1), -np.inf)
        with np.errstate(divide="ignore"):
            found = coarse_kl(np.hstack([np.log(p), none]), np.hstack([np.log(q), none]))
        assert found[0] == pytest.approx((p * np.log(p / q)).sum(), rel=1e-12)

    def test_merging_never_raises_it(self):
        rng = np.random.default_rng(0)
        for _ in range(50):
            p, q = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
            merged = [np.log([[*v[:3], v[3:].sum()]]) for v in (p, q)]
            assert 0 <= coarse_kl(*merged)[0] <= (p * np.log(p / q)).sum() + 1e-12

    def test_the_same_is_0_and_ruled_out_is_infinite(self):
        p = np.log([[0.5, 0.5]])
        assert coarse_kl(p, p)[0] == 0
        assert coarse_kl(p, np.array([[0.0, -np.inf]]))[0] == np.inf


class TestMembership:
    """Scores and areas."""

    def test_zlib_and_min_k(self):
        import zlib

        assert zlib_ratio(3.0, "abc") == 3.0 / len(zlib.compress(b"abc"))
        logs = array(-1, -5, -2, -4, -3)
        assert min_k(logs, 0.4) == pytest.approx(4.5)
        assert min_k(logs, 0.1) == 5 and math.isnan(min_k(logs, 0.1, published=True))
        assert min_k(logs, 1.0) == 3 and math.isnan(min_k(array()))
        assert standardised(array(-3), array(-1), array(4))[0] == -1
        assert standardised(array(-3), array(-1), array(0))[0] == pytest.approx(-2000)

    def test_gradient_size(self):
        parts = [torch.tensor([3.0, 4.0]), torch.tensor([[12.0]])]
        assert float(gradient_size(parts)) == pytest.approx(13)
        assert float(gradient_size(parts, published=True)) == pytest.approx(8.5)
        assert float(gradient_size(parts, p=1.0)) == pytest.approx(19)

    def test_the_area_is_1_for_members_and_half_for_nothing(self):
        low, high = np.arange(10.0), np.arange(10.0) + 100
        names = tuple(map(str, range(10)))
        found = membership(low, high, (names, names))
        assert found.auc.mean == 1 == found.auc.low and found.distance == 0.5
        assert membership(low, low, (names, names)).auc.mean == 0.5
        assert membership(high, low, (names, names)).auc.mean == 0

    def test_the_interval_covers_and_narrows(self):
        rng, widths = np.random.default_rng(0), []
        for n in (20, 200):
            names = tuple(map(str, range(n)))
            found = membership(rng.normal(size=n), rng.normal(size=n) + 1, (names, names)).auc
            assert found.low < 0.76 < found.high  # P(N(1,1) > N(0,1)) = .760
            widths.append(found.high - found.low)
        assert widths[1] < widths[0] / 2

    def test_clusters_widen_it(self):
        rng = np.random.default_rng(1)
        of = np.repeat(np.arange(10), 10)
        a, b = (rng.normal(size=10)[of] + 0.1 * rng.normal(size=100) for _ in range(2))
        alone = tuple(map(str, range(100)))
        same = tuple(map(str, of))
        narrow, wide = (membership(a, b, (c, c)).auc for c in (alone, same))
        assert wide.high - wide.low > 2 * (narrow.high - narrow.low)

    def test_groups_may_differ_in_size_and_names(self):
        found = membership(np.arange(4.0), np.arange(6.0) + 9, (("a", "a", "b", "b"), tuple("cccdef")))
        assert (found.auc.mean, found.auc.n, found.auc.clusters) == (1, 10, 6)

    def test_missing_scores_are_refused(self):
        with pytest.raises(BadInput, match="members are 1, 1 of them"):
            membership(array(NAN), array(1.0), (("a",), ("b",)))
        with pytest.raises(BadInput, match="others are 0"):
            membership(array(1.0), array(), (("a",), ()))


def trace(values: np.ndarray, name: str = "membership_loss", **notes: object) -> Trace:
    labels = tuple(f"{i}: x" for i in range(len(values)))
    return Trace(name, values, ("fact",), "nats", {"fact": labels}, {"model": "m", "identity": "1", **notes})


class TestStoredScores:
    """From traces, without a model."""

    def test_traces_of_two_models_are_not_one(self):
        with pytest.raises(BadInput, match="one model"):
            membership_of(trace(array(1, 2)), trace(array(1, 2), identity="2"))
        with pytest.raises(BadInput, match="one model"):
            membership_of(trace(array(1, 2)), trace(array(1, 2), name="membership_min_k"))
        with pytest.raises(BadInput, match="one model"):
            membership_of(trace(array(1, 2), options={"k": 0.2}), trace(array(1, 2), options={"k": 0.4}))

    def test_subjects_are_the_clusters(self):
        found = membership_of(trace(array(1, 2), subjects=["a", "a"]), trace(array(3, 4), subjects=["b", "c"]))
        assert (found.auc.mean, found.auc.clusters) == (1, 3)

    def test_the_reference_attack_takes_what_is_hard_out(self):
        ours, theirs = trace(array(1, 5)), trace(array(2, 5), identity="2", model="retrained")
        found = less_reference(ours, theirs)
        assert found.values.tolist() == [-1, 0] and found.notes["reference"] == "retrained"
        with pytest.raises(BadInput, match="same texts"):
            less_reference(ours, trace(array(1)))
        with pytest.raises(BadInput, match="same texts"):
            less_reference(ours, trace(array(1, 2), name="membership_zlib"))


class TestPrivLeak:
    """Against a retrained model."""

    def test_by_hand(self):
        assert privleak(0.9, 0.5) == pytest.approx(-80) and privleak(0.5, 0.5) == 0
        assert privleak(0.1, 0.5) == pytest.approx(80)
        assert math.isnan(privleak(0.5, 1.0)) and privleak(0.5, 1.0, published=True) == pytest.approx(5e11)
        assert relative_difference(0.75, 0.5) == pytest.approx(50) and math.isnan(relative_difference(0.5, 0.0))

    def test_the_interval_holds_the_value_and_0_for_the_same_model(self):
        rng, names = np.random.default_rng(2), tuple(map(str, range(60)))
        members, others = rng.normal(size=60), rng.normal(size=60)
        retrained = membership(members, others, (names, names))
        leaky = membership(members - 2, others, (names, names))
        found = privleak_between(leaky, retrained)
        assert found.mean == pytest.approx(privleak(leaky.auc.mean, retrained.auc.mean))
        assert found.low < found.mean < found.high < 0
        same = privleak_between(retrained, retrained)
        assert (same.mean, same.low, same.high) == (0, 0, 0)

    def test_what_cannot_be_compared_is_refused(self):
        few, many = (
            membership(np.arange(n, dtype=float), np.arange(n) + 9.0, (tuple(map(str, range(n))),) * 2) for n in (3, 4)
        )
        with pytest.raises(BadInput, match="same texts"):
            privleak_between(few, many)
        with pytest.raises(BadInput, match="AUC is 1"):
            privleak_between(few, few)
