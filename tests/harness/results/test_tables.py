"""Papers' tables: published figures as printed, cells filled from tidy rows, what is missing named."""

import importlib
import json
import math
import re
import shlex
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from assay.harness import config as configs
from assay.harness.build import build
from assay.harness.commands.program import call
from assay.harness.config import ConfigError, groups
from assay.harness.overrides import compose_config, sweep
from assay.harness.results import tables
from assay.harness.results.tables import filling, measured, missing, plotting, versions
from assay.harness.results.tables.entries import NAMES, PATTERNS, Column, Entry, Found, Result, Table, in_override
from assay.harness.results.tables.filling import PUBLISHED, fill_table
from assay.harness.results.tables.missing import by_runs, fill_command, missing_lines, note_lines, obstacle
from assay.harness.results.tables.rendering import entry_text
from assay.harness.results.tables.spec import names, read_spec, rows_of
from assay.harness.results.tidy import COLUMNS
from assay.harness.store.identity import named, nested_versions

CELL = {"protocol": "pointing_game", "method": "gradcam", "model": "vgg16_voc07", "dataset": "voc07", "split": "test"}
CELL |= {"reference": ""}
OOD = {"method": "line", "model": "cifar_densenet_bc100", "dataset": "svhn", "reference": "cifar10", "metric": "ood"}
OOD |= {"variant": "index,strict", "stat": "fpr95_id_pos", "subset": "all", "protocol": "standard", "split": "test"}
EMPTY = pd.DataFrame(columns=[*NAMES, *PATTERNS, "status", "x"])
PRINTED = sorted(path.stem for path in PUBLISHED.glob("*.csv"))
PG = {"metric": "pointing_game", "variant": "tol=15px,box", "subset": "all", "stat": "class_mean"}
NUMBERS = {"value": 0.85, "ci_low": 0.83, "ci_high": 0.87, "n": 4952}


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the project's own rows would lie: none are kept."""
    monkeypatch.setattr(measured, "KEPT", tmp_path / "kept")
    return tmp_path / "kept"


def tidy_row(**changes: Any) -> dict[str, Any]:
    """The row that the first cell of Hedging Table 1 asks for, with changes."""
    texts = {"cell_key": "a", "metric_key": "b", "run_id": "r1", "status": "ok", "x": "", "seed": "0", "settings": ""}
    return {**texts, "stderr": 0.01, "ci_method": "clt", **CELL, **PG, **NUMBERS, **changes}


def results_with(folder: Path, *rows: dict[str, Any], runs: dict[str, str] | None = None) -> Path:
    """A results folder with a tidy table; runs: run_id -> when it started."""
    (folder / "tidy").mkdir(parents=True)
    pd.DataFrame(rows).to_csv(folder / "tidy/results.csv", index=False)
    if runs:
        pd.DataFrame(runs.items(), columns=["run_id", "started"]).to_csv(folder / "tidy/runs.csv", index=False)
    return folder


def first_entry(folder: Path) -> Entry:
    """Grad-CAM (L), VGG-16 on VOC07, PG ALL."""
    return tables.regenerate(["hedging_table1"], folder)[0].entries[0]


# Published figures


@pytest.mark.parametrize(
    "paper, cell, value",
    [
        ("hedging", "gradcam vgg16 voc07 pointing_game all tol=15px,box", 0.866),
        ("hedging", "gradient_hedge resnet50 coco14 positive_ratio predicted_difficult map>0", 0.192),
        ("hedging", "contrastive_lrp resnet50 voc07 positive_ratio difficult map>0", 0.333),
        ("hedging", "agf vgg16 coco14 pointing_game predicted tol=15px,mask", 0.703),
        ("rap", "rap vgg16 imagenet outside_inside predicted all,box", 0.252),
        ("rap", "guided_backprop resnet50 imagenet outside_inside predicted positive,box", 0.296),
        ("rap", "integrated_gradients vgg16 imagenet_seg pixel_accuracy all signed_or_mean,mask", 0.6652),
        ("rap", "gradient vgg16 voc12 pixel_accuracy all signed_or_mean,mask", 0.6814),
    ],
)
def test_published_figures_are_the_printed_ones(paper: str, cell: str, value: float) -> None:
    """Cells read off the papers by eye, in every block of both tables; exact."""
    frame = pd.read_csv(PUBLISHED / f"{paper}_table1.csv")
    asked = dict(zip(["row", "model", "dataset", "metric", "subset", "variant"], cell.split(), strict=True))
    found = frame[(frame[list(asked)] == pd.Series(asked)).all(axis=1)]
    assert found["value"].tolist() == [value]


def test_published_tables_are_complete_and_their_oddities_noted() -> None:
    """18 x 16 cells of Hedging with 32 dashes; 8 x 7 of RAP: merged cells twice, the comma read, dashes empty."""
    hedging, rap = (pd.read_csv(PUBLISHED / f"{name}.csv") for name in ("hedging_table1", "rap_table1"))
    assert (len(hedging), int(hedging["value"].isna().sum())) == (288, 32)
    assert hedging.loc[hedging["value"].isna(), "note"].str.contains("every pixel").all()
    ratios = hedging[(hedging["metric"] == "positive_ratio") & hedging["value"].notna()]
    assert ratios["note"].str.contains("mIOU").all()
    assert (len(rap), int(rap["value"].isna().sum())) == (56, 5)
    merged = rap[rap["note"].str.contains("one printed cell", na=False)]
    assert sorted(merged["value"]) == [0.415, 0.415, 0.429, 0.429, 0.474, 0.474]
    assert rap.loc[rap["note"] == "printed 66,52", "value"].tolist() == [0.6652]
    for frame in (hedging, rap):
        assert frame["value"].dropna().between(0, 1.3).all()  # fractions and ratios, never percent


@pytest.mark.parametrize(
    "name, cell, value",
    [
        ("line_s1", "msp svhn fpr95_id_pos", 0.4724),
        ("line_s1", "line lsun_c auroc", 0.9983),
        ("line_s1", "dice_react places365 fpr95_id_pos", 0.5094),
        ("line_s1", "react average auroc", 0.9467),
        ("line_s2", "mahalanobis lsun_c fpr95_id_pos", 0.6890),
        ("line_s2", "line average fpr95_id_pos", 0.3567),
        ("line_s2", "odin isun auroc", 0.8384),
        ("line_s3", "mahalanobis textures auroc", 0.3306),
        ("line_s3", "energy inaturalist fpr95_id_pos", 0.5950),
        ("line_s3", "line average auroc", 0.9362),
    ],
)
def test_published_ood_figures_are_the_printed_ones(name: str, cell: str, value: float) -> None:
    """Cells of LINe's supplement read by eye, as fractions; exact."""
    frame = pd.read_csv(PUBLISHED / f"{name}.csv")
    asked = dict(zip(["row", "dataset", "stat"], cell.split(), strict=True))
    assert frame.loc[(frame[list(asked)] == pd.Series(asked)).all(axis=1), "value"].tolist() == [value]


@pytest.mark.parametrize(
    "table, row, values",
    [
        (4, "lcr", [0.887, 0.815, 0.802, 0.841, 0.806]),
        (4, "unified_nn", [0.933, 0.856, 0.856, 0.870, 0.861]),
        (5, "conductance_mlp", [0.944, 0.873, 0.872, 0.820, 0.886]),
        (5, "unified_nn", [0.957, 0.891, 0.894, 0.842, 0.960]),
        (6, "unified_qda", [0.942, 0.874, 0.873, 0.852, 0.890]),
    ],
)
def test_published_error_figures_are_the_printed_ones(table: int, row: str, values: list[float]) -> None:
    """A row: validation AUROC, recalls of right and wrong predictions on validation and test; exact."""
    frame = pd.read_csv(PUBLISHED / f"conductance_table{table}.csv")
    assert frame.loc[frame["row"] == row, "value"].tolist() == values


