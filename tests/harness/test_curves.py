"""Statistics of detection scores: the authors' numbers, scikit-learn, definitions by brute force, and the bootstrap.

Here a score is high where a failure is likely; the golden file's are high in distribution, so they enter negated.
"""

import itertools

import numpy as np
import pytest
from assay.harness.counts import ALARMS, COVERAGES, RISKS, curve_statistics, risk_statistics
from assay.harness.curves import (
    acceptance_limit,
    coverage_ends,
    estimate,
    recalls,
    risk_bootstrap,
    risk_ends,
    roc_bootstrap,
    roc_ends,
    roc_statistics,
)
from assay.harness.stats import unseen
from conftest import golden
from numpy.typing import NDArray
from scipy import stats as scipy_stats
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

Scores = NDArray[np.float64]


def two_samples(n: int = 300, m: int = 200, seed: int = 0, digits: int = 1) -> tuple[Scores, Scores]:
    """Overlapping normal scores, rounded so that many are equal."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, n).round(digits), rng.normal(1, 1.5, m).round(digits)


def labels(negatives: Scores, positives: Scores) -> tuple[NDArray[np.int64], Scores]:
    """As scikit-learn takes them: labels and scores."""
    return np.repeat([0, 1], [len(negatives), len(positives)]), np.concatenate([negatives, positives])


# The estimates


@pytest.mark.parametrize("case", ["smooth", "ties"])
def test_the_authors_code_gives_the_same(case: str) -> None:
    """LINe's and DICE's metrics on 203/157 scores without ties and 210/130 with (where the index is round(10.5) = 10);
    1e-14."""
    arrays = golden("line_dice")
    found = roc_statistics(-arrays[f"metric_{case}_id"], -arrays[f"metric_{case}_ood"])
    theirs = {"fpr": "fpr_id_pos", "auroc": "auroc", "auin": "aupr_in", "auout": "aupr_out", "dterr": "detection_error"}
    for name, ours in theirs.items():
        assert found[ours] == pytest.approx(float(arrays[f"metric_{case}_{name}"]), abs=1e-14), name


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_scikit_learn_gives_the_same(digits: int) -> None:
    """AUROC and average precision of both sides, with few and many ties; 1e-12."""
    for seed in range(5):
        truth, scores = labels(*two_samples(seed=seed, digits=digits))
        found = roc_statistics(scores[truth == 0], scores[truth == 1])
        assert found["auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
        assert found["ap_out"] == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
        assert found["ap_in"] == pytest.approx(average_precision_score(1 - truth, -scores), abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("tpr", [0.5, 0.8, 0.95])
def test_the_two_false_positive_rates_follow_their_definitions(seed: int, tpr: float) -> None:
    """Papers: the sorted index, strictly above. OpenOOD: scikit-learn's first point with the recall. Exactly."""
    negatives, positives = two_samples(90 + 10 * seed, 60 + seed, seed)
    found = roc_statistics(negatives, positives, tpr)
    threshold = np.sort(-negatives)[round(round(1 - tpr, 9) * len(negatives))]
    assert found["fpr_id_pos"] == (-positives > threshold).mean()
    fpr, recall, _ = roc_curve(*labels(negatives, positives), drop_intermediate=False)
    assert found["fpr_ood_pos"] == fpr[np.argmax(recall >= tpr)]


def test_the_two_conventions_are_far_apart() -> None:
    """2000 N(0,1) in distribution and 1000 2N+1 outside: FPR95 is .636 or .9885, on one and the same scores."""
    state = np.random.RandomState(0)
    inside, outside = state.randn(2000), 2 * state.randn(1000) + 1
    found = roc_statistics(inside, outside)
    assert (found["fpr_id_pos"], found["fpr_ood_pos"]) == (0.636, 0.9885)


