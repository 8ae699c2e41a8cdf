import numpy as np
import pytest
from scipy import stats as scipy_stats

from workbench.stats import EXACT, auc, bootstrap, bootstrap_auc, holm, sign_flips

RNG = np.random.default_rng(0)


def test_with_one_item_a_cluster_it_agrees_with_scipy() -> None:
    values = RNG.normal(size=60)
    ours = bootstrap(values, [str(i) for i in range(60)], draws=20_000).estimate()
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_items_of_one_cluster_do_not_count_as_independent() -> None:
    per_cluster = RNG.normal(size=12)
    values = np.repeat(per_cluster, 20)
    clusters = [str(i // 20) for i in range(240)]
    clustered, naive = (bootstrap(values, names).estimate() for names in (clusters, [str(i) for i in range(240)]))
    single = bootstrap(per_cluster, [str(i) for i in range(12)]).estimate()
    assert (clustered.n, clustered.clusters) == (240, 12)
    assert clustered.high - clustered.low == pytest.approx(single.high - single.low, rel=0.05)
    assert clustered.high - clustered.low > 3 * (naive.high - naive.low)


def test_the_interval_covers_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(200):
        draws = bootstrap(rng.normal(size=40), [str(i) for i in range(40)], seed=trial, draws=1000).estimate()
        hits += draws.low <= 0 <= draws.high
    assert 180 <= hits <= 199


def test_the_same_seed_gives_the_same_interval_and_another_another() -> None:
    values, names = RNG.normal(size=30), [str(i) for i in range(30)]
    assert bootstrap(values, names, seed=1).estimate() == bootstrap(values, names, seed=1).estimate()
    assert bootstrap(values, names, seed=1).estimate() != bootstrap(values, names, seed=2).estimate()


def test_equivalence_is_shown_inside_the_margin_and_not_outside_nor_with_few_items() -> None:
    def p(mean: float, n: int) -> float:
        values = mean + np.random.default_rng(3).normal(scale=0.2, size=n)
        return bootstrap(values - values.mean() + mean, [str(i) for i in range(n)]).p_equivalence(0.1)

    assert p(0.0, 200) < 0.01
    assert p(0.2, 200) > 0.9
    assert p(-0.2, 200) > 0.9
    assert p(0.0, 5) > 0.05


def test_no_p_value_is_zero() -> None:
    assert bootstrap(np.zeros(10), [str(i) for i in range(10)], draws=999).p_equivalence(0.1) == pytest.approx(0.001)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.5]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_auc_and_its_interval() -> None:
    low, high = RNG.normal(size=40), RNG.normal(size=50) + 1
    names = ([f"a{i}" for i in range(50)], [f"b{i}" for i in range(40)])
    found = bootstrap_auc(high, low, names)
    assert found.mean == pytest.approx(auc(high, low)) == pytest.approx(1 - auc(low, high))
    assert found.estimate().low < found.mean < found.estimate().high
    assert auc(np.ones(3), np.ones(4)) == 0.5
    assert abs(found.draws.mean() - found.mean) < 0.01


@pytest.mark.parametrize("clusters", [[], ["a"]])
def test_lengths_must_agree(clusters: list[str]) -> None:
    with pytest.raises(ValueError, match="bootstrap"):
        bootstrap(np.array([1.0, 2.0])[: 2 * len(clusters)], clusters)


def test_sign_flips_agree_with_scipy() -> None:
    sums = RNG.normal(size=(9, 5)) + np.array([0, 0.3, 1, 3, -3])
    ours = sign_flips(sums)
    theirs = scipy_stats.permutation_test(
        (sums,),
        lambda x, axis: np.abs(x.sum(axis)),
        permutation_type="samples",
        n_resamples=np.inf,
        alternative="greater",
    )
    assert ours.p == pytest.approx(theirs.pvalue) and ours.exact and ours.flips == 2**8
    assert ours.p.min() == ours.smallest == 2**-8  # all nine agree where the shift is large
    drawn = sign_flips(np.concatenate([sums, RNG.normal(size=(9, 5)) * 1e-6]), draws=4000)
    assert len(sums) * 2 > EXACT and not drawn.exact and drawn.smallest == 1 / 4001
    assert drawn.p == pytest.approx(ours.p, abs=0.03)  # differences of next to nothing do not matter


def test_one_cluster_says_nothing_and_neither_does_no_difference() -> None:
    sums = np.zeros((10, 3))
    sums[4, 0], sums[:, 2] = 50, 1
    assert sign_flips(sums).p.tolist() == [1, 1, 2**-9]
    assert sign_flips(sums[:1]).smallest == 1 and sign_flips(np.zeros((4, 0))).p.shape == (0,)
    with pytest.raises(ValueError, match="no cluster"):
        sign_flips(np.zeros((0, 2)))


def test_sign_flips_find_nothing_where_nothing_is() -> None:
    p = sign_flips(np.random.default_rng(3).normal(size=(12, 600))).p
    assert 0.02 < (p < 0.05).mean() < 0.08 and 0.4 < p.mean() < 0.6