def test_published_text_of_the_error_paper_is_the_printed_one() -> None:
    """Sections 4, 4.3 and 5: what becomes of 5,000 images, exactly; counts add up, what does not follow is noted."""
    figure = pd.read_csv(PUBLISHED / "conductance_figure6.csv").fillna({"note": ""})
    closest = figure[figure["variant"] == "close_recall"].set_index("stat")["value"]
    assert closest[["wrong_flagged", "wrong_passed", "right_flagged", "right_passed"]].tolist() == [495, 61, 630, 3814]
    assert closest.loc["wrong_flagged":"right_passed"].sum() == 5000
    assert (
        round(495 / 556, 3) == closest["recall_error"] and round((5000 - 61) / 5000, 3) != closest["accuracy_if_fixed"]
    )
    assert figure.set_index("stat")["note"].loc["accuracy_if_fixed"] == "sect. 5; 4,444 and 495 of 5,000 are 98.8 %"
    networks = pd.read_csv(PUBLISHED / "conductance_networks.csv")
    accuracy = networks[networks["stat"] == "accuracy"].pivot(index="dataset", columns="subset", values="value")
    assert accuracy.loc["cifar10_test5k", ["train", "validation", "all"]].tolist() == [0.862, 0.829, 0.819]
    assert accuracy.loc["imagenet50", ["train", "validation", "all"]].tolist() == [0.978, 0.981, 0.930]
    assert round(1 - 556 / 5000, 3) == accuracy.loc["imagenet100", "all"]


def test_published_differences_follow_from_their_row() -> None:
    """Table 3: (mean - std) of the wrong less (mean + std) of the right to the last printed digit, but for one with a
    note; Tables 1 and 2 are of the same maps, of which 11 of 12 contribute more to right predictions."""
    frame = pd.read_csv(PUBLISHED / "conductance_table3.csv").fillna({"note": ""})
    for row, each in frame.groupby("row"):
        value = each.set_index(["variant", "stat"])["value"]
        right, wrong = value["right", "mean"] + value["right", "std"], value["wrong", "mean"] - value["wrong", "std"]
        follows = abs(wrong - right - value["difference", "lcr_difference"]) < 1e-4
        assert follows != (row == "lcr_nai_0.0015") == bool(each["note"].str.contains("-.0347").any()), row
    first, second = (pd.read_csv(PUBLISHED / f"conductance_table{number}.csv") for number in (1, 2))
    assert first["row"].tolist() == second["row"].tolist() and len(first) == 12
    assert (first["value"] > second["value"]).sum() == 11 and first["value"].max() == 1.89


def test_misprinted_averages_are_noted() -> None:
    """An average is the mean of its row to the last digit (.01 more, as the paper rounds), or a note gives the mean."""
    noted = []
    for number in (1, 2, 3):
        frame = pd.read_csv(PUBLISHED / f"line_s{number}.csv")
        for (row, stat), part in frame.groupby(["row", "stat"]):
            last = part[part["dataset"] == "average"].iloc[0]
            mean = 100 * part.loc[part["dataset"] != "average", "value"].mean()
            if abs(mean - 100 * last["value"]) > 0.011:
                assert f"which is {mean:.2f}" in last["note"]
                noted.append((number, row, stat))
    assert len(noted) == 5


@pytest.mark.parametrize("name", PRINTED)
def test_every_published_figure_has_a_cell(name: str) -> None:
    """No figure is lost between the file and the table: as many reported cells as printed values; rows that the paper
    lacks are the only others, but for panels that are not the paper's."""
    frame = pd.read_csv(PUBLISHED / f"{name}.csv")
    entries = [entry for entry in fill_table(name, EMPTY).entries if not entry.near]
    assert sorted(c.reported for c in entries if not math.isnan(c.reported)) == sorted(frame["value"].dropna())
    spec = read_spec(name)
    rows = [row for panel in spec["panels"] for row in rows_of(spec, panel)]
    printed = {row["label"] for row in rows if row.get("row", row.get("method")) in set(frame["row"])}
    assert len([entry for entry in entries if entry.label in printed]) == len(frame)


# Filling


def test_a_cell_compares_ours_with_the_printed_figure(tmp_path: Path) -> None:
    """.85 with the interval [.83, .87] against the printed .866: half-width .02, difference -.016, n 4952."""
    entry = first_entry(results_with(tmp_path, tidy_row()))
    assert entry_text(entry, compared=True) == "0.850 ± 0.020 · 0.866 · -0.016 · 4952"
    frame = pd.read_csv(tmp_path / "tables/hedging_table1.csv")
    first = frame.iloc[0]
    assert first[["value", "half_width", "reported", "n"]].tolist() == [0.85, 0.02, 0.866, 4952]
    assert first["difference"] == pytest.approx(-0.016, abs=1e-9)
    assert first["split"] == "test"


def ood_entry(folder: Path, table: str = "line_s1", stat: str = "fpr95_id_pos", dataset: str = "svhn") -> Entry:
    """LINe's row of a table."""
    entries = tables.regenerate([table], folder)[0].entries
    asked = {"method": "line", "stat": stat, "dataset": dataset}
    return next(entry for entry in entries if asked.items() <= entry.asked.items())


def test_a_column_has_a_data_set_of_its_own(tmp_path: Path) -> None:
    """An OOD row has the OOD set in `dataset` and the panel's set in `reference`: 12.5 % against the printed 11.38."""
    rows = [
        tidy_row(**OOD, value=0.125, ci_low=0.12, ci_high=0.13, n=10000),
        tidy_row(**OOD | {"dataset": "average", "stat": "auroc", "variant": "ties=half"}, value=0.97, n=53925),
    ]
    folder = results_with(tmp_path, *rows)
    assert entry_text(ood_entry(folder), compared=True) == "12.50 ± 0.50 · 11.38 · +1.12 · 10000"
    average = ood_entry(folder, stat="auroc", dataset="average")
    assert (average.ours is not None, average.reported) == (True, 0.9699)
    assert ood_entry(folder, dataset="isun").ours is None
    frame = pd.read_csv(tmp_path / "tables/line_s1.csv")
    assert set(frame.loc[frame["near"].isna(), "reference"]) == {"cifar10"}


@pytest.mark.parametrize("change", [{"reference": "cifar100"}, {"reference": ""}, {"dataset": "cifar10"}])
def test_another_in_distribution_set_fills_nothing(change: dict[str, str], tmp_path: Path) -> None:
    """The same OOD set and network against other images: the entry stays empty, and CIFAR-100's table takes its own."""
    folder = results_with(tmp_path, tidy_row(**OOD | change))
    assert ood_entry(folder).ours is None
    assert (ood_entry(folder, "line_s2").ours is not None) == (change.get("reference") == "cifar100")


@pytest.mark.parametrize(
    "change",
    [
        {"subset": "difficult"},
        {"stat": "mean"},
        {"variant": "tol=15px,mask"},
        {"protocol": "standard"},
        {"model": "vgg16"},
        {"status": "failed:no"},
    ],
)
def test_a_row_of_another_convention_fills_nothing(change: dict[str, str], tmp_path: Path) -> None:
    """One convention off, and the entry stays empty."""
    assert first_entry(results_with(tmp_path, tidy_row(**change))).ours is None


