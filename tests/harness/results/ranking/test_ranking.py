"""Rankings: blocks by hand, ranks and tests by hand, against SciPy's and scikit-posthocs' numbers, Demsar's tables."""

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from assay.harness.config import ConfigError
from assay.harness.results.ranking.blocks import Blocks, blocks
from assay.harness.results.ranking.chosen import where
from assay.harness.results.ranking.diagram import picture
from assay.harness.results.ranking.significance import FEWEST, critical_difference, least_blocks, ranking
from assay.harness.results.ranking.told import letters, mapping, records, said, text
from tidy_rows import table

# Areas under ROC curves of four trees on 14 data sets, of the kind of Demsar's table 6.
TREES = """
.763 .768 .771 .798  .599 .591 .590 .569  .954 .971 .968 .967  .628 .661 .654 .657  .882 .888 .886 .898
.936 .931 .916 .931  .661 .668 .609 .685  .583 .583 .563 .625  .775 .838 .866 .875  1 1 1 1
.940 .962 .965 .962  .619 .666 .614 .669  .972 .981 .975 .975  .957 .978 .946 .970"""
AREAS = np.array(TREES.split(), float).reshape(14, 4)


def made(values: Any, *methods: str, up: bool = True, one: bool = True) -> Blocks:
    """Blocks of values [N,M]; methods a, b, c, ..."""
    names = methods or tuple("abcdefghijklmnopqrstuvwxyz"[: np.shape(values)[1]])
    index = pd.MultiIndex.from_tuples(
        [("m", "w", f"set{number}", "test", "", "0") for number in range(len(values))],
        names=["model", "weights", "dataset", "split", "reference", "seed"],
    )
    frame = pd.DataFrame(np.asarray(values, float) * (-1 if up else 1), index=index, columns=list(names))
    return Blocks("t", frame, one, [])


def row(method: str, value: float | None, **others: Any) -> dict[str, Any]:
    """A detector's AUROC on a set."""
    about = {"reference": "known", "dataset": "far", "metric": "ood", "stat": "auroc", "kind": "ood", "variant": "v"}
    shared = {"weights": "w", "seed": "0", "precision": "float32", "protocol": "detection", "settings": "{}"}
    return about | shared | {"method": method, "value": value, "higher_is_better": True} | others


# Blocks


def test_blocks_follow_the_good_direction() -> None:
    """AUROC and FPR95 are ranked apart, each by what is better; in every block a is the better one."""
    fpr = {"stat": "fpr95_id_pos", "higher_is_better": False}
    rows = [row("a", 0.9), row("b", 0.8), row("a", 0.1, **fpr), row("b", 0.2, **fpr)]
    found = [*blocks(table(*rows))]
    assert [each.title for each in found] == ["ood auroc v", "ood fpr95_id_pos v"]
    assert all(ranking(each).ranks.to_dict() == {"a": 1, "b": 2} for each in found)


def test_attributions_are_ranked_by_all_quantities() -> None:
    """Of a quantity where less is better the smaller value wins: each method is first once."""
    up, down = {"higher_is_better": True}, {"higher_is_better": False, "metric": "outside_inside"}
    rows = [{"method": name, "value": value} | each for name, value in (("a", 1.0), ("b", 2.0)) for each in (up, down)]
    (found,) = blocks(table(*rows))
    assert found.title == "attributions" and not found.is_one_quantity
    assert ranking(found).ranks.to_dict() == {"a": 1.5, "b": 1.5}


def test_what_is_no_block() -> None:
    """Averages (of groups, too), subsets, what is no headline, has no direction, is infinite: a wins the one block."""
    odd: list[dict[str, Any]] = [
        {"dataset": "average"},
        {"dataset": "average near"},
        {"subset": "difficult"},
        {"headline": False},
        {"higher_is_better": None},
        {"value": float("inf")},
        {"dataset": "together"},
    ]
    rows = [row("a", 0.9), row("b", 0.8), *(row(name, v) | each for each in odd for name, v in (("a", 0), ("b", 1)))]
    (found,) = blocks(table(*rows))
    assert len(found.losses) == 1 and ranking(found).ranks.to_dict() == {"a": 1, "b": 2}


