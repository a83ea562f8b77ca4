"""The report: what the page and its charts show is what the table says."""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from assay.harness.results.report import charts
from assay.harness.results.report.figures import embedded, figure, plain
from assay.harness.results.report.heat import contrast, inks
from assay.harness.results.report.page import write_report
from assay.harness.results.report.places import Place, places
from assay.harness.results.report.ranks import agreement, ordered, ranks
from assay.harness.results.text import headlines, terminal_table
from assay.harness.types import ResultRow
from markupsafe import Markup
from plotly.colors import sample_colorscale, unlabel_rgb
from plotly.io import from_json
from tidy_rows import curve, table


class Read(HTMLParser):
    """Tables as rows of texts, headings, and whether an element loads something."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.loads: list[str] = []
        self.elements: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A row begins, a cell begins, or something is loaded."""
        self.elements.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._inside = True
            self.rows[-1].append("")
        self.loads += [f"{tag} {value}" for name, value in attrs if name in ("src", "srcset", "href", "data")]

    def handle_data(self, data: str) -> None:
        """Text of a cell."""
        if self._inside:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        """A cell ends."""
        self._inside = self._inside and tag not in ("td", "th")


def read(page: Path) -> Read:
    """A page as a parser sees it."""
    made = Read()
    made.feed(page.read_text())
    return made


def charted(made: Markup) -> Any:
    """A chart of the page, as Plotly reads it: packed numbers unpacked."""
    return from_json(json.dumps(_unpacked(json.loads(made))))


def _unpacked(part: Any) -> Any:
    if isinstance(part, dict) and "bdata" in part:
        numbers = np.frombuffer(base64.b64decode(part["bdata"]), part["dtype"])
        return numbers.reshape([int(size) for size in str(part.get("shape", len(numbers))).split(",")]).tolist()
    if isinstance(part, dict):
        return {name: _unpacked(each) for name, each in part.items()}
    return [_unpacked(each) for each in part] if isinstance(part, list) else part


def place(*rows: Mapping[str, Any], floors: tuple[str, ...] = ()) -> Place:
    """The only place of some rows."""
    (made,) = places(table(*rows), floors)
    return made


def test_the_page_ranks_over_all_places(tmp_path: Path) -> None:
    """Two methods on six sets: one heading, ranks and what was tested; on one set there is nothing to add."""
    rows = [
        {
            "method": name,
            "dataset": f"d{number}",
            "value": value,
            "higher_is_better": True,
            "cell_key": f"{name}{number}",
        }
        for name, value in (("a", 0.9), ("b", 0.8))
        for number in range(6)
    ]
    text = write_report(table(*rows), tmp_path).read_text()
    assert "Over all of them" in text and "mean ranks over 6 blocks" in text and "sign test" not in text
    assert "Wilcoxon signed ranks over the blocks" in text
    assert "Over all of them" not in write_report(table(*rows[::6]), tmp_path).read_text()


def test_the_page_shows_every_section(tmp_path: Path) -> None:
    """Two models on one data set, one with a curve, a failed row: values with intervals, ranks by value."""
    up = {"higher_is_better": True}
    failed = {"method": "rise", "value": None, "ci_low": None, "ci_high": None, "status": "failed:ArithmeticError: no"}
    other = {"model": "group/m2", "value": 0.75, "ci_low": 0.7, "ci_high": 0.8}
    best = {"method": "rap", "value": 0.9, "ci_low": 0.8, "ci_high": 1.0}
    page = write_report(table(up, up | best, other, failed, *curve("rap", [0, 1])), tmp_path / "report")
    text, rows = page.read_text(), read(page).rows
    assert "<h2>m on d test</h2>" in text and "<h2>group/m2 on d test</h2>" in text
    assert rows[1] == ["gradcam", "0.750 [0.700, 0.800]"]
    assert rows[3:5] == [["rap", "0.9001 [0.800, 1.000]"], ["gradcam", "0.5002 [0.400, 0.600]"]]  # ranks 1 and 2
    assert "m on d: rise x pointing_game: failed:ArithmeticError: no" in text
    assert "insertion morf,mean,accuracy,2x1% accuracy</option>" in text