def test_by_hand() -> None:
    """Negatives 1 1 2 3, positives 2 3 3 4 (docs/metrics/ood.md).

    -s sorted: -3 -2 -1 -1, index round(.2) = 0: t = -3; of the positives only 2 has -s > -3: 1/4.
    At least .95 of the positives: all four, so the threshold is 2; 2 and 3 of the negatives are at or above: 2/4.
    AUROC: pairs won 2: 1,1 and half of 2 = 2.5; 3 (twice): 3 and half of 3 = 3.5; 4: 4; 13.5/16.
    Detection error: threshold at 3 misses 2 and flags 3: 2/8; at 2 flags 2 and 3: 2/8. None is better.
    AUPR out, steps: at 4 1/1, at 3 3/4, at 2 4/6: 1/4 (1 + 2 x 3/4 + 4/6) = 19/24; trapezoids from (0, 0):
    (1/4)(0 + 1)/2 + (2/4)(1 + 3/4)/2 + (1/4)(3/4 + 4/6)/2 = 71/96.
    """
    found = roc_statistics([1, 1, 2, 3], [2, 3, 3, 4])
    expected = {"fpr_id_pos": 1 / 4, "fpr_ood_pos": 2 / 4, "auroc": 13.5 / 16, "detection_error": 2 / 8}
    expected |= {"ap_out": 19 / 24, "aupr_out": 71 / 96}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-15)


def test_scores_that_tell_everything_or_nothing() -> None:
    """Apart: no error of any kind (the trapezoids' first corner costs 1/2N of the area). All equal: chance."""
    apart = roc_statistics([0, 1], [2, 3])
    assert (apart["auroc"], apart["fpr_id_pos"], apart["fpr_ood_pos"], apart["detection_error"]) == (1, 0, 0, 0)
    assert (apart["ap_in"], apart["ap_out"], apart["aupr_in"], apart["aupr_out"]) == (1, 1, 0.75, 0.75)
    equal = roc_statistics([5, 5, 5], [5])
    assert (equal["auroc"], equal["fpr_id_pos"], equal["fpr_ood_pos"], equal["detection_error"]) == (0.5, 0, 1, 0.25)
    assert equal["ap_out"] == 0.25


def test_only_the_order_of_the_scores_counts() -> None:
    """A growing function of the scores, or another order of the images, changes nothing: bit-equal."""
    negatives, positives = two_samples()
    before = roc_statistics(negatives, positives)
    assert roc_statistics(np.exp(negatives / 3) - 7, np.exp(positives / 3) - 7) == before
    assert roc_statistics(negatives[::-1], np.roll(positives, 7)) == before
    wrong = np.random.default_rng(1).random(len(negatives)) < 0.2
    once, resampled = risk_bootstrap(negatives, wrong, resamples=20)
    other, moved = risk_bootstrap(2 * negatives**3 - 1, wrong, resamples=20)
    assert other == once
    assert all(np.array_equal(moved[name], resampled[name], equal_nan=True) for name in resampled)


@pytest.mark.parametrize(
    ("negatives", "positives", "why"),
    [([], [1.0], "no scores"), ([1.0], [], "no scores"), ([1.0, np.nan], [2.0], "1 of 2 scores are not a number")],
)
def test_what_cannot_be_ranked_is_refused(negatives: list[float], positives: list[float], why: str) -> None:
    """An empty side, or a score that has no place in the order."""
    for function in (roc_statistics, roc_bootstrap):
        with pytest.raises(ValueError, match=why):
            function(negatives, positives)


# Risk and coverage


def brute_force(scores: list[int], wrong: list[int]) -> tuple[float, list[float]]:
    """AURC and the risk after each image: the mean over all orders of images of equal score."""
    orders = [o for o in itertools.permutations(range(len(scores))) if all(np.diff([scores[i] for i in o]) >= 0)]
    risks = np.mean([np.cumsum([wrong[i] for i in o]) / np.arange(1, len(o) + 1) for o in orders], axis=0)
    return float(risks.mean()), risks.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_risk_is_the_mean_over_all_orders_of_ties(seed: int) -> None:
    """Six images with scores 0 to 2: AURC and each coverage against every permutation; 1e-12."""
    rng = np.random.default_rng(seed)
    scores, wrong = rng.integers(0, 3, 6).tolist(), rng.integers(0, 2, 6).tolist()
    aurc, risks = brute_force(scores, wrong)
    found, _ = risk_bootstrap(scores, wrong, resamples=2)
    assert found["aurc"] == pytest.approx(aurc, abs=1e-12)
    for coverage in COVERAGES:
        images = int(np.ceil(round(coverage * 6, 6)))
        assert found[f"risk@{coverage:g}"] == pytest.approx(risks[images - 1], abs=1e-12)


