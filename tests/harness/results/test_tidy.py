"""From the store's markers to tidy tables."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from assay.harness.results import tidy
from assay.harness.results.tables import read_tidy
from assay.harness.results.tidy import COLUMNS, ORDER, collect, put_record, results_table, runs_table, update
from assay.harness.store.files import Lock
from assay.harness.store.garbage import Garbage
from assay.harness.store.identity import SCHEMA
from assay.harness.store.outcomes import Failure, Finished
from assay.harness.store.sealed import write_json
from assay.harness.store.store import CellStore
from assay.harness.types import ResultRow

LABELS: dict[str, Any] = {
    "model": "net",
    "weights": "file@12345678",
    "dataset": "data",
    "protocol": "standard",
    "method": "gradcam",
    "kind": "attribution",
    "seed": 0,
    "precision": "float32",
}
IDENTITY = {"schema": SCHEMA, "method": {"_target_": "x", "layer": "layer4"}, "protocol": {"targets": "labels"}}


def cell(root: Path, key: str, metrics: dict[str, str], **labels: Any) -> CellStore:
    """A described cell; metrics: key -> name."""
    made = CellStore(root, key)
    groups = {name: {"name": value, "paired": []} for name, value in metrics.items()}
    made.describe({"identity": IDENTITY, "labels": LABELS | labels}, {"samples": {"version": 1}} | groups)
    return made


def finish(made: CellStore, metric: str, rows: list[ResultRow], stop: int = 4, split: str = "val") -> None:
    """Put result rows."""
    made.group(metric).finish(stop, Finished(f"run{stop}", split, [asdict(row) for row in rows]))


def row(stat: str = "mean", value: float | None = 0.5, **more: Any) -> ResultRow:
    """A result row."""
    return ResultRow(variant="tol=2px", stat=stat, value=value, n=4, **more)


def test_rows_of_other_subsets_stay_beside_a_later_summarys(tmp_path: Path) -> None:
    """What a summary has takes the place of all that was known of its subset and convention; the rest keeps its run."""
    made = cell(tmp_path, "c", {"k": "m"})

    def after(run: str, *rows: ResultRow) -> set[str]:
        group, plain = made.group("k"), [asdict(each) for each in rows]
        before = group.finished(4)
        group.finish(4, Finished(run, "val", plain, before.left_by(plain) if before else ()))
        table = results_table([made])
        return {f"{each.run_id} {each.subset} {each.variant} {each.stat}" for each in table.itertuples()}

    hard, strict = row(subset="difficult"), ResultRow("tol=0px", "mean", 0.1, 4)
    first = {"a difficult tol=2px mean", "a all tol=2px mean"}
    assert after("a", row(), row("median"), hard) == first | {"a all tol=2px median"}
    assert after("b", row(value=0.6)) == {"b all tol=2px mean", "a difficult tol=2px mean"}
    assert after("c", strict) == {"c all tol=0px mean", "b all tol=2px mean", "a difficult tol=2px mean"}
    assert [each["run_id"] for each in tidy.cell_rows(made, earlier=False)] == ["c"]
    assert after("d", row(), hard) == {"d all tol=2px mean", "d difficult tol=2px mean", "c all tol=0px mean"}


def test_settings_say_what_a_reading_was_prepared_on(tmp_path: Path) -> None:
    """As they say what a method was fitted on: mutants chosen on other images, or on more of them, are told apart."""
    said = set()
    for images, data in ((8, "a"), (9, "a"), (8, "b"), (0, "")):
        seen = {"prepared": {"images": images, "data": {"dataset": {"fingerprint": data}}}} if images else {}
        identity = IDENTITY | {"readings": [{"reading": {"_target_": "Mutants", "count": 5}} | seen]}
        made = CellStore(tmp_path, f"{images}{data}")
        made.describe({"identity": identity, "labels": LABELS}, {"m1": {"name": "metric", "paired": []}})
        finish(made, "m1", [row()])
        read = json.loads(next(tidy.cell_rows(made))["settings"])["readings"]["0"]
        assert read == {"_target_": "Mutants", "count": 5} | (
            {"prepared": {"images": images, "data": data}} if images else {}
        )
        said.add(str(read))
    assert len(said) == 4


def test_columns_are_the_documented_ones() -> None:
    """DESIGN section 4, in order; every field of a ResultRow has its column; sorting uses columns that exist."""
    documented = (
        "schema run_id cell_key metric_key model weights dataset reference split subset protocol method kind metric "
        "variant stat x value unit higher_is_better n stderr ci_low ci_high ci_method seed precision status "
        "x_label headline settings"
    )
    assert documented.split() == COLUMNS
    assert {field.name for field in fields(ResultRow)} <= set(COLUMNS)
    assert set(ORDER) <= set(COLUMNS)


def test_finished_metrics_become_rows(tmp_path: Path) -> None:
    """Values, intervals, labels and keys stand where they belong; what is no column (settings) is left out."""
    made = cell(tmp_path, "cell1", {"key1": "pointing_game"})
    finish(made, "key1", [row(ci_low=0.25, ci_high=0.75, ci_method="wilson", higher_is_better=True)])
    table = results_table([made])
    assert list(table.columns) == COLUMNS
    assert len(table) == 1
    expected = {
        **{name: value for name, value in LABELS.items() if name != "settings"},
        **{"schema": SCHEMA, "run_id": "run4", "cell_key": "cell1", "metric_key": "key1", "reference": ""},
        **{"split": "val", "subset": "all", "metric": "pointing_game", "variant": "tol=2px", "stat": "mean"},
        **{"value": 0.5, "unit": "fraction", "n": 4, "ci_low": 0.25, "ci_high": 0.75, "ci_method": "wilson"},
        **{"higher_is_better": True, "status": "ok", "x_label": "", "headline": True},
    }
    assert {name: table[name][0] for name in expected} == expected
    assert table[["x", "stderr"]].isna().all(axis=None)


def test_failures_and_undefined_values_are_rows_without_a_value(tmp_path: Path) -> None:
    """`failed:<first line of why>`, beside what finished earlier; `undefined:<why>` as the metric said."""
    made = cell(tmp_path, "cell1", {"key1": "pointing_game", "key2": "positive_ratio"})
    finish(made, "key1", [row().undefined("no difficult pair")])
    finish(made, "key2", [row()])
    made.group("key2").fail(Failure("ValueError: not finite\nmore", "..."))
    table = results_table([made])
    assert list(table.columns) == COLUMNS
    assert table["status"].tolist() == ["failed:ValueError: not finite", "undefined:no difficult pair", "ok"]
    assert table["value"].isna().tolist() == [True, True, False]
    assert table["metric"].tolist() == ["positive_ratio", "pointing_game", "positive_ratio"]
    assert table["n"].tolist() == [0, 4, 4]
    assert table["headline"].tolist() == [False, True, True]


def test_unfinished_metrics_are_absent(tmp_path: Path) -> None:
    """No marker, no row; a table of nothing has its columns."""
    table = results_table([cell(tmp_path, "cell1", {"key1": "pointing_game"})])
    assert list(table.columns) == COLUMNS
    assert len(table) == 0
    assert list(results_table([]).columns) == COLUMNS


def test_order_does_not_depend_on_when_or_how_things_were_written(tmp_path: Path) -> None:
    """Rows are sorted by what they are: two stores filled in opposite order give equal tables."""

    def fill(root: Path, reverse: bool) -> pd.DataFrame:
        plan = [("c1", "zebra", 0), ("c2", "gradcam", 1), ("c3", "gradcam", 0)]
        for key, method, seed in reversed(plan) if reverse else plan:
            made = cell(root, key, {"k1": "b_metric", "k2": "a_metric"}, method=method, seed=seed)
            for stop in (8, 4) if reverse else (4, 8):
                finish(made, "k1", [row("b", x=2.0), row("b", x=1.0), row("a")], stop, split=f"val[:{stop}]")
                finish(made, "k2", [row()], stop, split=f"val[:{stop}]")
        return collect(root.parent)

    tables = [fill(tmp_path / name / "store", name == "two") for name in ("one", "two")]
    pd.testing.assert_frame_equal(*tables)
    assert len(tables[0]) == 3 * 2 * 4
    assert tables[0]["split"].is_monotonic_increasing
    gradcam = tables[0].query("method == 'gradcam' and metric == 'b_metric' and split == 'val[:4]'")
    assert list(zip(gradcam["stat"], gradcam["x"].fillna(0), gradcam["seed"], strict=True)) == [
        *(("a", 0, 0), ("a", 0, 1), ("b", 1, 0), ("b", 1, 1), ("b", 2, 0), ("b", 2, 1))
    ]


def test_collect_writes_both_tables(tmp_path: Path) -> None:
    """results.csv reads back as returned; runs.csv has a row a method of each invocation; no lock or leftover stays."""
    made = cell(tmp_path / "store", "cell1", {"key1": "pointing_game"})
    finish(made, "key1", [row(value=1 / 3), row("n", None)])
    shared = {"run_id": "run4", "host": "h", "wall_s": 1.5}
    methods = {"gradcam": {"method_wall_s": 0.1, "status": "ok"}, "center": {"method_wall_s": 0.2, "status": "ok"}}
    write_json(tmp_path / "runs" / "run4" / "t1.json", shared | {"methods": methods})
    write_json(tmp_path / "runs" / "run4" / "t2.json", shared | {"methods": {}})
    frame = collect(tmp_path)
    tidy = tmp_path / "tidy"
    assert sorted(path.name for path in tidy.iterdir()) == [
        ".checksums.json",
        "results.csv",
        "results.parquet",
        "runs.csv",
    ]
    again = pd.read_csv(tidy / "results.csv", keep_default_na=False, na_values={"value": [""]})
    assert list(again.columns) == COLUMNS
    assert again["value"].tolist()[0] == 1 / 3  # 17 digits: exact
    assert len(again) == len(frame) == 2
    runs = pd.read_csv(tidy / "runs.csv")
    assert sorted(runs[["run_id", "host", "method", "method_wall_s"]].to_numpy().tolist()) == [
        ["run4", "h", "center", 0.2],
        ["run4", "h", "gradcam", 0.1],
    ]


def test_the_parquet_has_the_rows_of_the_csv_with_types(tmp_path: Path) -> None:
    """Any reader, untold: `NA` and a formula are texts, numbers exact, what is missing is null, truths are bools."""
    values = [1 / 3, None, -1e-300, float("inf")]
    for number, name in enumerate(["NA", "=1+1", "-0.5", "nan"]):
        made = cell(tmp_path / "store", f"cell{number}", {"key1": "m"}, method=name, seed=2**62 + number)
        finish(made, "key1", [row(name, values[number], x=number or None, higher_is_better=bool(number) or None)])
    frame = collect(tmp_path)
    again = pd.read_parquet(tmp_path / "tidy" / "results.parquet")
    assert list(again) == COLUMNS
    for name in ("method", "stat", "value", "x", "ci_low", "seed", "n", "headline", "settings", "reference"):
        assert [*again[name].astype(object).where(again[name].notna(), None)] == [
            *frame[name].astype(object).where(frame[name].notna(), None)
        ], name
    kinds = {name: str(again[name].dtype) for name in ("seed", "n", "value", "headline")}
    assert kinds == {"seed": "int64", "n": "int64", "value": "float64", "headline": "bool"}
    better = dict(zip(again["method"], again["higher_is_better"], strict=True))
    assert better == {"NA": None, "=1+1": True, "-0.5": True, "nan": True}
    assert read_tidy(tmp_path / "tidy" / "results.csv")["method"].tolist() == again["method"].tolist()
    assert "'=1+1" in (tmp_path / "tidy" / "results.csv").read_text()


def test_headlines_read_back_as_bools(tmp_path: Path) -> None:
    """Neither the text "False" nor a float: what a metric hides stays hidden in a table read from the file."""
    made = cell(tmp_path / "store", "cell1", {"key1": "pointing_game"})
    finish(made, "key1", [row("a"), row("b", headline=False, x=1.0, x_label="steps")])
    collect(tmp_path)
    again = read_tidy(tmp_path / "tidy" / "results.csv")
    assert again["headline"].dtype == bool and again["headline"].tolist() == [True, False]
    assert again["x_label"].tolist() == ["", "steps"]


def test_cells_of_another_version_give_no_rows(tmp_path: Path) -> None:
    """Their fields may mean something else."""
    finish(cell(tmp_path / "store", "ours", {"k": "m"}), "k", [row()])
    theirs = CellStore(tmp_path / "store", "theirs")
    theirs.describe({"identity": IDENTITY | {"schema": SCHEMA - 1}, "labels": LABELS}, {"k": {"name": "m"}})
    finish(theirs, "k", [row()])
    assert collect(tmp_path)["cell_key"].tolist() == ["ours"]


def test_an_update_leaves_the_bytes_of_a_rebuild_and_reads_what_changed_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells added, changed, failed and removed one by one, with whole and broken numbers, x and none, seeds of any
    length: after each step results.csv and .parquet are, byte for byte, what a rebuild gives; and one cell is read."""
    read: list[str] = []
    rows_of = tidy.cell_rows

    def watched(each: CellStore, earlier: bool) -> Iterator[dict[str, Any]]:
        read.append(each.key)
        return rows_of(each, earlier)

    monkeypatch.setattr(tidy, "cell_rows", watched)
    store = tmp_path / "store"
    steps: list[Callable[[], None]] = []
    for number, (seed, value, x) in enumerate([(10, 1.0, None), (9, 1 / 3, 2.0), (0, None, 10.0), (2, 1e-7, 9.5)]):
        made = cell(store, f"cell{number}", {"k": "m"}, seed=seed)
        steps.append(partial(finish, made, "k", [row("a", value, x=x), row("b", 2.0, higher_is_better=True)]))
    first = CellStore(store, "cell0")
    steps += [partial(finish, first, "k", [row("a", 0.25)]), lambda: first.group("k").fail(Failure("no"))]
    steps += [first.group("k").forgive, Garbage(first.path, "m").remove]
    written, tables = b"", [tmp_path / "tidy" / name for name in ("results.csv", "results.parquet")]
    for number, step in enumerate(steps):
        step()
        read.clear()
        update(tmp_path)
        assert len(read) <= 1 or not number
        written, typed = (path.read_bytes() for path in tables)
        collect(tmp_path)
        assert [path.read_bytes() for path in tables] == [written, typed]
    assert b"cell0" not in written and b"cell3" in written