def test_blocks_without_a_value_are_left_out_and_named() -> None:
    """c failed on one of two sets."""
    rows = [row(name, 0.5, dataset=place) for name, place in product("abc", ("near", "far"))]
    rows[-1]["value"] = None
    (found,) = blocks(table(*rows))
    assert found.losses.index.to_frame()["dataset"].tolist() == ["near"]
    assert found.left_out == ["1 of 2 blocks lack a value (c in 1)"]


def test_a_seed_that_changes_nothing_is_no_block() -> None:
    """Seed 1 gives the values of seed 0, seed 2 others: two blocks, not three."""
    rows = [row(name, value, seed=seed) for seed in ("0", "1") for name, value in (("a", 0.9), ("b", 0.8))]
    rows += [row("a", 0.91, seed="2"), row("b", 0.8, seed="2")]
    (found,) = blocks(table(*rows))
    assert len(found.losses) == 2 and found.left_out == ["1 blocks in which another seed gave the same values"]


def test_two_results_of_one_method() -> None:
    """With other settings they are two methods; what nothing tells apart is left out by name."""
    ks = [row("knn", value, settings=f'{{"method":{{"k":{k}}}}}') for k, value in ((1, 0.7), (50, 0.8))]
    (found,) = blocks(table(row("msp", 0.5), *ks))
    assert list(ranking(found).ranks.index) == ["knn (k=50)", "knn (k=1)", "msp"]
    (found,) = blocks(table(row("a", 0.5), row("b", 0.5), row("knn", 0.7), row("knn", 0.8)))
    assert list(found.losses) == ["a", "b"]
    assert found.left_out == ["knn: two results of one block that no setting tells apart"]


def test_settings_that_differ_between_sets_are_other_methods() -> None:
    """k=1 on one set and k=50 on another is no one knn; what a network decides, its layer, names nothing apart."""

    def knn(name: str, value: object, **others: object) -> dict[str, Any]:
        return row("knn", 0.7, settings=f'{{"method":{{"{name}":"{value}"}}}}', **others)

    rows = [row(name, 0.5, dataset=place) for name, place in product("ab", ("near", "far"))]
    (found,) = blocks(table(*rows, knn("k", 1, dataset="near"), knn("k", 50, dataset="far")))
    assert found.losses.empty
    assert found.left_out == ["2 of 2 blocks lack a value (knn (k=1) in 1, knn (k=50) in 1)"]
    rows = [row("a", 0.5, model=model) for model in "mn"]
    (found,) = blocks(table(*rows, knn("layer", "late", model="m"), knn("layer", "last", model="n")))
    assert list(found.losses) == ["a", "knn"] and len(found.losses) == 2
    twice = [knn("layer", layer, model="m") for layer in ("early", "late")]
    (found,) = blocks(table(row("a", 0.5, model="m"), *twice))
    assert list(found.losses) == ["a", "knn (layer=early)", "knn (layer=late)"]


def test_parts_of_a_set_are_no_blocks_beside_it() -> None:
    """The first 8 and 60 images of a set are images of it; in another order, or where the whole lacks a, they count."""
    splits = ("test[:8]", "test[:60]", "test", "test[:8]@seed1")
    rows = [row(name, value, split=split) for name, value in (("a", 0.9), ("b", 0.8)) for split in splits]
    (found,) = blocks(table(*rows))
    assert found.losses.index.to_frame()["split"].tolist() == ["test", "test[:8]@seed1"]
    why = "some of the images of a larger part, which is ranked"
    assert found.left_out == [f"far {split} beside known: {why}" for split in ("test[:60]", "test[:8]")]
    lacking = [each for each in rows if (each["method"], each["split"]) != ("b", "test")]
    (found,) = blocks(table(*lacking))
    assert found.losses.index.to_frame()["split"].tolist() == ["test[:60]", "test[:8]@seed1"]
    parts = [row(name, 0.5, reference=f"known test{part}") for name in "ab" for part in ("[:8]", "[:60]")]
    (found,) = blocks(table(*parts))
    assert found.losses.index.to_frame()["reference"].tolist() == ["known test[:60]"]