def test_risk_by_hand() -> None:
    """Surest first: right, wrong, right, wrong. Risks 0, 1/2, 1/3, 1/2: AURC 1/3; best 0, 0, 1/3, 1/2: 5/24."""
    found, _ = risk_bootstrap([1, 2, 3, 4], [0, 1, 0, 1], resamples=2)
    assert found["aurc"] == pytest.approx(1 / 3, abs=1e-15)
    assert found["e_aurc"] == pytest.approx(1 / 3 - 5 / 24, abs=1e-15)
    assert [found[f"risk@{x:g}"] for x in (0.1, 0.5, 0.6, 1.0)] == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2], abs=1e-15)


def test_without_errors_there_is_no_risk() -> None:
    """AURC 0; what compares right with wrong is undefined. All wrong: risk 1, and no order would be better."""
    found, resampled = risk_bootstrap([1, 2, 3], [0, 0, 0], resamples=5)
    assert (found["aurc"], found["e_aurc"], found["risk@1"]) == (0, 0, 0)
    assert np.isnan(found["auroc"])
    assert np.isnan(resampled["auroc"]).all()
    found, _ = risk_bootstrap([1, 2, 3], [1, 1, 1], resamples=5)
    assert (found["aurc"], found["e_aurc"], found["risk@0.1"]) == pytest.approx((1, 0, 1), abs=1e-12)


# Areas under risk and coverage beyond the mean; coverage at a risk; points of the ROC curve

# fd-shifts (github.com/IML-DKFZ/fd-shifts, c4467ae, `RiskCoverageStats` and `get_working_point`; its areas are x 1000)
# on `drawn_errors(n, seed, digits)`, run beside torch-uncertainty 0.13 (AURC, AUGRC, CovAtxRisk), which breaks no ties.
FD_SHIFTS = {
    (500, 0, 2): (0.06224569702642613, 0.029147331900958393, 0.04851600000000001, 0.606, 0.768, 0.934),
    (200, 1, 0): (0.04967910385745208, 0.030363139223130407, 0.042325, 0.305, 0.735, 1.0),
    (300, 2, 12): (0.06062367316745716, 0.03762303528200654, 0.04423333333333333, 0.63, 0.7733333333333333, 0.99),
    (20, 4, 1): (0.024516468868249056, 0.0030313099196166036, 0.0225, 0.75, 0.85, 1.0),
}
TORCH_UNCERTAINTY = (0.06082642866806145, 0.044381271271084544, 0.7733333110809326)  # of (300, 2, 12)