def test_records_are_taken_into_runs_once(tmp_path: Path) -> None:
    """One by one, also after a rebuild and after one that computed nothing: the same rows as a rebuild gives."""
    for number in range(4):
        methods = {} if number == 1 else {"gradcam": {"method_wall_s": 0.1 * number, "status": "ok"}}
        put_record(tmp_path, f"run{number % 2}", f"t{number}", {"host": "h", "methods": methods})
        update(tmp_path)
    written = (tmp_path / "tidy" / "runs.csv").read_bytes()
    collect(tmp_path)
    assert (tmp_path / "tidy" / "runs.csv").read_bytes() == written
    assert len(pd.read_csv(tmp_path / "tidy" / "runs.csv")) == 3


def test_collect_of_nothing(tmp_path: Path) -> None:
    """A fresh checkout: empty tables, with columns where they are known."""
    assert list(collect(tmp_path).columns) == COLUMNS
    assert runs_table(tmp_path / "runs").empty
    assert (tmp_path / "tidy" / "results.csv").read_text().strip() == ",".join(COLUMNS)


def test_a_table_that_is_not_as_it_was_written_is_made_anew(tmp_path: Path) -> None:
    """A flipped bit that makes another number, one that makes no text, half a file, no checksums: an update mends."""
    made = cell(tmp_path / "store", "cell1", {"key1": "pointing_game"})
    finish(made, "key1", [row(value=0.75)])
    collect(tmp_path)
    path = tmp_path / "tidy" / "results.csv"
    whole = path.read_bytes()
    for broken in (whole.replace(b"0.75", b"0.74"), whole.replace(b"0.75", b"0.\xf75"), whole[:-9], b""):
        path.write_bytes(broken)
        update(tmp_path)
        assert path.read_bytes() == whole
    (tmp_path / "tidy" / "results.parquet").unlink()
    update(tmp_path)
    assert len(pd.read_parquet(tmp_path / "tidy" / "results.parquet")) == 1
    (tmp_path / "tidy" / ".checksums.json").write_text("{}")
    update(tmp_path)
    assert path.read_bytes() == whole


def test_collect_lets_go_of_its_lock_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is an error, not a lock that nobody can take."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tidy, "write_csv", full)
    with pytest.raises(OSError, match="No space"):
        collect(tmp_path)
    assert Lock(tmp_path / "tidy" / ".collect.lock").acquire()
