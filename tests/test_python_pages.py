"""The Python of the README and of docs/how-to/python.md runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/how-to/python.md"


def blocks(page: Path) -> list[str]:
    """Its blocks of Python, each padded with the lines before it, so that an error names the page's line."""
    text = page.read_text()
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S)
    return ["\n" * text.count("\n", 0, each.start(1)) + each[1] for each in found]


@pytest.mark.slow
def test_the_page_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order, in one namespace, as in a notebook; what it writes is what it says, and the texts say numbers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, object] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for block in blocks(PAGE):
            exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102  # the page's own
    assert len(blocks(PAGE)) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["knn.safetensors", "maps.png"]
    said = capsys.readouterr().out
    assert "torch.Size([64, 64])" in said and "integrated_gradients" in said and "nan" not in said.lower()
    assert "test-0000" in said  # some image's name


def test_the_readme_as_a_script(tmp_path: Path) -> None:
    """From an empty folder, unguarded: no helper process imports it again; nothing is written, numbers are said."""
    (block,) = [each for each in blocks(ROOT / "README.md") if "import assay" in each]
    assert len([line for line in block.splitlines() if line]) == 3
    (tmp_path / "script").mkdir()
    script = tmp_path / "script" / "example.py"
    script.write_text(block)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"gradcam +0\.\d+ +0\.\d+ +0\.\d+", done.stdout)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["script"]