def drawn_errors(n: int, seed: int, digits: int) -> tuple[Scores, NDArray[np.bool_]]:
    """Scores, rounded, and errors that are likelier where these are high."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 1, n).round(digits)
    return scores, rng.random(n) < 1 / (1 + np.exp(2 - 2 * scores))


@pytest.mark.parametrize("case", FD_SHIFTS)
def test_fd_shifts_gives_the_same(case: tuple[int, int, int]) -> None:
    """AURC, excess AURC and AUGRC by trapezoids, coverage at risks .05, .1 and .2, with and without ties; 1e-12."""
    found, _ = risk_bootstrap(*drawn_errors(*case), resamples=2)
    names = ("aurc_trapezoid", "e_aurc_trapezoid", "augrc", "coverage@0.05", "coverage@0.1", "coverage@0.2")
    assert [found[name] for name in names] == pytest.approx(FD_SHIFTS[case], abs=1e-12)


def test_torch_uncertainty_gives_the_same() -> None:
    """300 scores without ties. Its trapezoids run from 1/n to 1 and are divided by 1 - 1/n; so those of the mean over
    1/n, 2/n, ... miss half of both ends, and those from 0 the first piece; 1e-9 (the coverage is float32)."""
    scores, wrong = drawn_errors(300, 2, 12)
    found, _ = risk_bootstrap(scores, wrong, resamples=2)
    first, last = float(wrong[scores.argmin()]), wrong.mean()
    assert (300 * found["aurc"] - (first + last) / 2) / 299 == pytest.approx(TORCH_UNCERTAINTY[0], abs=1e-9)
    assert (300 * found["augrc"] - first / 600) / 299 == pytest.approx(TORCH_UNCERTAINTY[1], abs=1e-9)
    assert found["coverage@0.1"] == pytest.approx(TORCH_UNCERTAINTY[2], abs=1e-6)


def test_areas_by_hand() -> None:
    """Surest first: right, wrong, right, wrong. Wrong among the accepted, of all: 0, 1/4, 1/4, 2/4, trapezoids from 0:
    (0 + 1/8 + 1/4 + 3/8) / 4 = 3/16. Risks 0, 1/2, 1/3, 1/2, the first held back to coverage 0: (0 + 1/4 + 5/12 + 5/12)
    / 4 = 13/48. Only the first image is accepted at a risk below 1/3. ROC from the top: wrong, right, wrong, right:
    half are found until half of the right ones are flagged, then all. 1e-15."""
    found, _ = risk_bootstrap([1, 2, 3, 4], [0, 1, 0, 1], resamples=2)
    assert found["augrc"] == pytest.approx(3 / 16, abs=1e-15)
    assert found["aurc_trapezoid"] == pytest.approx(13 / 48, abs=1e-15)
    best = 1 / 2 + np.log(1 / 2) / 2
    assert found["e_aurc_trapezoid"] == pytest.approx(13 / 48 - best, abs=1e-15)
    assert found["e_aurc_analytic"] == pytest.approx(1 / 3 - best, abs=1e-15)
    assert [found[f"coverage@{x:g}"] for x in RISKS] == [1 / 4] * len(RISKS)
    assert [found[f"found@{x:g}"] for x in ALARMS] == [1 / 2 if x < 0.5 else 1 for x in ALARMS]


def test_equal_scores_are_one_step() -> None:
    """100 tied scores, half of them wrong: every area is that of a coin, .5 and .25; the excess over the two perfect
    orders is .3441 (of 100 images) and .3466 (of many); no threshold has a risk below .5, and the ROC curve is the
    diagonal; 5e-5 for the printed figures, 1e-12 else."""
    found, _ = risk_bootstrap(np.zeros(100), np.arange(100) % 2, resamples=2)
    assert found["e_aurc"] == pytest.approx(0.3441, abs=5e-5)
    assert found["e_aurc_analytic"] == pytest.approx(0.3466, abs=5e-5)
    assert [found[name] for name in ("aurc", "aurc_trapezoid", "augrc")] == pytest.approx([0.5, 0.5, 0.25], abs=1e-12)
    assert {found[f"coverage@{x:g}"] for x in RISKS} == {0}
    assert [found[f"found@{x:g}"] for x in ALARMS] == pytest.approx(ALARMS, abs=1e-12)


@pytest.mark.parametrize("digits", [0, 1, 6])
def test_augrc_is_a_function_of_the_auroc_and_the_accuracy(digits: int) -> None:
    """(1 - AUROC) a (1 - a) + (1 - a)^2 / 2 (Traub et al. 2024), in every resample too; 1e-12."""
    scores, wrong = drawn_errors(80, 3, digits)
    once, resampled = risk_bootstrap(scores, wrong, resamples=50)
    right = 1 - wrong.mean()
    assert once["augrc"] == pytest.approx((1 - once["auroc"]) * right * (1 - right) + (1 - right) ** 2 / 2, abs=1e-12)
    right = 1 - resampled["risk@1"]
    expected = (1 - resampled["auroc"]) * right * (1 - right) + (1 - right) ** 2 / 2
    assert np.allclose(resampled["augrc"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("digits", [0, 1, 6])
def test_points_follow_their_definitions(seed: int, digits: int) -> None:
    """Coverage at a risk over every threshold (exactly), and the ROC curve between scikit-learn's points (1e-6, just
    right of a jump)."""
    scores, wrong = drawn_errors(60, seed, digits)
    found, _ = risk_bootstrap(scores, wrong, resamples=2)
    for risk in RISKS:
        accepted = [scores <= t for t in np.unique(scores)]
        assert found[f"coverage@{risk:g}"] == max(
            [0, *(each.mean() for each in accepted if wrong[each].mean() <= risk)]
        )
    alarms, recall, _ = roc_curve(wrong, scores, drop_intermediate=False)
    for share in ALARMS:
        assert found[f"found@{share:g}"] == pytest.approx(np.interp(share + 1e-9, alarms, recall), abs=1e-6)


def test_ends_of_areas_and_coverages() -> None:
    """50 images, all right: at most u = unseen(50) = .071 others are wrong. Surest of all, they are min(u, c) of all
    images at coverage c: mean u - u^2 / 2. A risk of .05 is then met nowhere, one of .1 everywhere; 1e-12."""
    values, _ = risk_bootstrap(np.arange(50), np.zeros(50), resamples=2)
    u = unseen(50)
    assert risk_ends(values, 50)["augrc"] == pytest.approx((0, u - u**2 / 2), abs=1e-12)
    ends = coverage_ends(np.arange(50), np.zeros(50))
    assert ends["coverage@0.05"] == pytest.approx((0, 1), abs=1e-12)
    assert ends["coverage@0.1"] == pytest.approx((1, 1), abs=1e-12)


# The bootstrap


def test_resamples_are_those_of_repeated_images() -> None:
    """Tables of counts equal scores that are written out as often as they were drawn: 20 resamples, 1e-12."""
    rng = np.random.default_rng(0)
    distinct = np.arange(9.0)
    negatives, positives = (rng.multinomial(30, np.full(9, 1 / 9), 20).astype(float) for _ in range(2))
    found, risk = curve_statistics(negatives, positives), risk_statistics(negatives, positives)
    for row in range(20):
        low, high = (np.repeat(distinct, counts[row].astype(int)) for counts in (negatives, positives))
        for name, value in roc_statistics(low, high).items():
            assert found[name][row] == pytest.approx(value, abs=1e-12), name
        once, _ = risk_bootstrap(np.concatenate([low, high]), np.repeat([0, 1], 30), resamples=2)
        assert {name: values[row] for name, values in risk.items()} == pytest.approx(
            {name: once[name] for name in risk}, abs=1e-12
        )


def test_the_same_draws_whatever_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is held at once changes no resample."""
    negatives, positives = two_samples()
    before = roc_bootstrap(negatives, positives, resamples=50)
    monkeypatch.setattr("assay.harness.curves.PART", 1000)
    after = roc_bootstrap(negatives, positives, resamples=50)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_two_detectors_on_the_same_images_pair() -> None:
    """The same resamples: the AUROC of equal scores differs by 0 in each, of near scores by less than either varies.
    Another stream draws others."""
    negatives, positives = two_samples(digits=6)
    near = positives + np.random.default_rng(5).normal(0, 0.1, len(positives))
    one, two = (roc_bootstrap(negatives, each, resamples=400)["auroc"] for each in (positives, near))
    assert (one - two).std() < 0.2 * one.std()
    assert np.array_equal(one, roc_bootstrap(negatives - 1, positives - 1, resamples=400)["auroc"])
    assert not np.array_equal(one, roc_bootstrap(negatives, positives, (0, 2), resamples=400)["auroc"])