def test_the_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    """Only links inside the page; a policy forbids the rest; nothing lies beside it."""
    page = write_report(table({}, *curve("rap", [0, 1])), tmp_path / "report")
    assert [path.name for path in page.parent.iterdir()] == ["index.html"]
    assert [each for each in read(page).loads if not each.startswith("a #")] == []
    assert "default-src 'none'" in page.read_text()
    assert page.stat().st_size < 4_000_000


def test_a_page_of_which_nothing_was_tested_says_so(tmp_path: Path) -> None:
    """Of two methods or more; of `failure` scores also what pairs them."""
    up: dict[str, Any] = {"higher_is_better": True}
    rows = [up, up | {"method": "rap", "value": 0.9}]
    page = write_report(table(*rows), tmp_path).read_text()
    assert "Not tested: pointing_game tol=2px." in page and "harness compare" not in page
    assert "Not tested" not in write_report(table(up), tmp_path).read_text()
    failure = [row | {"kind": "failure", "metric": "failure"} for row in rows]
    assert "python -m harness compare" in write_report(table(*failure), tmp_path).read_text()


EVIL = "</script><img src=x onerror=alert(1)>"


def test_names_are_text(tmp_path: Path) -> None:
    """Of models, data sets, methods, variants and failures: no element comes of them, in tables and in charts."""
    named = {"model": EVIL, "dataset": EVIL, "method": EVIL, "variant": EVIL}
    rows: list[dict[str, Any]] = [
        named | {"higher_is_better": True},
        *curve(EVIL, [0, 1], x_label=EVIL, model=EVIL, dataset=EVIL),
    ]
    rows.append(named | {"value": None, "status": f"failed:{EVIL}"})
    rows.append(named | {"method": "rap", "higher_is_better": True})
    page = write_report(table(*rows), tmp_path / "report")
    assert "img" not in read(page).elements
    assert read(page).rows[1][0] == EVIL
    (made,) = charts.curves(place(*rows[1:3]).curves).values()
    assert "<" not in made
    assert charted(made).layout.xaxis.title.text == "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;"


def test_json_ends_no_script() -> None:
    """The signs that an HTML parser looks for are escaped as JSON escapes them."""
    made = embedded(figure([{"type": "scatter", "name": "a</script>&\u2028"}], 100))
    assert not re.search("[<>&\u2028]", made)
    assert json.loads(made)["data"][0]["name"] == "a</script>&\u2028"


def test_failures_of_no_part_of_a_data_set_are_listed(tmp_path: Path) -> None:
    """A failed metric has no split, and may be all that there is of its model and data set."""
    failed = {"split": "", "value": None, "headline": False, "status": "failed:no", "model": "m3"}
    page = write_report(table({}, failed, {**failed, "method": "rise", "dataset": "e"}), tmp_path).read_text()
    assert "m3 on d: gradcam x pointing_game: failed:no" in page
    assert "m3 on e: rise x pointing_game: failed:no" in page
    assert "Failed" not in write_report(table({}), tmp_path).read_text()


def test_a_page_of_undefined_rows(tmp_path: Path) -> None:
    """Nothing to show: a heading, no table of numbers, no chart."""
    undefined = {"value": None, "ci_low": None, "ci_high": None, "status": "undefined:no pair"}
    made = read(write_report(table(undefined), tmp_path))
    assert made.rows == [] and "figure" not in made.elements


OWN: dict[str, Any] = {"metric": "my_metric", "variant": "mine", "stat": "loudness", "value": 42.5}


def test_a_users_own_metric_is_shown(tmp_path: Path) -> None:
    """A stat that the harness has never heard of, without an interval or a direction: in the terminal, on the page."""
    row = ResultRow(**{name: OWN[name] for name in ("variant", "stat", "value")}, n=4)
    frame = table({}, {**asdict(row), "metric": "my_metric"})
    text, page = terminal_table(frame), write_report(frame, tmp_path)
    assert "my_metric mine" in text and "loudness" in text and "42.500" in text and "42.500 [" not in text
    heads, line = read(page).rows[:2]
    assert heads == ["method", "pointing_game tol=2px", "my_metric mine loudness"]
    assert line == ["gradcam", "0.500 [0.400, 0.600]", "42.500 "]
    assert "42.500" in terminal_table(table({**OWN, "ci_low": None, "ci_high": None}))