def test_of_results_of_one_setting_the_largest_is_shown_and_said(tmp_path: Path) -> None:
    """A smoke run of 16 does not displace the full run; the command's line counts the cell."""
    rows = [tidy_row(value=0.7), tidy_row(value=0.5, n=16, split="test[:16]")]
    table = tables.regenerate(["hedging_table1"], results_with(tmp_path, *rows))[0]
    assert table.entries[0].ours is not None
    assert (table.entries[0].ours.value, table.entries[0].ours.others) == (0.7, 1)
    assert "1 have results on fewer images or of an older version, too" in tables.summary(table, tmp_path)


def settings(version: int = 1, tolerance: int = 15, **method: Any) -> str:
    """The `settings` column of a tidy row."""
    made = {"method": method | {"version": version}, "metric": {"tolerance_px": tolerance, "version": 1}}
    return json.dumps(made | {"protocol": {"smooth": 0.0}, "data": "f"})


@pytest.mark.parametrize(
    "change, said",
    [
        ({"settings": settings(steps=16)}, "steps=8 | steps=16"),
        ({"settings": settings(steps=8, tolerance=7)}, "metric.tolerance_px=7 | metric.tolerance_px=15"),
        ({"weights": "net@b"}, "weights=net@a | weights=net@b"),
        ({"seed": "1"}, "seed=0 | seed=1"),
        ({"split": "test@seed0"}, "split=test | split=test@seed0"),
        ({"cell_key": "z"}, "cell_key=a | cell_key=z"),
        ({"settings": settings(steps=16), "n": 16}, "steps=8 | steps=16"),
    ],
    ids=str,
)
def test_of_results_of_several_settings_none_is_taken(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Whatever they differ in: no number, and the settings by name; the cell is not called missing."""
    usual = {"settings": settings(steps=8), "weights": "net@a"}
    folder = results_with(tmp_path, tidy_row(**usual), tidy_row(**usual | {"value": 0.7} | change))
    table = tables.regenerate(["hedging_table1"], folder)[0]
    first = table.entries[0]
    assert first.ours is None and entry_text(first, compared=True) == "2 results · 0.866"
    assert f"none is taken: {said}. Name one in" in " ".join(note_lines(table))
    assert first not in table.missing() and "1 fit several results" in tables.summary(table, folder)
    frame = pd.read_csv(folder / "tables/hedging_table1.csv")
    assert frame.loc[0, "status"] == "2 results" and math.isnan(frame.loc[0, "value"])


def test_several_results_that_agree_are_one(tmp_path: Path) -> None:
    """Two seeds of a method that draws nothing: any is right."""
    folder = results_with(tmp_path, tidy_row(), tidy_row(seed="1", cell_key="z"))
    assert entry_text(first_entry(folder), compared=True).startswith("0.850 ± 0.020")


def test_an_older_version_of_a_reading_is_no_result(tmp_path: Path) -> None:
    """Where all else is equal; readings go by their place, so that others of another version are another result."""

    def read(version: int, layer: str) -> str:
        return json.dumps(json.loads(settings()) | {"readings": {"0": {"layer": layer, "version": version}}})

    rows = [tidy_row(value=k / 4, settings=read(k, "a"), cell_key=f"k{k}") for k in (1, 2)]
    entry = first_entry(results_with(tmp_path / "one", *rows))
    assert entry.ours is not None and entry.ours.value == 0.5
    other = tidy_row(value=0.75, settings=read(1, "b"), cell_key="k3")
    assert len(first_entry(results_with(tmp_path / "two", *rows, other)).found.several) == 2


PARTS: dict[str, Any] = {"mutants": {"_target_": "MutantPredictions"}}


def mutants(version: int, reading: dict[str, Any] | None = None, **method: Any) -> str:
    """The `settings` column of a row of mutants: VERSION 1 is not among its method's `versions`."""
    versions: dict[str, Any] = {} if version == 1 else {"versions": {"mutants": version}}
    read = {"tries": 9, "version": version} | (reading or {})
    return json.dumps(json.loads(settings(**PARTS, **versions, **method)) | {"readings": {"0": read}})


def test_an_older_version_of_a_part_is_no_result(tmp_path: Path) -> None:
    """VERSION 3 of mutants is prepared, which VERSION 1 was not, and says its class; other settings are another
    result, and so are two rows of which each is newer in one part."""
    new = {"prepared": {"data": "d", "images": 5}, "_target_": "MutantPredictions"}
    old = tidy_row(value=0.25, n=9000, settings=mutants(1), cell_key="o")
    entry = first_entry(results_with(tmp_path / "one", old, tidy_row(value=0.5, settings=mutants(3, new))))
    assert entry.ours is not None and (entry.ours.value, entry.ours.others) == (0.5, 1)
    other = tidy_row(value=0.5, settings=mutants(3, new, steps=8))
    assert len(
        first_entry(results_with(tmp_path / "two", old | {"settings": mutants(1, steps=9)}, other)).found.several
    )
    crossed = [settings(**PARTS, versions={"a": a, "b": 3 - a}) for a in (1, 2)]
    rows = [tidy_row(value=k / 4, settings=each, cell_key=f"k{k}") for k, each in enumerate(crossed)]
    assert len(first_entry(results_with(tmp_path / "three", *rows)).found.several) == 2


def test_an_older_version_is_no_result(tmp_path: Path) -> None:
    """What VERSION 1 gave on more images does not stand in for what VERSION 2 gives."""
    old = tidy_row(value=0.5, n=9000, settings=settings(version=1), cell_key="o")
    ours = first_entry(results_with(tmp_path, old, tidy_row(settings=settings(version=2)))).ours
    assert ours is not None and (ours.value, ours.others) == (0.85, 1)


# Tables of this file's own: settings, runs and deviations

SPEC: dict[str, Any] = {
    "title": "toy",
    "source": "by hand",
    "rows": [{"label": "A", "method": "gradcam"}],
    "columns": [{"label": "PG", "metric": "pointing_game", "variant": "*", "stat": "class_mean"}],
    "panels": [{"label": "P", "model": "vgg16_voc07", "dataset": "voc07", "fill": "python run.py x=1"}],
}
OTHER = tidy_row(method="none", cell_key="none")  # that no table asks for
SEEDS = {"over": "seed", "count": 3}
SAMPLES = {"over": "subset_seed", "count": 3}


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Table]:
    """Fills a table that differs from SPEC from some rows; the methods of the project are known to it."""
    conf = tmp_path / "conf"
    (conf / "table").mkdir(parents=True)
    (conf / "method").symlink_to(configs.CONF / "method")
    (conf / "metric").symlink_to(configs.CONF / "metric")
    monkeypatch.setattr(configs, "CONF", conf)

    def made(*rows: dict[str, Any], **changes: Any) -> Table:
        (conf / "table/toy.yaml").write_text(json.dumps(SPEC | changes))  # JSON is YAML
        (tmp_path / "tidy").mkdir(exist_ok=True)
        pd.DataFrame(rows or [OTHER]).to_csv(tmp_path / "tidy/results.csv", index=False)
        (table,) = tables.regenerate(["toy"], tmp_path)
        return table

    return made


def texts(table: Table) -> list[str]:
    """Of every cell."""
    return [entry_text(entry, compared=False) for entry in table.entries]


