"""Intervals: against SciPy, published examples and each other.

Bootstrap intervals come from 2000 resamples with a fixed seed. Their Monte-Carlo error: 1/sqrt(4000) = 1.6 % of the
standard error, and .06 standard errors for an end of the interval (sqrt(.025 * .975 / 2000) / .0584); tolerances are
three times that, 5 % and .2.
"""

import math

import numpy as np
import pytest
from assay.harness.stats import (
    SHARE,
    Estimate,
    cluster_bootstrap,
    cluster_ratio,
    mean,
    mean_clt,
    proportion,
    unseen,
    wilson,
)
from numpy.typing import NDArray
from scipy import stats as scipy_stats


def normal(n: int, seed: int = 0) -> NDArray[np.float64]:
    """n numbers of mean 3, standard deviation 2."""
    return np.random.default_rng(seed).normal(3, 2, n)


# Mean and share


def test_mean_equals_scipy() -> None:
    """Against scipy.stats.sem and norm.interval(.95); 1e-12 relative."""
    values = normal(57)
    estimate = mean_clt(values)
    low, high = scipy_stats.norm.interval(0.95, values.mean(), scipy_stats.sem(values))
    expected = (values.mean(), scipy_stats.sem(values), low, high)
    assert estimate[:4] == pytest.approx(expected, rel=1e-12)
    assert (estimate.ci_method, estimate.n) == ("clt", 57)


def test_mean_by_hand() -> None:
    """1, 2, 3, 6: mean 3, sd sqrt((4 + 1 + 0 + 9) / 3) = 2.160, stderr 1.080, half width 1.95996 stderr; 1e-6."""
    estimate = mean_clt([1, 2, 3, 6])
    stderr = math.sqrt(14 / 3) / 2
    assert estimate[:2] == pytest.approx((3, stderr), rel=1e-12)
    assert estimate.ci_high == pytest.approx(3 + 1.959964 * stderr, rel=1e-6)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_published_values(hits: int, n: int, low: float, high: float) -> None:
    """Against Newcombe (1998, Statistics in Medicine 17:857, Table I, method 3), printed to four decimals: 5e-5."""
    estimate = wilson([1] * hits + [0] * (n - hits))
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx((low, high), abs=5.1e-5)
    assert (estimate.value, estimate.n, estimate.ci_method) == (hits / n, n, "wilson")


@pytest.mark.parametrize(("hits", "n"), [(7, 10), (0, 3), (3, 3), (250, 1000)])
def test_wilson_equals_its_formula(hits: int, n: int) -> None:
    """(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) with z = 1.959964; 1e-6. stderr sqrt(p(1-p)/n)."""
    z, p = 1.959964, hits / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    estimate = wilson([1] * hits + [0] * (n - hits))
    expected = ((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n))
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx(expected, abs=1e-6)
    assert estimate.stderr == pytest.approx(math.sqrt(p * (1 - p) / n), abs=1e-12)


@pytest.mark.parametrize("function", [mean_clt, wilson])
def test_nan_is_left_out(function: type) -> None:
    """nan values do not count; nothing left gives nan and n = 0; one value has no interval of a mean."""
    assert function([1, np.nan, 0, 1, np.nan]) == function([1, 0, 1])
    nothing = function([np.nan])
    assert nothing.n == 0
    assert np.isnan(nothing[:4]).all()
    assert mean_clt([4.0]).value == 4
    assert np.isnan(mean_clt([4.0])[1:4]).all()


def test_fields_of_a_row() -> None:
    """nan becomes None, numbers become plain floats."""
    fields = Estimate(np.float64(0.5), np.nan, np.nan, np.nan, "clt", 1).fields()
    assert fields == {"value": 0.5, "stderr": None, "ci_low": None, "ci_high": None, "ci_method": "clt", "n": 1}
    assert type(fields["value"]) is float


# Cluster bootstrap


