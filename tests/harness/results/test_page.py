"""The report: what a page and its pictures show is what the table says."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from assay.harness.results.curve_pictures import draw_curves
from assay.harness.results.page import write_report
from assay.harness.results.text import headlines, terminal_table
from assay.harness.types import ResultRow
from matplotlib.figure import Figure
from PIL import Image

COLUMNS: dict[str, Any] = {
    **{"model": "m", "dataset": "d", "reference": "", "split": "test", "subset": "all", "method": "gradcam"},
    **{"metric": "pointing_game", "variant": "tol=2px", "stat": "mean", "x": None, "value": 0.5, "n": 4},
    **{"ci_low": 0.4, "ci_high": 0.6, "status": "ok", "x_label": "", "headline": True},
    "higher_is_better": None,
}


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    """Tidy rows that differ from a common one."""
    return pd.DataFrame([COLUMNS | row for row in rows])


def curve(method: str, values: list[float], **others: Any) -> list[dict[str, Any]]:
    """Rows of a curve over 0, 1, 2, ..."""
    about = {
        "method": method,
        "metric": "insertion",
        "variant": "morf,mean,accuracy,2x1%",
        "stat": "accuracy",
        "x_label": "pixels changed, %",
        "headline": False,
        **others,
    }
    return [
        {**about, "x": float(x), "value": value, "ci_low": value - 0.1, "ci_high": value + 0.1}
        for x, value in enumerate(values)
    ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that were saved, in order, so that a test can read what is drawn."""
    figures: list[Figure] = []
    save = Figure.savefig

    def kept(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", kept)
    return figures


def test_curves_show_the_numbers(drawn: list[Figure], tmp_path: Path) -> None:
    """Two panels (two subsets); each line in order of x however the rows are sorted; the band is the interval."""
    rows = [
        *curve("rap", [0.2, 0.4, 0.9]),
        *curve("gradcam", [0.1, 0.3, 0.5]),
        *curve("rap", [1.0], subset="predicted"),
    ]
    assert draw_curves(table(*reversed(rows)), tmp_path / "new/curves.png")
    first, second = [axis for axis in drawn[-1].axes if axis.axison]
    assert len(first.lines) == 2
    assert np.array_equal(first.lines[0].get_xydata(), [[0, 0.1], [1, 0.3], [2, 0.5]])  # in alphabetical order
    assert np.array_equal(first.lines[1].get_ydata(), [0.2, 0.4, 0.9])
    band = np.asarray(first.collections[0].get_paths()[0].vertices)
    assert {round(float(y), 9) for x, y in band if x == 2} == {0.4, 0.6}
    assert np.array_equal(second.lines[0].get_ydata(), [1.0])
    assert first.get_xlabel() == "pixels changed, %"
    assert first.get_title() == "insertion \nmorf,mean,accuracy,2x1%"
    assert second.get_title() == "insertion predicted\nmorf,mean,accuracy,2x1%"
    assert [text.get_text() for text in drawn[-1].legends[0].get_texts()] == ["gradcam", "rap"]
    with Image.open(tmp_path / "new/curves.png") as picture:
        picture.load()


def test_no_curve_no_picture(tmp_path: Path) -> None:
    """Rows without an x, or without a value, leave no file."""
    assert not draw_curves(table({}, {"x": 1.0, "value": None}), tmp_path / "curves.png")
    assert not list(tmp_path.iterdir())


def test_the_page_shows_every_section_and_its_pictures(tmp_path: Path) -> None:
    """Two models on one data set, one with a curve, a failed row: values with intervals, files that exist."""
    failed = {"method": "rise", "value": None, "ci_low": None, "ci_high": None, "status": "failed:ArithmeticError: no"}
    frame = table(
        {}, {"model": "group/m2", "value": 0.75, "ci_low": 0.7, "ci_high": 0.8}, failed, *curve("rap", [0, 1])
    )
    page = write_report(frame, tmp_path / "report").read_text()
    assert "m on d test" in page and "group/m2 on d test" in page
    assert "0.500\n <small>[0.400, 0.600]" in page and "0.750\n <small>[0.700, 0.800]" in page
    assert "rise x pointing_game: failed:ArithmeticError: no" in page
    pictures = {path.name for path in (tmp_path / "report").glob("*.png")}
    assert pictures == {"d_test.png", "curves_m_d_test.png"}
    assert all(f'src="{name}"' in page for name in pictures)


def test_failures_of_no_part_of_a_data_set_are_listed(tmp_path: Path) -> None:
    """A failed metric has no split, and may be all that there is of its model and data set."""
    failed = {"split": "", "value": None, "headline": False, "status": "failed:no", "model": "m3"}
    page = write_report(table({}, failed, {**failed, "method": "rise", "dataset": "e"}), tmp_path).read_text()
    assert "m3 on d: gradcam x pointing_game: failed:no" in page
    assert "m3 on e: rise x pointing_game: failed:no" in page
    assert "Failed" not in write_report(table({}), tmp_path).read_text()


def test_curves_of_two_settings_are_two_lines(drawn: list[Figure], tmp_path: Path) -> None:
    """Not one that runs to and fro; a floor is marked; two ways of one metric are two panels."""
    eight, sixteen = (f'{{"method": {{"steps": {steps}}}}}' for steps in (8, 16))
    rows = [*curve("ig", [0.1, 0.2], settings=eight), *curve("ig", [0.5, 0.7], settings=sixteen)]
    rows += [*curve("center", [0.3, 0.3], settings=eight)]
    assert draw_curves(table(*rows), tmp_path / "a.png", floors=["center"])
    (axis,) = [axis for axis in drawn[-1].axes if axis.axison]
    names = [text.get_text() for text in drawn[-1].legends[0].get_texts()]
    assert dict(zip(names, (np.asarray(line.get_ydata()).tolist() for line in axis.lines), strict=True)) == {
        **{"center (floor)": [0.3, 0.3], "ig (steps=16)": [0.5, 0.7], "ig (steps=8)": [0.1, 0.2]},
    }
    ways = [curve("ig", [0.1 * n, 0.2], settings=f'{{"metric": {{"sigma": {n}}}}}') for n in (1, 2)]
    assert draw_curves(table(*ways[0], *ways[1]), tmp_path / "b.png")
    titles = [axis.get_title().split("accuracy ")[-1] for axis in drawn[-1].axes if axis.axison]
    assert [title.split(" (")[-1] for title in titles] == ["metric.sigma=1)", "metric.sigma=2)"]


def test_points_show_the_numbers(drawn: list[Figure], tmp_path: Path) -> None:
    """A panel a quantity; methods from the top in alphabetical order; a small quantity has an axis of its own."""
    small = {"metric": "average_drop", "stat": "average_drop", "value": 0.02, "ci_low": 0.01, "ci_high": 0.03}
    write_report(table({}, {"method": "rap", "value": 0.25, "ci_low": 0.2, "ci_high": 0.5}, small), tmp_path)
    first, second = drawn[-1].axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["rap", "gradcam"]  # from the bottom
    points, _, (bars,) = first.containers[0]
    assert list(points.get_xdata()) == [0.5, 0.25] and list(points.get_ydata()) == [1, 0]
    assert [[round(float(x), 9) for x, _ in bar] for bar in bars.get_segments()] == [[0.4, 0.6], [0.2, 0.5]]
    assert first.get_xlim()[1] > 1 and second.get_xlim()[1] < 0.25


def test_a_page_of_undefined_rows(tmp_path: Path) -> None:
    """Nothing to draw: a page without pictures."""
    undefined = {"value": None, "ci_low": None, "ci_high": None, "status": "undefined:no pair"}
    assert "<img" not in write_report(table(undefined), tmp_path).read_text()
    assert not list(tmp_path.glob("*.png"))


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


OWN: dict[str, Any] = {"metric": "my_metric", "variant": "mine", "stat": "loudness", "value": 42.5}


def test_a_users_own_metric_is_shown(drawn: list[Figure], tmp_path: Path) -> None:
    """A stat that the harness has never heard of, without an interval: in the terminal, on the page, in its picture."""
    row = ResultRow(**{name: OWN[name] for name in ("variant", "stat", "value")}, n=4)
    frame = table({}, {**asdict(row), "metric": "my_metric"})
    text, page = terminal_table(frame), write_report(frame, tmp_path).read_text()
    assert "my_metric mine" in text and "loudness" in text and "42.500" in text and "42.500 [" not in text
    assert "<th>my_metric mine loudness</th>" in page and "42.500" in page
    low, high = drawn[-1].axes[1].get_xlim()
    assert low < 42.5 < high
    assert "42.500" in terminal_table(table({**OWN, "ci_low": None, "ci_high": None}))


def test_a_headline_at_an_x_says_where() -> None:
    """Two points that a metric calls headlines are two columns, not one that hides the other."""
    frame = table({**OWN, "x": 0.5}, {**OWN, "x": 1.0, "value": 43.5})
    assert list(headlines(frame)["column"]) == ["my_metric mine loudness at 0.5", "my_metric mine loudness at 1"]
    assert "42.500" in terminal_table(frame) and "43.500" in terminal_table(frame)