def test_rows_of_one_method_take_their_settings(filled: Callable[..., Table]) -> None:
    """.25 with one sample a channel and .75 with ten; a column or a panel may name them, too, and a pattern."""
    rows = [
        tidy_row(method="limecam", value=value, settings=settings(samples_per_channel=number), cell_key=str(number))
        for value, number in ((0.25, 1), (0.75, 10))
    ]
    each = [{"label": f"{n}", "method": "limecam", "settings": {"samples_per_channel": n}} for n in (1, 10, 100)]
    assert texts(filled(*rows, rows=each)) == ["0.250 ± 0.020 · 4952", "0.750 ± 0.020 · 4952", "–"]
    every = texts(filled(*rows, rows="attribution", settings={"limecam": {"samples_per_channel": 10}}))
    assert [text for text in every if text != "–"] == ["0.750 ± 0.020 · 4952"]
    one = {"rows": [{"label": "A", "method": "limecam"}]}
    column = SPEC["columns"][0] | {"settings": {"samples_per_channel": 10}}
    panel = SPEC["panels"][0] | {"settings": {"samples_per_channel": "1*"}}
    assert texts(filled(*rows, **one, columns=[column])) == ["0.750 ± 0.020 · 4952"]
    assert texts(filled(*rows, **one, panels=[panel])) == ["2 results"]


def test_a_setting_that_is_a_list_is_meant_as_it_stands(filled: Callable[..., Table]) -> None:
    """[C] is not [C,Psi], nor the letter C of a pattern; the command has it as a list."""
    rows = [
        tidy_row(method="gradient_hedge", value=value, settings=settings(terms=terms), cell_key=str(value))
        for value, terms in ((0.25, ["C"]), (0.75, ["C", "Psi"]))
    ]
    kinds: list[list[str]] = [["C"], ["C", "Psi"], ["A", "U"]]
    each = [{"label": str(terms), "method": "gradient_hedge", "settings": {"terms": terms}} for terms in kinds]
    table = filled(*rows, rows=each)
    assert texts(table) == ["0.250 ± 0.020 · 4952", "0.750 ± 0.020 · 4952", "–"]
    assert "`python run.py x=1 'method.gradient_hedge.terms=[A,U]'`" in missing_lines(table)[0]


def test_a_setting_may_be_null_or_a_class(filled: Callable[..., Table]) -> None:
    """Null is what is null or not there, not what has parts, and says so on the command line; a class is known by its
    name, which no command line takes."""
    rows = [
        tidy_row(method="lrp_alpha1beta0", value=value, settings=settings(**made), cell_key=str(value))
        for value, made in (
            (0.25, {"first": {"_target_": "ZBox"}, "dense": None}),
            (0.5, {"first": None, "dense": "x"}),
        )
    ]
    each = [
        {"label": str(wanted), "method": "lrp_alpha1beta0", "settings": wanted}
        for wanted in (
            {"first._target_": "ZBox"},
            {"dense": None},
            {"first": None},
            {"first._target_": "Flat", "dense": None},
        )
    ]
    table = filled(*rows, rows=each)
    assert [text[:5] for text in texts(table)] == ["0.250", "0.250", "0.500", "–"]
    assert "`python run.py x=1 method.lrp_alpha1beta0.dense=null`" in missing_lines(table)[0]


@pytest.mark.parametrize(
    "runs, splits",
    [(SEEDS, ["test"] * 3), (SAMPLES, [f"test[:9]@seed{seed}" for seed in range(3)])],
    ids=["seed", "sample"],
)
def test_a_mean_of_runs(runs: dict[str, Any], splits: list[str], filled: Callable[..., Table]) -> None:
    """.25, .5 and 1: mean .58333, standard deviation by n - 1 the root of (.11111 + .00694 + .17361) / 2 = .38188;
    single runs have their own number and interval, counted from 1; a fourth run is none of the three."""
    values = [0.25, 0.5, 1.0]
    rows = [
        tidy_row(value=v, ci_low=v - 0.01, ci_high=v + 0.01, n=9 + k, split=split, cell_key=str(k), settings=settings())
        | ({"seed": str(k)} if runs is SEEDS else {})
        for k, (v, split) in enumerate(zip(values, splits, strict=True))
    ]
    fourth = (
        rows[0] | {"value": 0.9, "cell_key": "3"} | ({"seed": "3"} if runs is SEEDS else {"split": "test[:9]@seed3"})
    )
    columns = [
        SPEC["columns"][0] | {"label": name, "runs": runs | only} for name, only in (("m", {}), ("2", {"only": 2}))
    ]
    table = filled(*rows, fourth, columns=columns)
    assert texts(table) == ["0.583 (σ 0.382) · 3 x 9", "0.500 ± 0.010 · 10"]
    assert "older version" not in tables.summary(table, Path())  # other runs are none of the cell's
    frame = pd.read_csv(StringIO(tables.render(table, "csv")))
    assert frame["value"].tolist() == [0.583333, 0.5] and frame["n"].tolist() == [9, 10]
    assert frame["sigma"].tolist()[0] == 0.381881 and math.isnan(frame["sigma"].tolist()[1])
    assert frame["runs"].tolist() == [f"{runs['over']}=0..2", f"{runs['over']}=1"]
    assert "a mean of runs (σ, their standard deviation)" in tables.render(table, "md")


def test_a_mean_of_fewer_runs_is_none(filled: Callable[..., Table]) -> None:
    """Two of three seeds on the whole set, the third on 16 images: what is there is said, and what fills it."""
    rows = [tidy_row(seed=str(seed), cell_key=str(seed), settings=settings()) for seed in (0, 1)]
    rows.append(rows[0] | {"seed": "2", "n": 16, "split": "test[:16]", "cell_key": "2"})
    table = filled(*rows, rows=[SPEC["rows"][0] | {"runs": SEEDS}])
    assert texts(table) == ["2 of 3 runs"]
    assert table.missing() == table.entries and "seed=0,1,2" in missing_lines(table)[0]
    assert pd.read_csv(StringIO(tables.render(table, "csv")))["status"].tolist() == ["2 of 3 runs"]


def test_runs_of_several_settings_have_no_mean(filled: Callable[..., Table]) -> None:
    """Two seeds with 8 steps and one with 16; seeds of the metric's own draws are the run's and do not count."""
    rows = [
        tidy_row(seed=str(seed), cell_key=str(seed), settings=settings(steps=16 if seed == 2 else 8), value=seed / 4)
        for seed in range(3)
    ]
    runs = {"rows": [SPEC["rows"][0] | {"runs": SEEDS}]}
    table = filled(*rows, **runs)
    assert texts(table) == ["2 results"] and "steps=8 | steps=16" in " ".join(note_lines(table))
    for row in rows:
        row["settings"] = json.dumps({"method": {}, "metric": {"seed": int(row["seed"])}})
    assert texts(filled(*rows, **runs)) == ["0.250 (σ 0.250) · 3 x 4952"]


def test_an_undefined_run_leaves_the_mean_undefined(filled: Callable[..., Table]) -> None:
    """Not the mean of the others."""
    rows = [tidy_row(seed=str(k), cell_key=str(k), value=v) for k, v in enumerate([0.25, None, 0.75])]
    assert texts(filled(*rows, rows=[SPEC["rows"][0] | {"runs": SEEDS}])) == ["undefined · 3 x 4952"]


def test_a_standard_deviation_stands_beside_its_mean(filled: Callable[..., Table]) -> None:
    """Of the values .25, .75, 1: mean 2/3, deviations -5/12, 1/12, 1/3 with squares 25, 1 and 16 of 144: the root of
    42/288, which is .38188; the standard error in the row is that by the root of 3. Not of a bootstrap."""
    sigma = math.sqrt(42 / 288)
    about = {"stat": "mean", "value": 2 / 3, "n": 3, "stderr": sigma / math.sqrt(3)}
    columns = [SPEC["columns"][0] | {"label": stat, "stat": stat} for stat in ("mean", "std")]
    assert texts(filled(tidy_row(**about), columns=columns)) == ["0.667 ± 0.020 · 3", "0.382 · 3"]
    assert texts(filled(tidy_row(**about, ci_method="cluster_bootstrap"), columns=columns)) == [
        "0.667 ± 0.020 · 3",
        "–",
    ]