def test_an_older_version_is_left_out() -> None:
    """Of methods, of their parts (with equal settings alone), and of metrics; settings of two parts are two methods."""

    def of(version: str, value: float, part: str = "method") -> dict[str, Any]:
        return row("s", value, settings=f'{{"{part}":{{{version}}}}}')

    for part, old, new in (
        ("method", '"version":2', '"version":10'),
        ("metric", '"version":2', '"version":10'),
        ("method", '"version":1', '"version":1,"versions":{"inner":2}'),
    ):
        others = [row("a", 0.5) | {"settings": of(each, 0, part)["settings"]} for each in (old, new)]
        rows = [of(old, 0.9, part), of(new, 0.1, part), *(others if part == "metric" else others[1:])]
        (found,) = blocks(table(*rows))
        assert ranking(found).ranks.to_dict() == {"a": 1, "s": 2} and len(found.losses) == 1
        name = {"method": "s: 1 result", "metric": "ood: 2 result"}[part]
        (said_,) = found.left_out
        assert said_.startswith(name) and "older version" in said_ and f"({{{old}}})" in said_
    two = [of(f'"inner":"{each}","version":1{more}', 0.5) for each, more in (("x", ""), ("y", ',"versions":{"i":2}'))]
    (found,) = blocks(table(row("a", 0.5), *two))
    assert found.losses.shape == (1, 3)


def test_other_metric_settings_are_other_blocks() -> None:
    """A value under one setting is not compared with one under another."""
    rows = [row("a", 0.5, settings='{"metric":{"tpr":0.95}}'), row("b", 0.6, settings='{"metric":{"tpr":0.9}}')]
    (found,) = blocks(table(*rows))
    assert found.losses.empty and found.left_out == ["2 of 2 blocks lack a value (a in 1, b in 1)"]


def test_where_refuses_what_is_not_there() -> None:
    """A column or value of no row is answered with the nearest."""
    rows = table(row("a", 1.0), row("b", 1.0, dataset="near"))
    assert where(rows, ["dataset=near"])["method"].tolist() == ["b"]
    assert len(where(rows, ["dataset=near,far", "stat=auroc"])) == 2
    with pytest.raises(ConfigError, match=r"'datset' is not a column.*Did you mean dataset"):
        where(rows, ["datset=near"])
    with pytest.raises(ConfigError, match=r"'nearr' is not a dataset of these results.*Did you mean near"):
        where(rows, ["dataset=nearr"])


# Tests


def test_friedman_by_hand() -> None:
    """Five blocks that agree on three methods: 12 N / (k (k + 1)) (1 + 4 + 9 - 12) = 10; of 6^5 orders 6 reach it."""
    found = ranking(made([[3, 2, 1]] * 5)).friedman
    assert found is not None
    assert found.chi2 == pytest.approx(10)
    assert found.p == pytest.approx(6 / 6**5)
    alike = ranking(made([[1, 1, 1]] * 5)).friedman
    assert alike is not None and tuple(alike) == (0, 1)


def test_ranks_of_ties() -> None:
    """Equal to six digits: both have the mean of their ranks, and both are the best."""
    (alike,) = blocks(table(row("a", 0.5), row("b", 0.5 + 1e-9), row("c", 0.1)))
    found = ranking(alike)
    assert found.ranks.to_dict() == {"a": 1.5, "b": 1.5, "c": 3.0}
    assert found.bests.to_dict() == {"a": 1, "b": 1, "c": 0}


def test_trees_are_as_scikit_posthocs_has_them() -> None:
    """posthoc_wilcoxon(p_adjust='holm') of scikit-posthocs 0.17.1 (statsmodels 0.15), and SciPy's Friedman, 1e-6."""
    found = ranking(made(AREAS))
    assert found.ranks.to_dict() == pytest.approx({"d": 27 / 14, "b": 2.0, "c": 41 / 14, "a": 44 / 14})
    assert found.friedman is not None and found.p_values is not None and found.cliques is not None
    assert found.friedman.chi2 == pytest.approx(10.952381, abs=1e-6)  # with the correction for ties
    assert found.friedman.p == pytest.approx(0.011986, abs=0.003)  # of chi2; 9,999 draws have a deviation of .0011
    named = pd.DataFrame(found.p_values, found.ranks.index, found.ranks.index)
    expected = {"ab": 0.064543, "ac": 0.861262, "ad": 0.079372, "bc": 0.162986, "bd": 0.655651, "cd": 0.101254}
    assert {pair: named.at[pair[0], pair[1]] for pair in expected} == pytest.approx(expected, abs=1e-6)
    assert found.cliques.groups == [["d", "b", "c", "a"]]


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (7, 2.949), (10, 3.164)])
def test_critical_difference_is_demsars(methods: int, q: float) -> None:
    """His table 5a (three digits), and 1.25 for his four trees on 14 data sets."""
    assert critical_difference(methods, 10) == pytest.approx(q * np.sqrt(methods * (methods + 1) / 60), rel=3e-4)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