def test_floors_are_marked(tmp_path: Path) -> None:
    """By name, in a row of their own look, grey in charts."""
    up: dict[str, Any] = {"higher_is_better": True}
    rows = [up, up | {"method": "center", "value": 0.1}]
    page = write_report(table(*rows), tmp_path, ["center"])
    assert '<tr class="floor"><th scope="row">center (floor)</th>' in page.read_text()
    (made,) = charts.standings(place(*rows, floors=("center",)).shown, {}).values()
    assert charted(made).data[0].marker.color == ("#0072B2", "#888888")


# Ranks


def shown(values: Mapping[str, Mapping[str, float | None]], up: Mapping[str, bool | None]) -> pd.DataFrame:
    """Headlines of methods by quantity."""
    rows = [
        {"method": method, "metric": name, "variant": "", "value": value, "higher_is_better": up[name]}
        for method, each in values.items()
        for name, value in each.items()
    ]
    return headlines(table(*rows))


def test_ranks_by_hand() -> None:
    """The largest first, or the smallest; equal values share the better rank; no direction, no rank."""
    values: dict[str, dict[str, float | None]] = {
        "a": {"hit": 0.9, "drop": 0.1, "size": 1.0},
        "b": {"hit": 0.9, "drop": 0.3, "size": 2.0},
        "c": {"hit": 0.2, "drop": 0.2, "size": 3.0},
        "d": {"hit": 0.1, "drop": None, "size": 4.0},
    }
    made = ranks(shown(values, {"hit": True, "drop": False, "size": None}))
    assert made["hit"].to_dict() == {"a": 1, "b": 1, "c": 3, "d": 4}
    assert made["drop"].dropna().to_dict() == {"a": 1, "c": 2, "b": 3}
    assert list(made) == ["hit", "drop"]
    assert ordered(shown(values, {"hit": None, "drop": False, "size": None})) == ["a", "c", "b", "d"]


def test_rounding_has_no_rank() -> None:
    """What float32 sums leave behind the sixth digit is equal; a difference in it is not, however small the values."""
    values = {"a": {"drop": 0.2512345603}, "b": {"drop": 0.25123456}, "c": {"drop": 0.251236}}
    made = ranks(shown(values, {"drop": False}))
    assert made.iloc[:, 0].to_dict() == {"a": 1, "b": 1, "c": 3}
    small = ranks(shown({"a": {"drop": 2e-9}, "b": {"drop": 1e-9}}, {"drop": False}))
    assert small.iloc[:, 0].to_dict() == {"a": 2, "b": 1}


def test_agreement_by_hand() -> None:
    """Three methods: the same order 1, the opposite one -1, one of three pairs swapped 1/3; two methods: none."""
    values = {name: {"p": p, "q": q, "r": r} for name, p, q, r in (("a", 3, 1, 3), ("b", 2, 2, 1), ("c", 1, 3, 2))}
    tau = agreement(ranks(shown(values, {"p": True, "q": True, "r": True})))
    assert tau.loc["p", "p"] == 1 and tau.loc["p", "q"] == -1
    assert tau.loc["p", "r"] == pytest.approx(1 / 3)
    down = agreement(ranks(shown(values, {"p": True, "q": False, "r": True})))
    assert down.loc["p", "q"] == 1  # both say that a is the best
    del values["c"]
    assert agreement(ranks(shown(values, {"p": True, "q": True, "r": True}))).isna().all(axis=None)


def test_ties_are_counted_as_kendall_does() -> None:
    """Against SciPy's tau-b on values with ties."""
    from scipy.stats import kendalltau

    rng = np.random.default_rng(0)
    values = {f"m{n}": {"p": float(rng.integers(4)), "q": float(rng.integers(4))} for n in range(12)}
    tau = agreement(ranks(shown(values, {"p": True, "q": True}))).loc["p", "q"]
    columns = zip(*((each["p"], each["q"]) for each in values.values()), strict=True)
    assert tau == pytest.approx(kendalltau(*columns).statistic, abs=1e-12)


# Charts