@pytest.mark.parametrize("n", [100, 400])
def test_bootstrap_of_independent_values_equals_clt(n: int) -> None:
    """One value a cluster: the value exactly (1e-12), stderr within 5 % and ends within .2 stderr of the normal
    theory."""
    values = normal(n)
    bootstrap, theory = cluster_bootstrap(values, np.arange(n)), mean_clt(values)
    assert bootstrap.value == pytest.approx(theory.value, rel=1e-12)
    assert bootstrap.stderr == pytest.approx(theory.stderr, rel=0.05)
    assert bootstrap.ci_low == pytest.approx(theory.ci_low, abs=0.2 * theory.stderr)
    assert bootstrap.ci_high == pytest.approx(theory.ci_high, abs=0.2 * theory.stderr)
    assert (bootstrap.n, bootstrap.ci_method) == (n, "cluster_bootstrap")


def test_bootstrap_is_wider_for_correlated_clusters() -> None:
    """100 images with five equal values each: the standard error is that of 100 values (5 %), sqrt(5) = 2.236 times
    what 500 independent values would claim (5 %)."""
    each = normal(100)
    bootstrap = cluster_bootstrap(np.repeat(each, 5), np.repeat(np.arange(100), 5))
    assert bootstrap.value == pytest.approx(each.mean(), rel=1e-12)
    assert bootstrap.stderr == pytest.approx(mean_clt(each).stderr, rel=0.05)
    assert bootstrap.stderr / mean_clt(np.repeat(each, 5)).stderr == pytest.approx(math.sqrt(5), rel=0.06)


def test_bootstrap_of_clusters_that_balance() -> None:
    """Every image holds one 0 and one 1: each resample's mean is 1/2, so the interval is a point (1e-12), although
    the values vary."""
    bootstrap = cluster_bootstrap([0, 1] * 30, np.repeat(np.arange(30), 2))
    assert bootstrap[:4] == pytest.approx((0.5, 0, 0.5, 0.5), abs=1e-12)


def test_bootstrap_of_unequal_clusters() -> None:
    """Against a plain loop: images drawn with replacement, all their values pooled, 4000 times with another seed;
    stderr within 6 % (both ends have Monte-Carlo error)."""
    rng = np.random.default_rng(1)
    groups = [rng.normal(size=size) + rng.normal() for size in rng.integers(1, 6, 60)]
    means = [np.concatenate([groups[i] for i in rng.integers(0, 60, 60)]).mean() for _ in range(4000)]
    clusters = np.repeat(np.arange(60), [len(group) for group in groups])
    bootstrap = cluster_bootstrap(np.concatenate(groups), clusters)
    assert bootstrap.value == pytest.approx(np.concatenate(groups).mean(), rel=1e-12)
    assert bootstrap.stderr == pytest.approx(np.std(means), rel=0.06)


def test_class_means_by_hand() -> None:
    """Class 0: 1, 0, 1; class 1: 0; class 2: 1, 1; class 3: nan (left out): (2/3 + 0 + 1) / 3 = 5/9, while the plain
    mean is 4/6; n = 6; 1e-12."""
    values, labels = [1, 0, 1, 0, 1, 1, np.nan], [0, 0, 0, 1, 2, 2, 3]
    estimate = cluster_bootstrap(values, list("abcdefg"), labels)
    assert estimate.value == pytest.approx(5 / 9, abs=1e-12)
    assert estimate.n == 6
    assert cluster_bootstrap(values, list("abcdefg")).value == pytest.approx(4 / 6, abs=1e-12)


def test_class_means_where_a_resample_lacks_a_class() -> None:
    """Two images, one of class 0 (value 1), one of class 1 (value 0). Resamples: both 1/2 of the time (1/2), the
    first twice (class 1 left out: 1), the second twice (0). Interval [0, 1]; standard deviation sqrt(1/8) within
    5 %."""
    estimate = cluster_bootstrap([1, 0], ["a", "b"], [0, 1])
    assert (estimate.value, estimate.ci_low, estimate.ci_high) == (0.5, 0, 1)
    assert estimate.stderr == pytest.approx(math.sqrt(1 / 8), rel=0.05)


def test_bootstrap_is_deterministic() -> None:
    """The same call twice: bit-equal. The order of rows: equal for 0/1 values, whose sums have no rounding. The
    global generator is left alone."""
    rng = np.random.default_rng(0)
    hits, images, labels = rng.integers(0, 2, 90), rng.integers(0, 40, 90), rng.integers(0, 5, 90)
    state, order = np.random.get_state(legacy=False)["state"]["key"].copy(), rng.permutation(90)
    first = cluster_bootstrap(hits, images, labels)
    assert cluster_bootstrap(hits, images, labels) == first
    assert cluster_bootstrap(hits[order], images[order], labels[order]) == first
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], state)


