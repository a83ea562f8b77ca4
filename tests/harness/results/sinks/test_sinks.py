"""Results sent elsewhere: the wiring, with sinks of tests; MLflow and Weights & Biases offline, where installed."""

import json
import shlex
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from assay.harness import launch
from assay.harness.arguments import options_again
from assay.harness.commands.program import call
from assay.harness.config import ConfigError
from assay.harness.overrides import compose_config
from assay.harness.results.kept_rows import ROWS, mark
from assay.harness.results.sinks.contract import Left
from assay.harness.results.sinks.mlflow import LONGEST_NAME, cut, named, valid
from assay.harness.results.sinks.sending import left_by, records
from assay.harness.results.tables import read_tidy
from assay.harness.store.sealed import read_json, write_json
from tidy_rows import table

RUN = ["method=[gradcam,center]", "metric=[pointing_game,positive_ratio]", "limit=4", "compute.processes=1"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run without a sink."""
    results = tmp_path_factory.mktemp("plain")
    words = [*RUN, f"results={results}"]
    assert launch.run(compose_config(words), words) == 0
    return results


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words that make the sinks of tests choices: `folder`, which writes to sent/, and `away`."""
    folder = tmp_path / "conf" / "sink"
    folder.mkdir(parents=True)
    (folder / "folder.yaml").write_text(
        f"# @package sink.folder\n_target_: sink_toys.Folder\nfolder: {tmp_path / 'sent'}\n"
    )
    (folder / "away.yaml").write_text("# @package sink.away\n_target_: sink_toys.Away\n")
    monkeypatch.setenv("ASSAY_ALLOW_TARGET", "sink_toys.")
    return [f"--config-dir={tmp_path / 'conf'}"]


def files(results: Path) -> dict[str, bytes]:
    """What a run leaves, without the records of when and how long."""
    every = [path for path in results.rglob("*") if path.is_file() and path.parent.name != "noted"]
    kept = [path for path in every if path.suffix in (".parquet", ".csv") or "store" in path.parts]
    return {str(path.relative_to(results)): path.read_bytes() for path in kept if path.name != "runs.csv"}


def test_a_sink_is_sent_what_the_run_left(plain: Path, toys: list[str], tmp_path: Path) -> None:
    """Headlines with their intervals, under the names of the table; the record's name is that of runs.csv."""
    words = [*RUN, "sink=[folder]", f"results={tmp_path / 'r'}"]
    assert launch.run(compose_config([*toys, *words]), words) == 0
    (path,) = (tmp_path / "sent").iterdir()
    sent = json.loads(path.read_text())
    assert path.stem in set(pd.read_csv(tmp_path / "r/tidy/runs.csv")["record"])
    rows = read_tidy(tmp_path / "r/tidy/results.csv")
    means = rows[(rows["metric"] == "pointing_game") & (rows["stat"] == "mean") & (rows["subset"] == "all")]
    for row in means.itertuples():
        (name,) = [each for each in sent["quantities"] if each == f"{row.method}/pointing_game {row.variant}"]
        assert sent["quantities"][name] == row.value
        assert (
            sent["quantities"][f"{name} ci_low"] == row.ci_low and sent["quantities"][f"{name} ci_high"] == row.ci_high
        )
    assert len(means) == 2
    asked = sent["parameters"]
    assert asked["overrides"] == " ".join([*RUN, words[-1]]) and asked["model"] == "scenes_vgg" and asked["seed"] == "0"
    assert (
        asked["cell_key/center/scenes"] in set(rows["cell_key"]) and asked["metric"] == "pointing_game, positive_ratio"
    )
    assert {"host", "torch", "git_sha", "run_id", "record", "wall_s"} <= sent["environment"].keys()
    assert files(tmp_path / "r") == files(plain)  # keys and bytes are those of a run without


def test_a_server_that_is_away_changes_nothing(
    plain: Path,
    toys: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code, bytes, the other sink; said is what sends it later, and that does."""
    words = [*RUN, "sink=[away,folder]", f"sink.folder.folder={tmp_path / 'other'}", f"results={tmp_path / 'r'}"]
    options = options_again(toys[0].partition("=")[2])
    assert launch.run(compose_config([*toys, *words]), words, options=options) == 0
    said = capsys.readouterr().err
    assert "sink away: not sent (ConnectionError: no route to host); the results are complete; later: " in said
    assert len(list((tmp_path / "other").iterdir())) == 1 and files(tmp_path / "r") == files(plain)
    again = shlex.split(said.split("later: ")[1])
    assert again[:4] == ["python", "-m", "harness", "publish"] and "sink=[away]" in again
    monkeypatch.delenv("ASSAY_ALLOW_TARGET")
    assert call(again[3:]) == 1
    later = shlex.split(capsys.readouterr().err.split("later: ")[1])
    assert later == again
    assert call([word.replace("[away]", "[folder]") for word in again[3:]]) == 0
    (path,) = (tmp_path / "sent").iterdir()
    assert path.stem in again


def test_publish_sends_the_last_record_of_each_run(plain: Path) -> None:
    """What is read from the files is what the run had."""
    (name,) = records(plain, [])
    (left,) = left_by(plain, [name])
    assert left.about["dataset"] == "scenes" and left.rows["status"].eq("ok").all() and not left.has_failed
    with pytest.raises(ConfigError, match=r"'x' is not a record of runs\.csv"):
        records(plain, ["x"])
    with pytest.raises(ConfigError, match="no runs below"):
        records(plain / "store", [])


def test_rows_are_sent_under_no_other_record(plain: Path, tmp_path: Path) -> None:
    """Each invocation of a run overwrites its rows: an earlier record is refused, naming the one whose they are."""
    results = tmp_path / "r"
    shutil.copytree(plain, results)
    (last,) = records(results, [])
    (folder,) = (path.parent for path in results.glob("runs/*/results.csv"))
    about = read_json(folder / f"{last.partition('.')[2]}.json")
    assert about[ROWS] == mark((folder / "results.csv").read_bytes())
    for moment, rows in {"1": "others", "2": about[ROWS], "9": "of a worker that was faster"}.items():
        write_json(folder / f"{moment}.json", {**about, ROWS: rows})
    run = folder.name
    assert records(results, []) == [last] and records(results, [f"{run}.2"]) == [f"{run}.2"]  # the same rows
    for moment in "19":
        with pytest.raises(ConfigError, match=rf"{run}\.{moment} are gone: .*publish that one: {last}"):
            records(results, [f"{run}.{moment}"])
    (folder / "results.csv").write_text("else")
    with pytest.raises(ConfigError, match=f"the rows of run {run} are no record's: run it again"):
        records(results, [])


def test_of_records_without_a_digest_the_last_has_the_rows(plain: Path, tmp_path: Path) -> None:
    """Those of an earlier version."""
    folder = tmp_path / "runs/r"
    folder.mkdir(parents=True)
    (folder / "results.csv").write_text("x")
    for moment in "12":
        write_json(folder / f"{moment}.json", {})
    assert records(tmp_path, []) == ["r.2"]
    with pytest.raises(ConfigError, match=r"record r\.1 are gone: .*: r\.2"):
        records(tmp_path, ["r.1"])


def test_publish_asks_for_a_sink(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["publish", f"results={plain}"]) == 2
    assert "no sink chosen: sink=[NAME]" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_said_before_anything_is_computed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    config = compose_config([*RUN, f"sink=[{name}]", f"results={tmp_path / 'r'}"])
    with pytest.raises(ConfigError, match=rf"sink {name}: .*pip install 'assay-harness\[sinks\]'"):
        launch.run(config, [])
    assert not (tmp_path / "r").exists()


def test_names_that_mlflow_takes() -> None:
    """Signs it refuses become `_`, paths do not climb, nothing is lost when two become one, long ones are cut apart."""
    assert valid("a b/m tol=2px,box (x=1)/ci_low") == "a b/m tol_2px_box _x_1_/ci_low"
    assert valid("../é/") == "_/_/_"
    assert named({"a=1": 1, "a_1": 2, "b": 3}).keys() == {f"a_1-{digest}" for digest in ("c22fea5d", "1426674c")} | {
        "b"
    }
    long = [f"{'x' * 300}{number}" for number in range(2)]
    made = named(dict.fromkeys(long, 0))
    assert len(made) == 2 and all(len(name) <= LONGEST_NAME for name in made)
    assert cut("x" * 9000).endswith(" ...") and len(cut("x" * 9000)) == 5000


def test_two_results_of_one_name_are_refused() -> None:
    """Rather than one of them lost; `told_apart` names all that a run can leave."""
    rows = table({"cell_key": "c", "metric_key": "m"}, {"cell_key": "c", "metric_key": "m"})
    with pytest.raises(ValueError, match="two results are called"):
        Left("r.t", {}, rows).quantities()


# The packages themselves, offline


@pytest.fixture
def left(plain: Path) -> Left:
    """What the run has left."""
    return next(left_by(plain, records(plain, [])))


@pytest.mark.parametrize("kind", ["file", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_mlflow_keeps_a_run(kind: str, left: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a place of its own, read back by its own client: all names and values; sent again, it stays one run."""
    pytest.importorskip("mlflow", reason="needs: pip install 'assay-harness[sinks]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    uri = (tmp_path / "runs").as_uri() if kind == "file" else f"sqlite:///{tmp_path / 'runs.db'}"
    from assay.harness.results.sinks.mlflow import MLflow
    from mlflow import MlflowClient

    sink = MLflow(uri=uri, experiment="of tests")
    said = sink.send(left)
    client = MlflowClient(uri)
    home = client.get_experiment_by_name("of tests")
    assert home is not None
    (run,) = client.search_runs([home.experiment_id])
    assert run.info.run_id in said and run.info.status == "FINISHED" and run.info.run_name == "scenes_vgg on scenes"
    assert run.data.metrics == {valid(name): value for name, value in left.quantities().items()}
    assert run.data.params == {valid(name): value for name, value in left.parameters().items()}
    assert run.data.tags["assay.record"] == left.name and "assay.host" in run.data.tags
    kept = Path(client.download_artifacts(run.info.run_id, "results.parquet", str(tmp_path)))
    assert pd.read_parquet(kept)["value"].tolist() == left.rows["value"].tolist()
    assert "has it already" in sink.send(left)
    assert len(client.search_runs([home.experiment_id])) == 1


def test_wandb_keeps_a_run_offline(left: Left, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file, read back with its own messages: config, summary, table."""
    pytest.importorskip("wandb", reason="needs: pip install 'assay-harness[sinks]'")
    from assay.harness.results.sinks.wandb import WandB

    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(sys, "argv", ["run.py", "sink.mlflow.uri=http://ann:s3cret@lab.edu"])  # it would keep them
    said = WandB(mode="offline", folder=str(tmp_path)).send(left)
    assert "wandb sync" in said
    sys.modules["wandb"].teardown()  # waits for its writer, which finish() does not
    assert [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()] == []
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    held = _wandb_records(path)
    assert held["summary"].items() >= left.quantities().items()
    assert held["config"]["overrides"] == left.about["overrides"]
    assert held["config"]["environment"]["record"] == left.name
    (shown,) = path.parent.glob("files/media/table/*.json")
    kept = json.loads(shown.read_text())
    assert kept["columns"] == list(left.rows) and len(kept["data"]) == len(left.rows)


def _wandb_records(path: Path) -> dict[str, dict[str, Any]]:
    """Config and summary in a file of wandb's: its own messages in a LevelDB log (it has no reader)."""
    from wandb.proto.wandb_internal_pb2 import Record

    made: dict[str, dict[str, Any]] = {"config": {}, "summary": {}}
    for message in _logged(path.read_bytes()):
        record = Record.FromString(message)
        for name, items in (("config", record.run.config.update), ("summary", record.summary.update)):
            made[name] |= {each.key or each.nested_key[0]: json.loads(each.value_json) for each in items}
    return made


def _logged(data: bytes, block: int = 32768, head: int = 7) -> Iterator[bytes]:
    """Records of a LevelDB log: CRC (4 bytes), length (2), kind (1: whole, 2 first, 3 middle, 4 last)."""
    place, parts = head, b""
    while place + head <= len(data):
        if block - place % block < head:
            place += block - place % block
        length, kind = struct.unpack("<HB", data[place + 4 : place + head])
        parts += data[place + head : place + head + length]
        place += head + length
        if kind in (1, 4):
            yield parts
            parts = b""