def test_curves_show_the_numbers() -> None:
    """Two quantities; each line in order of x however the rows are sorted; the band is the interval."""
    rows = [
        *curve("rap", [0.2, 0.4, 0.9]),
        *curve("gradcam", [0.1, 0.3, 0.5]),
        *curve("rap", [1.0], subset="predicted"),
    ]
    made = charts.curves(place(*reversed(rows)).curves)
    name = "insertion morf,mean,accuracy,2x1% {}accuracy"
    assert list(made) == [name.format(""), name.format("predicted ")]
    band, line, _, other = charted(made[name.format("")]).data
    assert (line.name, other.name) == ("gradcam", "rap")
    assert list(line.x) == [0, 1, 2] and list(line.y) == [0.1, 0.3, 0.5] and list(other.y) == [0.2, 0.4, 0.9]
    ends = sorted(round(float(y), 9) for x, y in zip(band.x, band.y, strict=True) if x == 2)
    assert ends == [0.4, 0.6] and len(band.x) == 6
    assert charted(made[name.format("")]).layout.xaxis.title.text == "pixels changed, %"
    assert list(charted(made[name.format("predicted ")]).data[1].y) == [1.0]


def test_curves_of_two_settings_are_two_lines() -> None:
    """Not one that runs to and fro; a floor is marked and grey; two ways of one metric are two charts."""
    eight, sixteen = (f'{{"method": {{"steps": {steps}}}}}' for steps in (8, 16))
    rows = [*curve("ig", [0.1, 0.2], settings=eight), *curve("ig", [0.5, 0.7], settings=sixteen)]
    rows += [*curve("center", [0.3, 0.3], settings=eight)]
    (made,) = charts.curves(place(*rows, floors=("center",)).curves).values()
    lines = {each.name: each for each in charted(made).data if each.showlegend is None}
    assert {name: list(each.y) for name, each in lines.items()} == {
        **{"center (floor)": [0.3, 0.3], "ig (steps=16)": [0.5, 0.7], "ig (steps=8)": [0.1, 0.2]},
    }
    assert lines["center (floor)"].line.color == "#888888"
    ways = [curve("ig", [0.1 * n, 0.2], settings=f'{{"metric": {{"sigma": {n}}}}}') for n in (1, 2)]
    titles = list(charts.curves(place(*ways[0], *ways[1]).curves))
    assert [title.split(" (")[-1] for title in titles] == ["metric.sigma=1)", "metric.sigma=2)"]


def test_standings_show_the_numbers() -> None:
    """A chart a quantity, the best method on top; the bars of its point are its interval."""
    up = {"higher_is_better": True}
    worse = {"method": "rap", "value": 0.25, "ci_low": 0.2, "ci_high": 0.5}
    made = charts.standings(place(up | worse, up).shown, {})
    assert list(made) == ["pointing_game tol=2px ↑"]
    (points,) = charted(made["pointing_game tol=2px ↑"]).data
    assert list(points.y) == ["gradcam", "rap"] and list(points.x) == [0.5, 0.25]
    assert np.allclose(points.error_x.array, [0.1, 0.25]) and np.allclose(points.error_x.arrayminus, [0.1, 0.05])
    axis = charted(made["pointing_game tol=2px ↑"]).layout.yaxis
    assert list(axis.categoryarray) == ["rap", "gradcam"]  # from the bottom


def test_the_maps_show_ranks_and_agreement() -> None:
    """Rows in the order of the first quantity, from below, as Plotly takes them."""
    values = {"b": {"p": 1.0, "q": 3.0}, "a": {"p": 2.0, "q": 2.0}, "c": {"p": 0.0, "q": 4.0}}
    rows = shown(values, {"p": True, "q": True}).assign(floor=False)
    made = charts.rank_map(rows)
    assert made is not None
    cells, texts = charted(made).data
    tall = charts.rank_map(rows.assign(column="a quantity of a long name, " + rows["column"]))
    assert tall is not None and charted(tall).layout.height - charted(made).layout.height == int(4.5 * 28) - 4
    assert [*zip(texts.x, texts.y, texts.text, strict=True)][:2] == [("p", "c", "3"), ("q", "c", "1")]
    assert list(cells.y) == ["c", "b", "a"] and np.array_equal(cells.z, [[3, 1], [2, 2], [1, 3]])
    taus = charts.agreement_map(rows)
    assert taus is not None
    assert list(charted(taus).data[0].y) == [*reversed(charted(taus).data[0].x)]
    assert np.array_equal(charted(taus).data[0].z, [[-1, 1], [1, -1]])
    assert charts.rank_map(shown({"a": {"p": 1.0}}, {"p": None})) is None


