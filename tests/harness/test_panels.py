"""The set-up of figures: places and sizes of panels, files without a window, nothing left behind."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from assay.harness.pictures import Size, encoded, panels, tighten
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("count, across, down, empty", [(0, 1, 1, 1), (1, 1, 1, 0), (3, 3, 1, 0), (4, 3, 2, 2)])
def test_panels_fill_lines_from_the_left(count: int, across: int, down: int, empty: int) -> None:
    """At most three side by side; the figure's size is that of its places and the margin; what is left over is off."""
    figure, axes = panels(count, 3, Size(2, 1), margin=Size(0.5, 0.25))
    assert len(axes) == count
    assert [float(inches) for inches in figure.get_size_inches()] == [2 * across + 0.5, down + 0.25]
    assert [axis.axison for axis in figure.axes] == [True] * count + [False] * empty
    with Image.open(BytesIO(encoded(figure, dpi=100))) as picture:
        assert (picture.format, picture.size) == ("PNG", (200 * across + 50, 100 * down + 25))


def test_lines_of_unequal_height() -> None:
    """Two lines, the second three times as high: so are its panels, and the figure has room for both."""
    figure, axes = panels(3, 2, Size(2, 9), heights=[1, 3])
    assert [float(inches) for inches in figure.get_size_inches()] == [4, 4]
    first, _, second = (axis.get_position() for axis in axes)
    assert second.height == pytest.approx(3 * first.height)


@pytest.mark.parametrize("suffix, magic", [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_the_suffix_says_what_file(suffix: str, magic: bytes) -> None:
    """As galleries are asked for."""
    assert encoded(panels(1, 1, Size(1, 1))[0], suffix).startswith(magic)


def test_room_for_a_legend_is_in_inches() -> None:
    """Half an inch below and one on the right stay free, whatever the figure's size; without them, less does."""
    figure, axes = panels(4, 2, Size(3, 2))
    tighten(figure, below=0.5, right=1)
    boxes = [axis.get_tightbbox() for axis in axes]
    assert min(box.y0 for box in boxes if box) >= 0.5 * figure.dpi
    assert max(box.x1 for box in boxes if box) <= (6 - 1) * figure.dpi
    tighten(figure)
    assert min(box.y0 for axis in axes if (box := axis.get_tightbbox())) < 0.5 * figure.dpi


def test_drawing_touches_no_window_and_no_global_state() -> None:
    """The module is imported without matplotlib; a figure is drawn without pyplot, whatever backend is asked for."""
    code = (
        "import sys; from assay.harness.pictures import Size, encoded, panels; assert 'matplotlib' not in sys.modules;"
        "assert encoded(panels(1, 1, Size(1, 1))[0])[:4] == b'\\x89PNG'; assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"MPLBACKEND": "tkagg"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
