"""Samples that the report shows: picks by hand, what the page is given, and the command that draws them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from assay.harness import launch
from assay.harness.commands.program import call
from assay.harness.overrides import compose_config
from assay.harness.results.report.paired import Paired
from assay.harness.results.report.picks import EACH, picked, picks, standing
from assay.harness.results.report.pictured import Sample, read, write
from assay.harness.results.report.views import views

NAMES = np.array(["i#1", "j#1", "k#1", "l#1"], dtype=object)


def quantity(name: str, up: bool, values: dict[str, list[float]]) -> tuple[str, pd.DataFrame, Paired]:
    """A quantity of methods on four samples."""
    rows = pd.DataFrame({"method": list(values), "higher_is_better": up})
    return name, rows, Paired(list(values), np.array(list(values.values())).T, NAMES, NAMES)


HIT = quantity("hit", True, {"a": [1.0, 2.0, 3.0, 4.0], "b": [8.0, 7.0, 6.0, 5.0]})
DROP = quantity("drop", False, {"a": [4.0, 3.0, 2.0, 1.0], "b": [5.0, 6.0, 7.0, 8.0]})


def test_places_by_hand() -> None:
    """Ranks of eight values over eight; of a drop the smallest is the best; two quantities are averaged."""
    scores = standing([HIT])
    assert scores["a"].tolist() == [1 / 8, 2 / 8, 3 / 8, 4 / 8] and scores["b"].tolist() == [1, 7 / 8, 6 / 8, 5 / 8]
    both = standing([HIT, DROP])
    assert both["a"].tolist() == [(1 + 5) / 16, (2 + 6) / 16, (3 + 7) / 16, (4 + 8) / 16]
    assert standing([]).empty


def test_picks_by_hand() -> None:
    """The best and the worst of a method; where it is farthest from the median of both: on i#1, then on j#1."""
    assert EACH == 2
    made = picks(standing([HIT]), "a")
    assert made == (["l#1", "k#1"], ["i#1", "j#1"], ["i#1", "j#1"])
    assert picked(standing([HIT])) == ["i#1", "j#1", "k#1", "l#1"]


EVIL = "</script><img src=x onerror=alert(1)>"


def test_the_page_is_given_what_was_drawn(tmp_path: Path) -> None:
    """Picks that were drawn, by number; values of both methods; no sign that ends a script element."""
    write(tmp_path, "r", [Sample("i#1", EVIL, "image", {"ca": "map a", "cb": "map b"}, {"ca": True, "cb": False})])
    shown = pd.DataFrame({"cell_key": ["ca", "cb"], "method": ["a", "b"], "higher_is_better": None})
    made = views(shown, [HIT], read(tmp_path))
    assert made is not None and "<" not in made
    view = json.loads(made)
    assert view["picks"]["a"] == {"best": [], "worst": [0], "disagreed": [0]}
    assert view["picks"]["b"] == {"best": [0], "worst": [], "disagreed": [0]}
    (sample,) = view["samples"]
    assert sample["label"] == EVIL and sample["values"] == {"hit": {"a": 1.0, "b": 8.0}}
    assert sample["maps"]["b"] == {"map": "map b", "hit": False}
    assert views(shown.assign(cell_key="other"), [HIT], read(tmp_path)) is None
    assert views(shown, [HIT], []) is None


def test_runs_add_up(tmp_path: Path) -> None:
    """Two runs drew one sample under different methods: it stands once, with all maps; another place's is not mixed in.

    Of a method that no run drew there is no map: the page says so.
    """
    write(tmp_path, "1", [Sample("i#1", "cat", "image", {"ca": "map a"}, {"ca": True})])
    write(tmp_path, "2", [Sample("i#1", "cat", "image", {"cb": "map b"}, {"cb": False})])
    write(tmp_path, "3", [Sample("j#1", "cat", "image", {"cb": "map b"}, {"cb": None})])
    write(tmp_path, "4", [Sample("i#1", "dog", "other", {"elsewhere": "map"}, {"elsewhere": True})])
    shown = pd.DataFrame({"cell_key": ["ca", "cb"], "method": ["a", "b"], "higher_is_better": None})
    made = views(shown, [HIT], read(tmp_path))
    assert made is not None
    first, second = json.loads(made)["samples"]
    assert (first["id"], first["label"], first["image"]) == ("i#1", "cat", "image")
    assert first["maps"] == {"a": {"map": "map a", "hit": True}, "b": {"map": "map b", "hit": False}}
    assert second["maps"] == {"b": {"map": "map b", "hit": None}}


RUN = ["model=scenes_vgg", "dataset=scenes", "method=[gradcam,center]", "limit=6", "compute.device=cpu"]


def test_the_command_draws_the_picks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a run: pictures of every pick under both methods, hits as the pointing game's; before it: what to do."""
    words = [*RUN, "metric=[pointing_game,outside_inside]", f"results={tmp_path}"]
    assert call(["samples", *words]) == 2
    assert "evaluate them first" in capsys.readouterr().err
    assert launch.run(compose_config([*words, "compute.processes=1"]), []) == 0
    assert call(["samples", *words]) == 0
    assert call(["report", "--results", str(tmp_path)]) == 0
    made = {each.sample_id: each for each in read(tmp_path / "report")}
    page = (tmp_path / "report/index.html").read_text()
    view: dict[str, Any] = json.loads(
        page.split('<div class="samples"><script type="application/json">')[1].split("<")[0]
    )
    shown = {
        view["samples"][number]["id"] for each in view["picks"].values() for kind in each.values() for number in kind
    }
    assert shown == made.keys()
    assert {len(kind) for each in view["picks"].values() for kind in each.values()} == {EACH}
    hits = [name for name in view["samples"][0]["values"] if name == "pointing_game tol=2px,box"]
    for sample in view["samples"]:
        assert set(sample["maps"]) == {"gradcam", "center (floor)"}
        for method, drawn in sample["maps"].items():
            assert drawn["map"].startswith("data:image/webp;base64,")
            assert drawn["hit"] is bool(sample["values"][hits[0]][method])