def test_standard_error_of_the_area() -> None:
    """AUROC of 300 against 200: DeLong's variance from each image's share of pairs won; within 10 % (Monte Carlo of
    1000 resamples: 2.2 %)."""
    negatives, positives = two_samples(digits=6)
    won = (positives[:, None] > negatives).astype(float)
    delong = np.sqrt(won.mean(1).var(ddof=1) / len(positives) + won.mean(0).var(ddof=1) / len(negatives))
    made = estimate(0.5, roc_bootstrap(negatives, positives)["auroc"], "x", 200)
    assert made.stderr == pytest.approx(delong, rel=0.1)


def test_intervals_cover() -> None:
    """100 draws of 150 against 150 N(0,1) and N(1,1): the intervals hold AUROC = Phi(1/sqrt 2) = .7602 and
    FPR95 = 1 - Phi(1 - 1.645) = .7405 in about 95 %: at least 88 % (three standard errors of the count)."""
    truth, covered = {"auroc": 0.76025, "fpr_id_pos": 0.74045}, {"auroc": 0, "fpr_id_pos": 0}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        negatives, positives = rng.normal(0, 1, 150), rng.normal(1, 1, 150)
        resampled = roc_bootstrap(negatives, positives, resamples=400)
        for name, value in truth.items():
            made = estimate(value, resampled[name], "x", 150)
            covered[name] += made.ci_low <= value <= made.ci_high
    assert min(covered.values()) >= 88