def test_costs_are_those_of_the_run() -> None:
    """Seconds an image of (run, method); a method that took nothing in any run has no point."""
    rows: list[dict[str, Any]] = [{"higher_is_better": True}, {"higher_is_better": True, "method": "rap"}]
    (made,) = charts.costs(place(*rows).shown, {("r", "gradcam"): 0.02, ("other", "rap"): 5.0}).values()
    front, points = charted(made).data
    assert points.name == "gradcam" and list(points.x) == list(front.x) == [0.02] and list(points.y) == [0.5]
    assert charts.costs(place(*rows).shown, {}) == {}


@pytest.mark.parametrize(("up", "front"), [(True, [0.2, 0.7, 0.9]), (False, [0.2, 0.1])])
def test_the_front_is_of_what_none_beats_in_less_time(up: bool, front: list[float]) -> None:
    """By hand: five methods of ascending cost, two at one cost; every one has a mark and a name of its own."""
    values = {"a": 0.2, "b": 0.7, "c": 0.6, "d": 0.1, "e": 0.9}
    seconds = {("r", "a"): 1.0, ("r", "b"): 2.0, ("r", "c"): 2.0, ("r", "d"): 3.0, ("r", "e"): 4.0}
    rows = [{"method": name, "value": value, "higher_is_better": up} for name, value in values.items()]
    (made,) = charts.costs(place(*rows).shown, seconds).values()
    line, *points = charted(made).data
    assert list(line.y) == front
    assert len({(each.marker.color, each.marker.symbol, each.name) for each in points}) == 5


@pytest.mark.parametrize(("scale", "steps"), [("RdBu", 101), ("Viridis", 101)])
def test_figures_stand_out_on_every_colour_of_a_map(scale: str, steps: int) -> None:
    """At least 4.5:1 (WCAG 2.2, AA); by hand: white on black is 21:1, #777777 on white 4.48."""
    assert round(contrast((255, 255, 255), (0, 0, 0)), 6) == 21
    assert round(contrast((255, 255, 255), (0x77, 0x77, 0x77)), 2) == 4.48
    shares = np.linspace(0, 1, steps)
    colours = map(unlabel_rgb, sample_colorscale(scale, shares.tolist()))
    chosen = [(0, 0, 0) if each == "#000000" else (255, 255, 255) for each in inks(scale, shares)]
    assert min(contrast(*pair) for pair in zip(colours, chosen, strict=True)) >= 4.5


def test_plain_text_is_no_markup() -> None:
    """Plotly reads tags in labels."""
    assert plain("<b>x</b> & y") == "&lt;b&gt;x&lt;/b&gt; &amp; y"


# The terminal


def test_detectors_in_the_terminal() -> None:
    """As the papers print them, in percent; whatever true positive rate the metric was set to."""
    ood = {"metric": "ood", "reference": "cifar10", "dataset": "svhn", "variant": "", "method": "energy"}
    rate = {**ood, "stat": "fpr95_id_pos", "value": 0.4967}
    frame = table(rate, {**ood, "stat": "auroc", "value": 0.9025})
    text = terminal_table(frame)
    assert "cifar10 against ...: fpr95_id_pos / auroc, percent" in text
    assert "49.67 / 90.25" in text
    assert "90.25" in terminal_table(table({**ood, "stat": "auroc", "value": 0.9025}))


def test_a_table_without_values_says_where_to_look() -> None:
    """Nothing to show is said, not drawn."""
    assert "the status column of results.csv" in terminal_table(table({"value": None, "status": "undefined:no pair"}))
    assert headlines(table({"headline": False})).empty


def test_a_headline_at_an_x_says_where() -> None:
    """Two points that a metric calls headlines are two columns, not one that hides the other."""
    frame = table({**OWN, "x": 0.5}, {**OWN, "x": 1.0, "value": 43.5})
    assert list(headlines(frame)["column"]) == ["my_metric mine loudness at 0.5", "my_metric mine loudness at 1"]
    assert "42.500" in terminal_table(frame) and "43.500" in terminal_table(frame)