def test_bootstrap_is_paired() -> None:
    """Two methods on the same images are resampled alike: b = a + 1 gives an interval moved by exactly 1 (1e-12)."""
    values, images = normal(60), np.repeat(np.arange(30), 2)
    one, two = cluster_bootstrap(values, images), cluster_bootstrap(values + 1, images)
    assert np.subtract(two[:4], one[:4]) == pytest.approx([1, 0, 1, 1], abs=1e-12)


def test_bootstrap_of_little() -> None:
    """Values of one image have a mean but no interval; none, or all nan, gives nan with n = 0."""
    one = cluster_bootstrap([1, 0, 1, 1], list("aaaa"))
    assert (one.value, one.n) == (0.75, 4)
    assert np.isnan(one[1:4]).all()
    for nothing in (cluster_bootstrap([], []), cluster_bootstrap([np.nan], ["a"])):
        assert nothing.n == 0
        assert np.isnan(nothing[:4]).all()


def test_nan_values_leave_their_cluster() -> None:
    """An image whose only value is nan is not resampled: the same estimate as without it, bit-equal."""
    assert cluster_bootstrap([1, 0, np.nan, 1], list("abcd")) == cluster_bootstrap([1, 0, 1], list("abd"))


# Ratios of sums


def test_ratio_by_hand() -> None:
    """(1 + 2) / (2 + 4) = 1/2 (a row with nan is left out); two columns: (3/4 + 1/4) / 2 = 1/2; a column whose
    denominators sum to 0 is left out: 3/4; 1e-12."""
    assert cluster_ratio([1, 2, np.nan], [2, 4, 1], list("abc"))[0] == pytest.approx(0.5, abs=1e-12)
    assert cluster_ratio([1, 2, np.nan], [2, 4, 1], list("abc")).n == 2
    above, below = [[1, 1], [2, 0]], [[2, 2], [2, 2]]
    assert cluster_ratio(above, below, list("ab")).value == pytest.approx(0.5, abs=1e-12)
    assert cluster_ratio(above, [[2, 0], [2, 0]], list("ab")).value == pytest.approx(0.75, abs=1e-12)


def test_ratio_over_ones_is_the_mean() -> None:
    """With denominators of 1: the cluster bootstrap of the mean, and with indicator columns that of class means,
    bit-equal."""
    rng = np.random.default_rng(0)
    hits, images, labels = rng.integers(0, 2, 90), rng.integers(0, 40, 90), rng.integers(0, 5, 90)
    assert cluster_ratio(hits, np.ones(90), images) == cluster_bootstrap(hits, images)
    indicator = labels[:, None] == np.arange(5)
    assert cluster_ratio(hits[:, None] * indicator, indicator, images) == cluster_bootstrap(hits, images, labels)


def test_ratio_interval_equals_the_delta_method() -> None:
    """stderr of sum a / sum b over 400 images: sd(a - r b) / (sqrt(n) mean b), within 5 % (Monte Carlo)."""
    rng = np.random.default_rng(0)
    below = rng.uniform(1, 3, 400)
    above = 0.4 * below + rng.normal(0, 0.5, 400)
    estimate = cluster_ratio(above, below, np.arange(400))
    assert estimate.value == pytest.approx(above.sum() / below.sum(), rel=1e-12)
    expected = np.std(above - estimate.value * below, ddof=1) / (20 * below.mean())
    assert estimate.stderr == pytest.approx(expected, rel=0.05)


def test_ratio_of_little() -> None:
    """One image has a value but no interval; nothing gives nan with n = 0."""
    one = cluster_ratio([1, 2], [2, 4], ["a", "a"])
    assert (one.value, one.n) == (0.5, 2)
    assert np.isnan(one[1:4]).all()
    for nothing in (cluster_ratio([], [], []), cluster_ratio([np.nan], [1], ["a"])):
        assert nothing.n == 0
        assert np.isnan(nothing[:4]).all()