@pytest.mark.parametrize("runs, message", [
    ({"over": "sed", "count": 10}, "Did you mean seed"),
    ({"over": "seed"}, "a runs lacks count"),
    ({"over": "seed", "count": 1}, "count is a whole number above 1"),
    ({"over": "seed", "count": 3, "only": 4}, "only one of 1 to count"),
])  # fmt: skip
def test_wrong_runs_are_told(runs: dict[str, Any], message: str, filled: Callable[..., Table]) -> None:
    """With the file."""
    with pytest.raises(ConfigError, match=f"toy.yaml.*{message}"):
        filled(rows=[SPEC["rows"][0] | {"runs": runs}])


@pytest.mark.parametrize(
    "value, low, high, reported, text",
    [
        (0.5, 0.4, 0.7, 0.4, "50.0 ± 15.0 · 40.0 · +10.0 · 9"),
        (0.5, math.nan, math.nan, 0.4, "50.0 · 40.0 · +10.0 · 9"),
        (0.5, 0.4, 0.6, math.nan, "50.0 ± 10.0 · – · – · 9"),
        (math.nan, math.nan, math.nan, 0.4, "undefined · 40.0 · – · 9"),
    ],
)
def test_what_is_not_there_is_a_dash(value: float, low: float, high: float, reported: float, text: str) -> None:
    """Percent with one digit; half of an asymmetric interval's width."""
    column = Column("PG", "pointing_game", "*", "mean", scale=100, digits=1)
    entry = Entry("panel", "row", column, {}, Found(Result(value, low, high, 9, {})), reported, "")
    assert entry_text(entry, compared=True) == text


# Points of curves, pictures


CURVE = {"label": "top-1", "metric": "perturbation", "variant": "*", "stat": "curve", "x": [0, 0.5, 1]}


def point_row(x: float, **changes: Any) -> dict[str, Any]:
    """A point of Grad-CAM's curve on the toy table's panel."""
    return tidy_row(metric="perturbation", stat="curve", x=x, **changes)


