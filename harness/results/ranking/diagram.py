"""Critical-difference diagrams (Demsar 2006, figure 1): mean ranks on a line, bars over methods not told apart."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...pictures import Size, encoded, panels, tighten
from .significance import Ranking
from .told import notes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE = 0.22  # inches a method takes
STEP = 0.16  # and a bar
HEAD = 1.3  # title, axis and critical difference
WIDTH = 9.0
COLOUR, BAR = "#444444", "#0072B2"
EDGE = 0.3  # of a rank, that names keep from the axis


def picture(made: Sequence[Ranking], suffix: str = ".png") -> bytes:
    """A file of a kind that a suffix names, a panel a ranking."""
    heights = [_height(each) for each in made]
    figure, axes = panels(len(made), 1, Size(WIDTH, 0), heights=heights)
    for axis, each in zip(axes, made, strict=True):
        _draw(axis, each)
    tighten(figure)
    return encoded(figure, suffix)


def _bars(made: Ranking) -> list[list[str]]:
    return [] if made.cliques is None else [group for group in made.cliques.groups if len(group) > 1]


def _height(made: Ranking) -> float:
    return HEAD + LINE * ((len(made.ranks) + 1) // 2) + STEP * len(_bars(made)) + LINE * len(notes(made))


def _draw(axis: "Axes", made: Ranking) -> None:
    """In a panel whose vertical unit is an inch: the axis at 0, below it the bars, then the names."""
    count, bars = len(made.ranks), _bars(made)
    depth = _height(made) - HEAD
    axis.set(xlim=(1 - 1.2 * EDGE * count, count + 1.2 * EDGE * count), ylim=(-depth - STEP, HEAD / 2))
    axis.set_title(f"{made.blocks.title}: mean ranks over {len(made.blocks.losses)} blocks", fontsize=10)
    axis.set_axis_off()
    axis.hlines(0, 1, count, color=COLOUR, lw=1)
    for rank in range(1, count + 1):
        axis.vlines(rank, 0, 0.06, color=COLOUR, lw=1)
        axis.annotate(f"{rank}", (rank, 0.09), ha="center", fontsize=8)
    _names(axis, made, STEP * (len(bars) + 1))
    for number, group in enumerate(bars):
        _bar(axis, [float(made.ranks[name]) for name in group], -STEP * (number + 0.7))
    if made.cliques is not None:
        _critical(axis, made.critical)
    for number, note in enumerate(notes(made)):
        axis.annotate(note, ((1 + count) / 2, -depth + LINE * number), ha="center", va="center", fontsize=8)


def _names(axis: "Axes", made: Ranking, below: float) -> None:
    """The better half at the left, the best on top, and the others at the right, the worst on top."""
    count = len(made.ranks)
    half = (count + 1) // 2
    for number, (name, rank) in enumerate(made.ranks.items()):
        is_left = number < half
        y = -below - LINE * (number if is_left else count - 1 - number)
        end = 1 - EDGE if is_left else count + EDGE
        axis.plot([rank, rank, end], [0, y, y], color=COLOUR, lw=0.8)
        label, side = f"{name}  {rank:.2f}", "right" if is_left else "left"
        axis.annotate(
            label, (end, y), (-4 if is_left else 4, 0), textcoords="offset points", ha=side, va="center", fontsize=9
        )


def _bar(axis: "Axes", ranks: list[float], y: float) -> None:
    """Dots where the members are: one in between that has none is told apart from some of them."""
    axis.plot([min(ranks), max(ranks)], [y, y], color=BAR, lw=2.5, solid_capstyle="butt")
    axis.plot(ranks, [y] * len(ranks), ".", color=BAR, ms=7)


def _critical(axis: "Axes", length: float) -> None:
    """Nemenyi's, as a length."""
    y = HEAD / 2 - 0.22
    axis.plot([1, 1 + length], [y, y], "|-", color=COLOUR, lw=1, ms=8)
    axis.annotate(f" critical difference (Nemenyi) {length:.2f}", (1 + length, y), va="center", fontsize=8)