# Where no resample differs


def exact(n: int) -> float:
    """SciPy's upper end of the exact interval of 0 in n."""
    return float(scipy_stats.binomtest(0, n).proportion_ci(0.95, method="exact").high)


@pytest.mark.parametrize(("n", "m"), [(300, 300), (1000, 60), (44, 200), (8, 5), (2, 2)])
def test_scores_that_are_told_apart(n: int, m: int) -> None:
    """Against Clopper and Pearson's interval of SciPy: AUROC of the smaller side, each rate of the side it is a share
    of, detection error of all images (and never more than that of passing all); 1e-9. The other way round, the same
    from the other end."""
    negatives, positives = np.arange(n) / n, 2 + np.arange(m) / m
    ends = roc_ends(negatives, positives)
    assert ends["auroc"] == pytest.approx((1 - exact(min(n, m)), 1), abs=1e-9)
    assert ends["fpr_id_pos"] == pytest.approx((0, exact(m)), abs=1e-9)
    assert ends["fpr_ood_pos"] == pytest.approx((0, exact(n)), abs=1e-9)
    assert ends["detection_error"] == pytest.approx((0, min(exact(n + m), min(n, m) / (n + m))), abs=1e-9)
    back = roc_ends(positives, negatives)
    assert back["auroc"] == pytest.approx((0, exact(min(n, m))), abs=1e-9)
    assert back["fpr_id_pos"] == pytest.approx((1 - exact(n), 1), abs=1e-9)
    assert back["fpr_ood_pos"] == pytest.approx((1 - exact(m), 1), abs=1e-9)


def test_a_precision_falls_with_negatives_that_no_image_shows() -> None:
    """500 against 200: u N of the negatives above all positives, sum over k of k / (k + u N) / M, or u M of the
    positives below all negatives; the lower of the two, or of both sides together; 1e-9."""
    n, m = 500, 200
    u, v, w = unseen(n), unseen(m), unseen(n + m)

    def area(u: float, v: float) -> float:
        ranks, last = np.arange(1, m + 1) * (1 - v), np.arange(1, 101) * v * m / 100
        found = ranks / (ranks + u * n), (last + m * (1 - v)) / (last + m * (1 - v) + n)
        return float(found[0].mean() * (1 - v) + found[1].mean() * v)

    ends = roc_ends(np.arange(n) / n, 2 + np.arange(m) / m)
    assert ends["ap_out"] == pytest.approx((min(area(u, 0), area(0, v), area(w, w)), 1), abs=1e-9)


def test_a_detector_that_is_no_better_than_passing_all() -> None:
    """200 above 100: no threshold errs on fewer than the 100. A share of positives above all would be found: the error
    ends at (1 - unseen(100)) / 3 (1e-9), and never above a third."""
    low, high = roc_ends(2 + np.arange(200) / 200, np.arange(100) / 100)["detection_error"]
    assert (low, high) == pytest.approx(((1 - exact(100)) / 3, 1 / 3), abs=1e-9)