def test_points_of_a_curve_are_columns(filled: Callable[..., Table], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three points of one label; the one at 1.0 is not there, and the end of the curve (no x) is none of them. The
    published file has points, too, written in its own way."""
    monkeypatch.setattr(filling, "PUBLISHED", Path(configs.CONF))
    keys = "row,model,dataset,metric,subset,variant,stat,x,value,note"
    printed = [
        f"gradcam,vgg16_voc07,voc07,perturbation,all,*,curve,{x},{value}," for x, value in (("0", 0.9), ("0.50", 0.6))
    ]
    (configs.CONF / "toy.csv").write_text("\n".join([keys, *printed]))
    rows = [point_row(0.0, value=0.8), point_row(0.5), point_row(math.nan, value=0.1)]
    table = filled(*rows, columns=[CURVE], published="toy.csv")
    said = ["0.800 ± 0.020 · 0.900 · -0.100 · 4952", "0.850 ± 0.020 · 0.600 · +0.250 · 4952", "–"]
    assert [entry_text(entry, compared=True) for entry in table.entries] == said
    assert "| method | top-1 0 | top-1 0.5 | top-1 1 |" in tables.render(table, "md")
    frame = pd.read_csv(StringIO(tables.render(table, "csv")))
    assert (frame["x"].tolist(), set(frame["column"])) == ([0, 0.5, 1], {"top-1"})
    assert texts(filled(*rows, columns=[CURVE | {"x": 0.5}])) == ["0.850 ± 0.020 · 4952"]


def test_a_column_without_a_point_takes_none(filled: Callable[..., Table]) -> None:
    """Or a number of a curve would stand for the whole."""
    assert texts(filled(tidy_row(x=0.5))) == ["–"]


def test_a_plot_of_points(filled: Callable[..., Table]) -> None:
    """By hand: in percent, x rising whatever the order of the columns, a line a row; what is missing is no mark."""
    column = CURVE | {"x": [0.5, 0, 1], "scale": 100}
    rows = [point_row(0.0, value=0.8), point_row(0.5), point_row(0.5, method="rap", value=0.25)]
    methods = [{"label": "A", "method": "gradcam"}, {"label": "B", "method": "rap"}, {"label": "C", "method": "rsp"}]
    table = filled(*rows, rows=methods, columns=[column], plot={"kind": "lines"})
    assert table.plot is not None
    (field,) = plotting.fields_of(table, table.plot)
    assert (field.title, field.quantity, list(field.lines)) == ("P", "top-1", ["A", "B"])
    assert [mark[:2] for mark in field.lines["A"]] == [(0, 80), (0.5, 85)]
    assert field.lines["A"][1][2:4] == pytest.approx((83, 87)) and math.isnan(field.lines["A"][1].reported)
    assert [mark[:2] for mark in field.lines["B"]] == [(0.5, 25)]


def test_a_plot_over_a_setting_and_bars(filled: Callable[..., Table]) -> None:
    """Rows of one method with 1 and 10 samples are one line over the setting, or two bars; a field a label."""
    each = [{"label": f"{n}", "method": "limecam", "settings": {"samples_per_channel": n}} for n in (10, 1)]
    made = [tidy_row(method="limecam", settings=settings(samples_per_channel=n), cell_key=str(n)) for n in (1, 10)]
    columns = [SPEC["columns"][0], SPEC["columns"][0] | {"label": "DIF", "subset": "difficult"}]
    shape = {"rows": each, "columns": columns}
    bars = filled(*made, **shape, plot={"kind": "bars", "y_label": "hits"})
    line = filled(
        *made,
        *(row | {"subset": "difficult"} for row in made),
        **shape,
        plot={"kind": "lines", "x": "samples_per_channel"},
    )
    assert line.plot is not None and bars.plot is not None
    fields = list(plotting.fields_of(line, line.plot))
    assert [field.title for field in fields] == ["P\nPG", "P\nDIF"]
    assert [mark.x for mark in fields[0].lines["limecam"]] == [1, 10]
    (field,) = plotting.fields_of(bars, bars.plot)
    assert {name: marks[0].x for name, marks in field.lines.items()} == {"10": 0, "1": 1}


def test_a_picture_is_written_twice_alike_and_goes_with_its_numbers(
    filled: Callable[..., Table], tmp_path: Path
) -> None:
    """Equal bytes; the page shows it; without a number there is neither picture nor line."""
    picture, page = tmp_path / "tables/toy.png", tmp_path / "tables/toy.md"
    shape = {"columns": [CURVE], "plot": {"kind": "lines", "x_label": "share"}}
    filled(point_row(0.0), point_row(0.5), **shape)
    first = picture.read_bytes()
    assert first.startswith(b"\x89PNG") and "![toy](toy.png)" in page.read_text()
    filled(point_row(0.0), point_row(0.5), **shape)
    assert picture.read_bytes() == first
    filled(**shape, rows=[{"label": "A", "method": "rap"}])
    assert not picture.exists() and "toy.png" not in page.read_text()


# Panels of something else, rows of other papers


def test_a_panel_near_the_papers(filled: Callable[..., Table], monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's figure of its network, images and convention stands in brackets, with the words and no difference; a
    panel may have rows of its own, and a row of another paper's figure asks for nothing."""
    monkeypatch.setattr(filling, "PUBLISHED", Path(configs.CONF))
    line = "{},vgg16,imagenet,pointing_game,predicted,tol=15px,class_mean,0.9,"
    lines = ["row,model,dataset,metric,subset,variant,stat,value,note", line.format("gradcam"), line.format("theirs")]
    (configs.CONF / "toy.csv").write_text("\n".join(lines))
    near: dict[str, Any] = SPEC["panels"][0] | {
        "near": "another network on VOC",
        "network": "vgg16",
        "printed": {"dataset": "imagenet"},
    }
    near |= {"columns": [SPEC["columns"][0] | {"printed": {"subset": "predicted", "variant": "tol=15px"}}]}
    near |= {"rows": [*SPEC["rows"], {"label": "Theirs", "row": "theirs", "external": True}]}
    table = filled(tidy_row(), published="toy.csv", panels=[near])
    assert [entry_text(entry, compared=True) for entry in table.entries] == [
        "0.850 ± 0.020 · (0.900) · 4952",
        "published only · (0.900)",
    ]
    assert "Near, not the same: another network on VOC. In brackets" in tables.render(table, "md")
    frame = pd.read_csv(StringIO(tables.render(table, "csv")))
    assert frame["difference"].isna().all() and set(frame["near"]) == {"another network on VOC"}
    assert table.missing() == [] and "1 of 1 cells computed, 2 reported" in tables.summary(table, Path())
    del near["near"]
    table = filled(tidy_row(), published="toy.csv", panels=[near])
    assert [entry_text(entry, compared=True) for entry in table.entries] == [
        "0.850 ± 0.020 · 0.900 · -0.050 · 4952",
        "published only · 0.900",
    ]


@pytest.mark.parametrize("change, message", [
    ({"plot": {"kind": "pie"}}, "'pie' is not a kind of a plot"),
    ({"plot": {"kind": "lines", "log": True}}, "'log' is not a key of a plot"),
    ({"rows": [{"label": "A", "external": True}]}, "a row lacks row"),
    ({"rows": [{"label": "A"}]}, "a row lacks method"),
    ({"columns": [CURVE | {"printed": {"data": "voc"}}]}, "'data' is not a key of a printed"),
    ({"panels": [{"label": "P", "model": "vgg16", "dataset": "voc07"}]}, "a panel lacks fill"),
])  # fmt: skip
def test_wrong_parts_are_told(change: dict[str, Any], message: str, filled: Callable[..., Table]) -> None:
    """With the file; a panel of external rows alone needs no command."""
    with pytest.raises(ConfigError, match=f"toy.yaml.*{message}"):
        filled(**change)
    filled(rows=[{"label": "A", "row": "a", "external": True}], panels=[{"label": "P", "model": "m", "dataset": "d"}])


# Rows that are kept


def regenerated(folder: Path) -> dict[str, bytes]:
    """The files of the toy table, made from what a folder of results holds."""
    tables.regenerate(["toy"], folder)
    return {path.name: path.read_bytes() for path in sorted((folder / "tables").iterdir())}


def test_a_bare_clone_regenerates_the_same_table(filled: Callable[..., Table], tmp_path: Path) -> None:
    """From the rows that are kept, and these again: no byte changes, though a smoke run and an old version are not; of
    results of several settings all are, of a mean all runs, of a deviation its mean."""
    ours = {"settings": settings()}
    rows = [tidy_row(value=1 / 3, **ours), tidy_row(value=0.5, n=16, split="test[:16]", **ours), point_row(0.5)]
    rows += [tidy_row(value=0.1, settings=settings(version=0), cell_key="o")]
    rows += [tidy_row(method="rap", seed=str(k), cell_key=f"s{k}", value=k / 7) for k in range(3)]
    rows += [tidy_row(method="rsp", stat="mean", settings=settings(steps=k), cell_key=f"t{k}", value=k) for k in (1, 2)]
    rows += [tidy_row(method="agf", stat="mean", cell_key="d"), tidy_row(method="rise", cell_key="unasked")]
    each: list[dict[str, Any]] = [{"label": name, "method": name} for name in ("gradcam", "rsp", "agf")]
    each += [{"label": "rap", "method": "rap", "runs": SEEDS}]
    columns = [SPEC["columns"][0] | {"label": stat, "stat": stat} for stat in ("class_mean", "mean", "std")] + [CURVE]
    table = filled(*rows, rows=each, columns=columns, plot={"kind": "lines"})
    made = regenerated(tmp_path)
    held = pd.read_csv(tmp_path / "measured/toy.csv")
    assert list(held) == list(pd.DataFrame(rows)) and len(held) == 8
    assert sorted(held["cell_key"]) == ["a", "a", "d", "s0", "s1", "s2", "t1", "t2"]
    kept = (tmp_path / "measured/toy.csv").read_bytes()
    (tmp_path / "tidy/results.csv").unlink()
    assert regenerated(tmp_path) == made and len(table.missing()) == 17
    assert (tmp_path / "measured/toy.csv").read_bytes() == kept


def test_a_fresh_result_takes_the_kept_ones_place(filled: Callable[..., Table], tmp_path: Path) -> None:
    """Of the same cell, metric, convention and subset, all its rows; another cell of another setting stands beside it,
    a newer version over it; a table that asks for nothing of it any more keeps nothing."""
    assert texts(filled(tidy_row(value=0.25))) == ["0.250 ± 0.020 · 4952"]
    assert texts(filled(OTHER)) == ["0.250 ± 0.020 · 4952"]
    assert texts(filled(tidy_row(subset="difficult", value=0.125))) == ["0.250 ± 0.020 · 4952"]
    assert texts(filled(tidy_row(value=0.75, run_id="r2"))) == ["0.750 ± 0.020 · 4952"]
    assert texts(filled(tidy_row(cell_key="z", seed="1"))) == ["2 results"]
    failed = tidy_row(value="", split="", status="failed: boom", cell_key="z", seed="1")
    assert texts(filled(failed)) == ["0.750 ± 0.020 · 4952"]  # which has no split, and what was is shown no more
    newer = tidy_row(cell_key="z", settings=settings(version=2), value=0.5)
    assert texts(filled(newer)) == ["0.500 ± 0.020 · 4952"]
    filled(rows=[{"label": "A", "method": "rap"}])
    assert not (tmp_path / "measured/toy.csv").exists()


def test_rows_that_travel_with_the_code_are_read(filled: Callable[..., Table], kept: Path, tmp_path: Path) -> None:
    """As from a wheel, in a folder of one's own; one's own results come first. What is said of a table counts them."""
    own = tables.summary(filled(tidy_row(value=0.25)), tmp_path)
    assert "1 of 1 cells computed, 0 reported" in own
    kept.mkdir()
    (tmp_path / "measured/toy.csv").rename(kept / "toy.csv")
    table = filled(OTHER)
    assert texts(table) == ["0.250 ± 0.020 · 4952"]
    said = tables.summary(table, tmp_path)
    assert "1 of 1 cells computed, 1 of them as kept in results/measured, 0 reported" in said
    assert (tmp_path / "measured/toy.csv").read_bytes() == (kept / "toy.csv").read_bytes()
    assert texts(filled(tidy_row(value=0.75))) == ["0.750 ± 0.020 · 4952"]


@pytest.mark.parametrize("group", ["method", "metric"])
def test_versions_are_read_from_the_text(group: str) -> None:
    """As the classes have them, for every method and metric."""
    for name in groups()[group]:
        target = str(yaml.safe_load((configs.CONF / group / f"{name}.yaml").read_text())["_target_"])
        module, _, kind = target.rpartition(".")
        assert versions.version_of(group, name) == getattr(importlib.import_module(module), kind).VERSION, name


def test_numbers_of_an_older_version_are_said(filled: Callable[..., Table]) -> None:
    """The code has VERSION 1 of both: of 0 the page says so, of method and metric; not of a name that is none."""
    assert note_lines(filled(tidy_row(settings=settings(version=1)))) == []
    old = json.dumps(json.loads(settings(version=0)) | {"metric": {"version": 0}})
    said = [note.split(",")[0] for note in note_lines(filled(tidy_row(settings=old)))]
    assert said == [f"numbers of {name} are those of its VERSION 0" for name in ("gradcam", "pointing_game")]
    (note,) = note_lines(filled(tidy_row(method="none", settings=old), rows=[{"label": "A", "method": "none"}]))
    assert "pointing_game" in note


def test_numbers_that_rest_on_an_older_part_or_reading_are_said(filled: Callable[..., Table]) -> None:
    """Mutants of VERSION 1 under a method whose own is the code's; dropout's opinions, which are no part of it."""
    now = versions.version_of_class("MutantPredictions")
    line = f"numbers of gradcam rest on MutantPredictions of VERSION 1, the code has {now}: compute them anew"
    assert now and now > 1 and note_lines(filled(tidy_row(settings=mutants(1)))) == [line]
    assert note_lines(filled(tidy_row(settings=mutants(now)))) == []
    in_list = settings(scores=[{"_target_": "NoneOfOurs"}, PARTS["mutants"]], versions={"scores.1": 2})
    assert note_lines(filled(tidy_row(settings=in_list))) == [line.replace("VERSION 1", "VERSION 2")]
    read = json.dumps(json.loads(settings()) | {"readings": {"0": {"_target_": "Dropped", "version": 1}}})
    assert [note.split(",")[0] for note in note_lines(filled(tidy_row(settings=read)))] == [
        "numbers of gradcam rest on Dropped of VERSION 1"
    ]


@pytest.mark.parametrize(
    "words",
    [
        ["model=scenes_vgg", "dataset=scenes", "method=[lrpcam,contrastive_lrp,liftcam]", "metric=[shap_cosine]"],
        ["experiment=errors_embedded", "method=[lcr,unified_nn]", "metric=[label_change]"],
    ],
    ids=str,
)
def test_parts_are_called_as_they_are_in_keys(words: list[str]) -> None:
    """What the code gives today is not said to be old, whatever its parts."""
    config = compose_config(words)
    for group, chosen in (("method", config.method), ("metric", config.metric)):
        for name, choice in chosen.items():
            about = named(choice.settings) | nested_versions(build(choice))
            rows = pd.DataFrame([{"method": name, "metric": name, "settings": json.dumps({group: about})}])
            assert versions.older(rows) == []


def test_kept_rows_are_those_of_their_tables() -> None:
    """Each file of results/measured belongs to a table, and holds the columns of a tidy table."""
    files = sorted((configs.ROOT / "results/measured").glob("*.csv"))
    assert [path.stem for path in files if path.stem not in names()] == []
    assert [path.name for path in files if list(pd.read_csv(path, nrows=0)) != COLUMNS] == []


# Missing cells


def test_missing_cells_name_their_command_and_absent_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every empty cell is in exactly one line: a command for what conf/method has, a name for what it lacks.

    Whether each command composes (half a second each) is asked by the next tests.
    """
    monkeypatch.setattr(missing, "obstacle", lambda _: "")
    for name in names():
        table = fill_table(name, EMPTY)
        lines = missing_lines(table)
        counts = [int(match[1]) for line in lines if (match := re.search(r"(\d+) cells", line))]
        assert len(counts) == len(lines) and sum(counts) == len(table.missing())
        for method in {entry.asked["method"] for entry in table.missing()}:
            place = "method=[" if method in groups()["method"] else "conf/method lacks"
            assert any(re.search(rf"\b{method}\b", line) and place in line for line in lines), method


@pytest.mark.slow  # half a second a command
@pytest.mark.parametrize("name", names())
def test_commands_compose(name: str) -> None:
    """Every command of a table, of a sweep its first job, is a run's config, with values that a run takes."""
    table = fill_table(name, EMPTY)
    for panel in table.panels:
        entries = [entry for entry in table.missing() if entry.panel == panel["label"]]
        for alike in by_runs(entries):
            words = shlex.split(fill_command(panel, alike))[2:]
            compose_config(sweep(words)[0] if "-m" in words else words)


def test_commands_run_as_they_stand_but_for_one_folder() -> None:
    """Of every panel: no file to be named, and at most one folder; what else lies somewhere lies below ASSAY_DATA and
    ASSAY_WEIGHTS."""
    for name in names():
        table = fill_table(name, EMPTY)
        for panel in table.panels:
            entries = [entry for entry in table.missing() if entry.panel == panel["label"]]
            for alike in by_runs(entries):
                command = fill_command(panel, alike)
                assert (command.count("FOLDER") <= 1, "FILE" in command) == (True, False), command


def test_strict_names_empty_cells_and_what_they_refuse(
    filled: Callable[..., Table], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1; of rows that are there, what each has that is not asked for: protocol, tolerance, settings. A full
    table passes, and without --strict an empty one does."""
    command = ["table", "toy", "--results", str(tmp_path)]
    filled(tidy_row())
    assert call([*command, "--strict"]) == 0
    column = SPEC["columns"][0] | {"variant": "tol=15px,box", "settings": {"steps": 8}}
    panel = SPEC["panels"][0] | {"protocol": "pointing_game"}
    shape: dict[str, Any] = {"columns": [column], "panels": [panel]}
    filled(tidy_row(variant="tol=4px,box", protocol="standard", settings=settings(steps=8)), **shape)
    assert call(command) == 0
    capsys.readouterr()
    assert call([*command, "--strict"]) == 1
    said = capsys.readouterr().err
    assert said == "empty: toy: P: A: PG (there is one of variant=tol=4px,box, protocol=standard)\n"
    filled(tidy_row(settings=settings(steps=16)), **shape)
    assert call([*command, "--strict"]) == 1
    assert "PG (there is one of steps=16)" in capsys.readouterr().err
    filled(*(tidy_row(settings=settings(steps=k), cell_key=str(k), value=k / 9) for k in (1, 2)))
    assert call([*command, "--strict"]) == 1
    assert "A: PG (2 results)" in capsys.readouterr().err


def test_an_undefined_cell_is_empty(
    filled: Callable[..., Table], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its row's status, in a mean of runs by that of the run; no command fills it, and it is not computed."""
    none: dict[str, Any] = {"value": "", "ci_low": "", "ci_high": "", "n": 0, "status": "undefined:no pair"}
    table = filled(tidy_row(**none))
    assert call(["table", "toy", "--strict", "--results", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "empty: toy: P: A: PG (undefined: no pair)\n"
    assert texts(table) == ["undefined · 0"] and table.missing() == []
    assert "0 of 1 cells computed, 1 undefined, 0 reported" in tables.summary(table, tmp_path)
    assert list(pd.read_csv(StringIO(tables.render(table, "csv")))["status"]) == ["undefined: no pair"]
    rows = [tidy_row(seed=str(k), cell_key=str(k), **(none if k == 1 else {})) for k in range(3)]
    (line,) = tables.empty_lines(filled(*rows, rows=[SPEC["rows"][0] | {"runs": SEEDS}]))
    assert line.endswith("PG (undefined: no pair)")


def test_a_mean_over_seeds_holds_its_images_interval(filled: Callable[..., Table]) -> None:
    """Half-widths .02, .02 and .05: mean .03. Runs over images, and one run, have their own."""
    rows = [
        tidy_row(seed=str(k), cell_key=str(k), value=k / 4, ci_high=high) for k, high in enumerate([0.87, 0.87, 0.93])
    ]
    asked = [SPEC["rows"][0] | {"runs": SEEDS}]
    (entry,) = filled(*rows, rows=asked).entries
    assert entry.ours is not None and entry.ours.images == pytest.approx(0.03)
    (entry,) = filled(*rows, rows=[SPEC["rows"][0] | {"runs": SEEDS | {"only": 2}}]).entries
    assert entry.ours is not None and entry.ours.images == 0
    drawn = [each | {"split": f"test[:9]@seed{k}", "seed": "0"} for k, each in enumerate(rows)]
    (entry,) = filled(*drawn, rows=[SPEC["rows"][0] | {"runs": SEEDS | {"over": "subset_seed"}}]).entries
    assert entry.ours is not None and (entry.ours.runs, entry.ours.images) == (3, 0)


def test_the_command_of_the_embedded_table_composes() -> None:
    """What a bare clone can fill, it is told how to: no obstacle."""
    table = fill_table("embedded_localization", EMPTY)
    panel = table.panels[0]
    command = fill_command(panel, [entry for entry in table.entries if entry.panel == panel["label"]])
    assert command.startswith("python run.py model=scenes_vgg dataset=scenes")
    assert obstacle(command) == ""


@pytest.mark.parametrize("name", ["hedging_table2", "liftcam_embedded", *(f"liftcam_table{n}" for n in (1, 5, 6, 7))])
def test_commands_compute_what_cells_ask_for(name: str) -> None:
    """Each cell's settings, in each of its runs, are a job of its panel's commands, with its method and metric."""
    table = fill_table(name, EMPTY)
    _, entries = next(iter(table.by_panel()))
    commands = [fill_command(table.panels[0], alike) for alike in by_runs(entries)]
    swept = [sweep(shlex.split(command)[2:]) for command in commands]
    assert all(
        len(jobs) == 1 or command.startswith("python run.py -m ") for jobs, command in zip(swept, commands, strict=True)
    )
    jobs = [job for each in swept for job in each]
    chosen = [set(job) | {f"{word.split('=')[0]}={name}" for word in job for name in in_list(word)} for job in jobs]
    for entry in entries:
        wanted = {f"method.{entry.asked['method']}.{key}={in_override(value)}" for key, value in entry.settings.items()}
        wanted |= {
            f"{key}={entry.asked[key]}" for key in ("method", "metric") if f"{{{key}s}}" in table.panels[0]["fill"]
        }
        for seed in entry.runs.seeds if entry.runs else [None]:
            needed = wanted | ({f"{entry.runs.over}={seed}"} if entry.runs else set())
            assert any(needed <= job for job in chosen), (entry.label, needed)


def in_list(word: str) -> list[str]:
    """Names in `method=[a,b]`."""
    found = re.fullmatch(r"\w+=\[(.*)\]", word)
    return found[1].split(",") if found else []


def test_table_1s_two_runs_have_as_many_orders() -> None:
    """The metric's number of orders follows the method's, job by job; its name is the cells' variant."""
    table = fill_table("liftcam_table1", EMPTY)
    _, entries = next(iter(table.by_panel()))
    jobs = sweep(shlex.split(fill_command(table.panels[0], entries))[2:])
    for job, orders in zip(jobs[::4], (1, 10000), strict=True):
        config = compose_config(job)
        assert config.method["shapcam"].settings["permutations"] == orders
        assert config.metric["shap_cosine"].settings["name"] == f"shapcam,permutations={orders}"


@pytest.mark.parametrize("command, why", [
    ("python run.py dataset=nowhere", "'nowhere' is not a dataset"),
    ("python run.py -m model=scenes_vgg,scenes_vg", "'scenes_vg' is not a model"),
    ("python run.py dataset=voc07 dataset.rot=FOLDER", "'rot' is not a setting"),
])  # fmt: skip
def test_an_obstacle_is_named(command: str, why: str) -> None:
    """A choice that does not exist, one of those that a sweep has; a key."""
    assert why in obstacle(command)


def test_a_method_that_an_experiment_tunes_and_the_command_leaves_out_is_none() -> None:
    """Its settings lie idle (`is_chosen`)."""
    assert obstacle("python run.py experiment=embedded method=[gradcam]") == ""


# Files


def test_all_tables_are_written_twice_alike(tmp_path: Path) -> None:
    """Regenerating changes no byte: no date, no order of a set; Markdown grids are rectangular; commands compose."""
    results_with(tmp_path, tidy_row())
    tables.regenerate([], tmp_path)
    files = sorted((tmp_path / "tables").iterdir())
    texts = sorted(f"{n}.{kind}" for n in names() for kind in ("csv", "md"))
    assert [path.name for path in files if path.suffix != ".png"] == texts
    assert [path.name for path in files if path.suffix == ".md" and "(not yet: " in path.read_text()] == []
    before = [path.read_bytes() for path in files]
    tables.regenerate(["rap_table1", "liftcam_table8", "line_s4"], tmp_path)  # of each kind: composing takes its time
    assert [path.read_bytes() for path in files] == before
    for block in re.findall(r"(?:^\|.*\n)+", (tmp_path / "tables/rap_table1.md").read_text(), re.MULTILINE):
        assert len({line.replace(r"\|", "").count("|") for line in block.splitlines()}) == 1


def test_without_results_every_cell_is_missing(tmp_path: Path) -> None:
    """An empty folder gives the published figures and how to get ours."""
    table = tables.regenerate(["rap_table1"], tmp_path)[0]
    assert table.missing() == table.entries and len([entry for entry in table.entries if not entry.near]) == 56
    text = (tmp_path / "tables/rap_table1.md").read_text()
    assert "– · 0.252" in text and "## Missing" in text and r"Input\*Gradient" in text


def test_latex_escapes(tmp_path: Path) -> None:
    """One tabular a panel, underscores and Greek letters escaped, in captions too; labels and comments need it not."""
    (table,) = tables.regenerate(["rap_table1"], tmp_path)
    text = tables.render(table, "tex")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == len(table.panels)
    assert r"LRP $\alpha$1$\beta$0" in text
    assert r"method & $\mu$ & $\sigma$ \\" in tables.render(tables.regenerate(["liftcam_table1"], tmp_path)[0], "tex")
    embedded = tables.render(tables.regenerate(["embedded_localization"], tmp_path)[0], "tex")
    assert r"scenes\_vgg" in embedded and r"\label{tab:embedded_localization_1}" in embedded
    assert not re.search(r"(?<!\\)[_%&]{2}|(?<!\\)_", re.sub(r"(?m)^%.*|\\label.*", "", embedded))


def test_an_unknown_table_and_a_bad_specification_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A near name is suggested; a wrong or absent key is named with its file."""
    with pytest.raises(ConfigError, match="Did you mean hedging_table1"):
        tables.regenerate(["hedging_tabel1"], tmp_path)
    text = (configs.CONF / "table/rap_table1.yaml").read_text()
    monkeypatch.setattr(configs, "CONF", tmp_path)
    (tmp_path / "table").mkdir()
    for old, new, message in [
        ("source:", "sorce:", "lacks source"),
        ("label: ALL, metric", "lable: ALL, metric", "a column lacks label"),
        ("notes:", "nots:", "Did you mean notes"),
    ]:
        (tmp_path / "table/bad.yaml").write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=message):
            read_spec("bad")


def test_specifications_are_no_config_group() -> None:
    """`table` holds specifications: nothing composes it into a run."""
    assert "table" not in groups()
    assert {"model", "dataset", "method", "metric"} <= set(groups())
