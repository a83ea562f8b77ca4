"""docs/notebooks/first-steps.ipynb runs from top to bottom, and is committed as it was written, without outputs.

Its cells are run in one namespace, as a kernel would: Jupyter's own runner (nbclient, ipykernel and what they bring) is
another 40 packages for the same check. What only a kernel knows (magics, shell lines) is therefore refused.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs/notebooks/first-steps.ipynb"
CELLS: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_it_is_a_notebook_without_outputs() -> None:
    """Of format 4.5: every cell has a name of its own; nothing that a run left, no magic."""
    about = json.loads(NOTEBOOK.read_text())
    assert (about["nbformat"], about["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS) > 10
    assert [cell for cell in CELLS if cell.get("outputs") or cell.get("execution_count")] == []
    assert [line for text in CODE for line in text.splitlines() if re.match(r"\s*[%!?]", line)] == []


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From another folder: maps of the scene's size and a detector for which noise is farther than a scene; no file."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        for number, text in enumerate(CODE):
            exec(compile(text, f"{NOTEBOOK.name}, code {number}", "exec"), names)  # noqa: S102  # the project's own
    assert {found.map.shape for found in names["maps"].values()} == {(64, 64)}
    assert set(names["hits"].index) == {"gradcam", "rap", "center"}
    known = names["detector"].score(names["scene"].image[None])
    assert (names["detector"].score(names["noise"]) > known).all()
    assert len(plt.get_fignums()) == 2 and list(tmp_path.iterdir()) == []
    plt.close("all")
    assert "nan" not in capsys.readouterr().out.lower()