@pytest.mark.parametrize(("n", "m"), [(2, 2), (8, 5), (40, 300)])
@pytest.mark.parametrize("kind", ["apart", "reversed", "equal"])
def test_no_interval_of_a_rank_statistic_is_a_point(n: int, m: int, kind: str) -> None:
    """Every statistic of samples that are told apart, told apart the wrong way, or not at all: an interval in [0,1]
    that holds the value and has a width."""
    negatives, positives = {
        "apart": (np.arange(n), n + np.arange(m)),
        "reversed": (m + np.arange(n), np.arange(m)),
        "equal": (np.zeros(n), np.zeros(m)),
    }[kind]
    values, ends = roc_statistics(negatives, positives), roc_ends(negatives, positives)
    resampled = roc_bootstrap(negatives, positives, resamples=100)
    for name in values:
        made = estimate(values[name], resampled[name], "bootstrap", m, ends[name], resampled["auroc"])
        assert 0 <= made.ci_low <= values[name] <= made.ci_high <= 1, name
        assert made.ci_high - made.ci_low > 1e-3, name
        assert made.ci_method == "clopper_pearson", name


def test_the_excess_by_trapezoids_may_be_negative() -> None:
    """25 right images of one score, 25 wrong of a higher one: the straight line from risk 0 to 1/2 over the last half
    has an area of 1/8, the perfect order's curve above it r + (1-r) ln(1-r) = .153. How far it could reach is not cut
    at 0, but where the area is; the two other forms are 0 at best. 1e-12."""
    values, _ = risk_bootstrap(np.repeat([0.0, 1.0], 25), np.repeat([0.0, 1.0], 25), resamples=2)
    best = 0.5 + 0.5 * np.log(0.5)
    assert values["e_aurc_trapezoid"] == pytest.approx(1 / 8 - best, abs=1e-12) and values["e_aurc_trapezoid"] < 0
    ends, reach = risk_ends(values, 50), unseen(50) * (1 - np.log(unseen(50)))
    assert ends["e_aurc_trapezoid"] == pytest.approx((-best, 1 / 8 - best + reach), abs=1e-12)
    assert values["e_aurc"] == pytest.approx(0, abs=1e-12) and values["e_aurc_analytic"] >= 0
    assert ends["e_aurc"][0] == ends["e_aurc_analytic"][0] == 0


def test_the_risk_of_the_surest_is_bounded_by_their_number() -> None:
    """No error among 50 images: at coverage .5 as of 25 (SciPy's exact interval), 1e-12. The mean over coverages: a
    share u of errors, all surest, has risk min(1, u / c), whose mean is u (1 - ln u): numerically, 1e-4."""
    values, _ = risk_bootstrap(np.arange(50), np.zeros(50), resamples=2)
    ends = risk_ends(values, 50)
    assert ends["risk@0.5"] == pytest.approx((0, exact(25)), abs=1e-12)
    assert ends["risk@1"] == pytest.approx((0, exact(50)), abs=1e-12)
    coverages = (np.arange(100_000) + 0.5) / 100_000
    assert ends["aurc"] == pytest.approx((0, np.minimum(1, unseen(50) / coverages).mean()), abs=1e-4)
    assert ends["e_aurc"] == ends["aurc"]
    wrong, _ = risk_bootstrap(np.arange(50), np.ones(50), resamples=2)
    assert risk_ends(wrong, 50)["risk@0.5"] == pytest.approx((1 - exact(25), 1), abs=1e-12)


def test_intervals_with_a_width_are_as_before() -> None:
    """The numbers before there were ends, 200 resamples, 1e-12; ends change none."""
    before = {
        "fpr_id_pos": (0.66, 0.04286351337553272, 0.57, 0.7252500000000001),
        "fpr_ood_pos": (0.88, 0.0439214058736058, 0.80625, 0.9701666666666667),
        "auroc": (0.72235, 0.02255108559165983, 0.6783868750000001, 0.7571483333333333),
        "aupr_in": (0.7376265537720917, 0.02435693936560741, 0.6905148703009811, 0.7820907600801814),
        "ap_out": (0.6847367804686669, 0.02479656523481153, 0.6340565465606344, 0.7287894935285812),
        "detection_error": (0.288, 0.014558255873227104, 0.25595, 0.31),
    }
    samples = two_samples()
    values, ends, resampled = roc_statistics(*samples), roc_ends(*samples), roc_bootstrap(*samples, resamples=200)
    for name, expected in before.items():
        made = estimate(values[name], resampled[name], "x", 200, ends[name])
        assert made[:4] == pytest.approx(expected, abs=1e-12)
        assert made == estimate(values[name], resampled[name], "x", 200)