# Where all images agree


@pytest.mark.parametrize("n", [1, 2, 20, 44, 1000])
def test_unseen_equals_scipys_clopper_pearson(n: int) -> None:
    """Against scipy.stats.binomtest's exact interval of 0 in n and of n in n; 1e-12. At 1000 images 3.7 / n."""
    none, every = (scipy_stats.binomtest(k, n).proportion_ci(0.95, method="exact") for k in (0, n))
    assert unseen(n) == pytest.approx(none.high, abs=1e-12) == pytest.approx(1 - every.low, abs=1e-12)
    if n == 1000:
        assert unseen(n) == pytest.approx(3.689 / n, rel=0.002)


@pytest.mark.parametrize("images", [(3, 10), (1, 40), (7, 7), (2, 300)])
def test_unseen_of_two_classes_by_brute_force(images: tuple[int, int]) -> None:
    """The least (p + q) / 2 with p^n q^m = .025, over a million values of p; 1e-5. Equal classes: as of all images."""
    n, m = images
    p = np.linspace(0.025 ** (1 / n), 1, 1_000_001)
    q = (0.025 / p**n) ** (1 / m)
    assert unseen(images) == pytest.approx(1 - ((p + q) / 2)[q <= 1].min(), abs=1e-5)
    assert unseen([30] * 10) == pytest.approx(unseen(300), abs=1e-12)
    assert unseen((1, *[40] * 9)) == pytest.approx((1 - 0.025) / 10, abs=1e-12)  # all in the class of one image


@pytest.mark.parametrize("images", [2, 3, 10, 44, 200])
@pytest.mark.parametrize("pairs", [1, 2, 5])
@pytest.mark.parametrize("hit", [0, 1])
def test_intervals_of_outcomes_have_a_width(images: int, pairs: int, hit: int) -> None:
    """All hits, or none: from the value, which is an end, to what so many images may have missed; never a point.
    One pair an image: Wilson's; several: Clopper and Pearson's of the images, not of the pairs, so that pairs say no
    more than their images; class means at least as wide."""
    hits, clusters = np.full(images * pairs, hit), np.repeat(np.arange(images), pairs)
    plain = proportion(hits, clusters)
    by_class = cluster_bootstrap(hits, clusters, np.arange(len(hits)) % 3, SHARE)
    exact = scipy_stats.binomtest(images * hit, images).proportion_ci(0.95, method="exact")
    if pairs > 1:
        assert (plain.ci_low, plain.ci_high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    for made, method in ((plain, "wilson" if pairs == 1 else "clopper_pearson"), (by_class, "clopper_pearson")):
        assert (made.value, made.ci_method, made.n) == (hit, method, images * pairs)
        assert made.ci_high - made.ci_low >= 0.99 * (exact.high - exact.low) if method != "wilson" else True
        assert 0 <= made.ci_low < made.ci_high <= 1
        assert hit in (made.ci_low, made.ci_high)


def test_a_pair_more_in_an_image_is_no_evidence_more() -> None:
    """44 images of one pair or of three: the same bound."""
    one, three = (cluster_bootstrap(np.ones(44 * k), np.repeat(np.arange(44), k), span=SHARE) for k in (1, 3))
    assert one[1:5] == three[1:5]
    assert one.ci_low == pytest.approx(0.025 ** (1 / 44), abs=1e-12)


def test_images_that_balance_may_not_all() -> None:
    """30 images with one hit of two each: a half, which a share u of other images could move by u / 2; 1e-12."""
    made = proportion([0, 1] * 30, np.repeat(np.arange(30), 2))
    far = unseen(30) / 2
    assert made[:4] == pytest.approx((0.5, 0, 0.5 - far, 0.5 + far), abs=1e-12)
    assert made.ci_method == "clopper_pearson"


def test_intervals_of_rare_misses_cover() -> None:
    """A share of .97 among 40 images of two equal pairs: in 3 of 10 draws there is no miss, and the bootstrap's point
    at 1 would not hold .97. Of 300 draws at least 95 % do; less than 85 % without the bound."""
    covered = np.zeros(2)
    for seed in range(300):
        hits = np.repeat(np.random.default_rng(seed).random(40) < 0.97, 2)
        for way, span in enumerate((SHARE, None)):
            made = cluster_bootstrap(hits, np.repeat(np.arange(40), 2), span=span)
            covered[way] += made.ci_low <= 0.97 <= made.ci_high
    assert covered[0] >= 0.95 * 300 and covered[1] < 0.85 * 300


@pytest.mark.parametrize("value", [1.0, 0.1, -3.7])
@pytest.mark.parametrize("clusters", ["abcdefg", "aabbbcd"])
def test_equal_values_without_a_span_are_constant(value: float, clusters: str) -> None:
    """The interval is the value, and says so, also where sums round (.1 seven times)."""
    made = mean([value] * 7, list(clusters))
    assert (made.ci_method, made.n) == ("constant", 7)
    assert made.value == pytest.approx(value)
    assert made.ci_low == made.ci_high == made.value
    ratio = cluster_ratio([2 * value] * 7, [2] * 7, list(clusters))
    assert (ratio.ci_low, ratio.ci_high, ratio.ci_method) == (ratio.value, ratio.value, "constant")


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.25, 1.0])
@pytest.mark.parametrize("pairs", [1, 2])
def test_equal_values_with_a_span_may_not_all_be(value: float, pairs: int) -> None:
    """20 images of one value in [-1, 1]: a share u of others may have -1 or 1; 1e-12."""
    values, clusters = np.full(20 * pairs, value), np.repeat(np.arange(20), pairs)
    u = unseen(20)
    for made in (mean(values, clusters, (-1, 1)), cluster_ratio(values, np.ones(20 * pairs), clusters, (-1, 1))):
        expected = (value - u * (value + 1), value + u * (1 - value))
        assert (made.ci_low, made.ci_high) == pytest.approx(expected, abs=1e-12)
        assert (made.value, made.ci_method) == (value, "clopper_pearson")


