"""The one set-up of matplotlib: figures of panels, drawn without a window and without its global state.

Matplotlib is imported when the first figure is made: a run that draws nothing does not wait for it.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Size(NamedTuple):
    """Width and height in inches."""

    width: float
    height: float


NOTHING = Size(0, 0)


def panels(
    count: int,
    most: int,
    each: Size,
    margin: Size = NOTHING,
    share_y: bool = False,
    heights: Sequence[float] = (),
) -> "tuple[Figure, list[Axes]]":
    """A figure of panels, line by line, at most `most` side by side; places that are left over stay empty.

    Args:
        count: how many panels; with none the figure has one empty place.
        each: of a panel, `margin`: of what the figure has beside them.
        share_y: whether all have one vertical axis.
        heights: in inches, of lines that are not all as high as `each`.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    across = max(1, min(count, most))
    down = max(1, -(-count // across))
    lines = [*heights] or [each.height] * down
    figure = Figure(figsize=(each.width * across + margin.width, sum(lines) + margin.height))
    with rc_context({"text.parse_math": False}):  # titles and labels are people's names, not formulas
        axes = figure.subplots(down, across, sharey=share_y, squeeze=False, height_ratios=lines)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return figure, list(axes.flat[:count])


def tighten(figure: "Figure", below: float = 0, right: float = 0) -> None:
    """Spread the panels over the figure; what is kept free for a legend is in inches."""
    width, height = figure.get_size_inches()
    figure.tight_layout(rect=(0, below / height, 1 - right / width, 1))


def encoded(figure: "Figure", suffix: str = ".png", dpi: int = 110) -> bytes:
    """The figure as a file of the kind that a suffix names: `.png`, `.pdf`, `.svg`."""
    file = BytesIO()
    figure.savefig(file, format=suffix.removeprefix("."), dpi=dpi)
    return file.getvalue()