def test_intervals_of_rare_errors_cover() -> None:
    """1 % of the negatives score above all positives: AUROC .99. Of 100 against 100 a third of the draws show none,
    and the bootstrap's point at 1 does not hold .99. Of 200 draws at least 95 % do; less than 80 % without the ends."""
    covered = np.zeros(2)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        negatives = rng.random(100) + 3 * (rng.random(100) < 0.01)
        positives = 1 + rng.random(100)
        value, resampled = (
            roc_statistics(negatives, positives)["auroc"],
            roc_bootstrap(negatives, positives, resamples=200),
        )
        for way, ends in enumerate((roc_ends(negatives, positives)["auroc"], None)):
            made = estimate(value, resampled["auroc"], "x", 100, ends)
            covered[way] += made.ci_low <= 0.99 <= made.ci_high
    assert covered[0] >= 0.95 * 200 and covered[1] < 0.8 * 200


def test_an_order_that_no_resample_changes_settles_what_follows_from_it() -> None:
    """The area under the precision of an order without a mistake moves with the number of errors alone: its interval
    has a width, of another thing."""
    resampled = np.array([0.99, 0.992, 0.994])
    assert estimate(0.992, resampled, "x", 9, (0.9, 1.0), np.array([0.8, np.nan, 0.9])).ci_method == "x"
    made = estimate(0.992, resampled, "x", 9, (0.9, 1.0), np.array([1, np.nan, 1]))
    assert made[2:5] == (0.9, 1.0, "clopper_pearson")


def test_an_estimate_of_little() -> None:
    """One image, or resamples without a value: the value alone."""
    assert np.isnan(estimate(1.0, np.ones(9), "x", 1)[1:4]).all()
    assert np.isnan(estimate(1.0, np.full(9, np.nan), "x", 9)[1:4]).all()
    assert estimate(1.0, np.array([np.nan, 0.0, 1.0]), "x", 9)[2:4] == pytest.approx((0.025, 0.975))


def test_the_acceptance_limit_is_the_rates_own_by_hand() -> None:
    """Twenty scores -20 .. -1: the second largest, -2, is passed by what scores strictly less; the rate says so."""
    inside, outside = -np.arange(1.0, 21), np.array([-1.0, -2, -2.5, -30])
    assert acceptance_limit(inside) == -2
    assert roc_statistics(inside, outside)["fpr_id_pos"] == (outside < -2).mean() == 0.5


@pytest.mark.parametrize("tpr", [0.95, 0.9, 0.995, 0.5])
def test_the_acceptance_limit_is_the_rates_own(tpr: float) -> None:
    """Against the rate from tables of counts, on 210 and 130 scores with ties; exactly."""
    generator = np.random.default_rng(0)
    inside, outside = (np.round(generator.normal(centre, 1, n), 1) for centre, n in ((0, 210), (1, 130)))
    rate = (outside < acceptance_limit(inside, tpr)).mean()
    assert roc_statistics(inside, outside, tpr)["fpr_id_pos"] == pytest.approx(rate, abs=1e-15)


@pytest.mark.parametrize(("scores", "says"), [([-1.0] * 200, "0.0 % of 200 images"), ([3.0], "it is the only image")])
def test_an_acceptance_limit_that_accepts_nothing_is_refused(scores: list[float], says: str) -> None:
    """Equal scores, or one image: what scores less than the highest is none of them, not 95 %."""
    with pytest.raises(ValueError, match=says):
        acceptance_limit(scores)


def test_recalls_are_shares_by_definition() -> None:
    """Of samples with ties: negatives below the limit; scikit-learn's first recall of at least .95; exactly."""
    negatives, positives = two_samples(digits=1)
    found = recalls(negatives, positives)
    limit = np.sort(-negatives)[round(0.05 * len(negatives))]
    _, share, _ = roc_curve(*labels(negatives, positives), drop_intermediate=False)
    assert found == {"fpr_id_pos": (-negatives > limit).mean(), "fpr_ood_pos": share[share >= 0.95 - 1e-12][0]}