def test_intervals_with_a_width_are_as_before() -> None:
    """The numbers that the functions gave before they knew of spans, to the last bit (sums of 0 and 1 are exact); a
    span changes none."""
    rng = np.random.default_rng(0)
    hits, images, labels = rng.integers(0, 2, 90), rng.integers(0, 40, 90), rng.integers(0, 5, 90)
    before = {
        "share": (0.5777777777777777, 0.052720641768838554, 0.4718939687459641, 0.6808510638297872),
        "class": (0.5781676413255361, 0.05565190187254803, 0.4670913234512306, 0.6870802785177784),
        "ratio": (0.18505338078291814, 0.01964452286897544, 0.1492486753225741, 0.22549810246679314),
        "mean": (0.14444444444444443, 0.013088683498851644, 0.11879109618165151, 0.17009779270723735),
    }
    for span in (None, SHARE, (-5.0, 5.0)):
        now = {
            "share": cluster_bootstrap(hits, images, span=span),
            "class": cluster_bootstrap(hits, images, labels, span),
            "ratio": cluster_ratio(hits, 1 + labels, images, span),
            "mean": mean_clt(hits * 0.25, span),
        }
        assert {name: made[:4] for name, made in now.items()} == before


# Which one


def test_one_value_a_cluster_takes_the_closed_form() -> None:
    """`proportion` is Wilson's and `mean` the CLT's interval when no cluster has two values (nan left aside), the
    bootstrap otherwise; exactly."""
    values, alone, shared = [1, 0, 1, np.nan], list("abcc"), list("aacd")
    assert proportion(values, alone) == wilson(values)
    assert mean(values, alone) == mean_clt(values)
    assert proportion(values, shared) == mean(values, shared) == cluster_bootstrap(values, shared)


def test_intervals_cover() -> None:
    """Over 150 draws of 40 values the CLT and bootstrap intervals hold the true mean in about 95 %: at least 89 %
    (three standard errors of the count, and small samples fall a little short)."""
    covered = np.zeros(2)
    for seed in range(150):
        values = normal(40, seed)
        for i, e in enumerate((mean_clt(values), cluster_bootstrap(values, np.arange(40)))):
            covered[i] += e.ci_low <= 3 <= e.ci_high
    assert (covered >= 0.89 * 150).all()