@pytest.mark.parametrize(("methods", "count"), [(2, 6), (3, 7), (11, 12)])
def test_too_few_blocks_are_not_tested(methods: int, count: int) -> None:
    """With all of them agreeing, one block more tells the first pair apart: 2^(1-n) x pairs < .05."""
    assert least_blocks(methods) == count
    pairs = methods * (methods - 1) / 2
    assert 2.0 ** (1 - count) * pairs < 0.05 <= 2.0 ** (2 - count) * pairs
    values = np.arange(methods) + 0.01 * np.arange(count)[:, None] * np.arange(methods)
    assert ranking(made(values[:-1])).cliques is None
    found = ranking(made(values))
    assert found.cliques is not None and found.p_values is not None
    assert found.p_values[0, -1] == pytest.approx(2.0 ** (1 - count) * pairs)


def test_few_blocks_say_so() -> None:
    """Neither Friedman's nor a paired test below FEWEST blocks; JSON has no nan."""
    found = ranking(made(AREAS[: FEWEST - 1]))
    assert found.friedman is None and found.cliques is None
    assert said(found) == ["nothing is tested: 4 blocks: pairs of 4 methods can be told apart from 8 on"]
    assert mapping(found)["pairs"] == [] and records(found)[0]["critical_difference"] is None


def test_other_quantities_are_tested_by_signs() -> None:
    """A large difference in one block outweighs nothing: of eight blocks seven for a, one (of 1000) for b."""
    values = np.array([[1.0, 0.0]] * 7 + [[0.0, 1000.0]])
    found = ranking(made(values, one=False))
    assert found.p_values is not None and found.p_values[0, 1] == pytest.approx(2 * (1 + 8) / 2**8)
    assert list(found.ranks.index) == ["a", "b"]


# What people read


def test_text_and_letters() -> None:
    """a and b alike, c behind: two groups; blocks of one network on one test set depend on each other."""
    rng = np.random.default_rng(0)
    values = np.stack([rng.normal(0, 1, 20), rng.normal(0, 1, 20), np.full(20, -9.0)], 1)
    found = ranking(made(values))
    assert letters(found) in ({"a": "a", "b": "a", "c": "b"}, {"b": "a", "a": "a", "c": "b"})
    assert "mean ranks over 20 blocks (1 model, 20 sets, 1 seed)" in " ".join(text(found).split())
    assert not any("not independent" in line for line in said(found))
    index = found.blocks.losses.index.to_frame().assign(reference="known")
    shared = found.blocks._replace(losses=found.blocks.losses.set_axis(pd.MultiIndex.from_frame(index)))
    assert any(
        "20 blocks of 1 pair of network and test set are not independent" in line for line in said(ranking(shared))
    )
    note = "20 blocks of 1 pair of network and test set are not independent: p is too small"
    assert mapping(ranking(shared))["notes"] == [note] and mapping(found)["notes"] == []
    assert [each["notes"] for each in records(ranking(shared))] == [note] * 3
    assert note in picture([ranking(shared)], ".svg").decode() and note not in picture([found], ".svg").decode()


def test_picture_is_a_picture() -> None:
    """Every name and the critical difference stand in the vector drawing; two rankings, two panels."""
    drawn = picture([ranking(made(AREAS, "C4.5", "C4.5+m", "C4.5+cf", "both")), ranking(made(AREAS))], ".svg").decode()
    for name in ("C4.5+cf", "both", "critical difference", "mean ranks over 14 blocks"):
        assert f"<!-- {name}" in drawn or name in drawn
