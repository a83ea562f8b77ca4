"""Drawing for the embedded scenes: signed distances of shapes, fills, and their composition in layers.

A shape is a function of rotated coordinates x, y in units of the object's radius; it returns a signed distance
in the same units (negative inside), exact near the outline, so that coverage = clip(1/2 - distance in px)
is the anti-aliased share of each pixel. Everything is drawn on the whole canvas: at 64x64 a window costs more
Python than it saves arithmetic. All arrays are float32 unless they are masks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE = 64  # px, of every scene
Array = NDArray[np.floating]  # float32 throughout; numpy's stubs lose the width
Mask = NDArray[np.bool_]
SignedDistance = Callable[[Array, Array], Array]

_CENTRES = np.arange(SIDE, dtype=np.float32) + np.float32(0.5)
_COLUMN, _ROW = _CENTRES[None, :], _CENTRES[:, None]


# --- shapes -----------------------------------------------------------------------------------------------


def _box(x: Array, y: Array, half_width: float, half_height: float) -> Array:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _circle(x: Array, y: Array, radius: float) -> Array:
    return np.sqrt(x * x + y * y) - radius


def _sector(x: Array, y: Array, n: int) -> tuple[Array, Array]:
    """The point's distance to the origin and its angle folded into [-pi/n, pi/n]."""
    width = 2 * math.pi / n
    return np.sqrt(x * x + y * y), np.mod(np.arctan2(y, x) + width / 2, width) - width / 2


def _polygon(x: Array, y: Array, n: int) -> Array:
    """Regular polygon with corners on the unit circle."""
    distance, angle = _sector(x, y, n)
    return distance * np.cos(angle) - math.cos(math.pi / n)


def disc(x: Array, y: Array) -> Array:
    return _circle(x, y, 0.85)


def ring(x: Array, y: Array) -> Array:
    return np.abs(_circle(x, y, 0.7)) - 0.2


def square(x: Array, y: Array) -> Array:
    return _box(x, y, 0.7, 0.7)


def triangle(x: Array, y: Array) -> Array:
    return _polygon(x, y, 3)


def star(x: Array, y: Array) -> Array:
    """Five tips on the unit circle, notches at 0.42: one straight edge after folding into half a sector."""
    distance, angle = _sector(x, y, 5)
    notch_x, notch_y = 0.42 * math.cos(math.pi / 5), 0.42 * math.sin(math.pi / 5)
    length = math.hypot(1 - notch_x, notch_y)
    normal_x, normal_y = notch_y / length, (1 - notch_x) / length
    return distance * (np.cos(angle) * normal_x + np.sin(np.abs(angle)) * normal_y) - normal_x


def cross(x: Array, y: Array) -> Array:
    return np.minimum(_box(x, y, 0.95, 0.28), _box(x, y, 0.28, 0.95))


def heart(x: Array, y: Array) -> Array:
    """A square with a disc on each of two adjoining sides."""
    side = 0.55
    discs = np.minimum(_circle(x - side, y, side), _circle(x, y - side, side))
    return np.minimum(discs, _box(x, y, side, side))


def crescent(x: Array, y: Array) -> Array:
    return np.maximum(_circle(x, y, 0.95), -_circle(x - 0.5, y, 0.75))


def arrow(x: Array, y: Array) -> Array:
    across = np.abs(y)
    slope = math.hypot(0.95, 0.8)
    head = np.maximum(-x, ((x - 0.95) * 0.8 + across * 0.95) / slope)
    return np.minimum(head, _box(x + 0.45, y, 0.5, 0.22))


def bar(x: Array, y: Array) -> Array:
    return _box(x, y, 0.97, 0.24)


def hexagon(x: Array, y: Array) -> Array:
    return _polygon(x, y, 6)


def letter_l(x: Array, y: Array) -> Array:
    return np.minimum(_box(x + 0.5, y, 0.2, 0.8), _box(x, y - 0.6, 0.7, 0.2))


def letter_t(x: Array, y: Array) -> Array:
    return np.minimum(_box(x, y, 0.2, 0.8), _box(x, y - 0.6, 0.75, 0.2))


def letter_z(x: Array, y: Array) -> Array:
    ends = np.minimum(_box(x + 0.35, y - 0.6, 0.4, 0.18), _box(x - 0.35, y + 0.6, 0.4, 0.18))
    return np.minimum(ends, _box(x, y, 0.18, 0.75))


def spiral(x: Array, y: Array) -> Array:
    """Archimedean, a turn every 0.55 radii, cut off at the unit circle."""
    distance, turn = np.sqrt(x * x + y * y), np.arctan2(y, x) / (2 * math.pi)
    band = np.abs(np.mod(distance - 0.55 * turn, 0.55) - 0.275) - 0.14
    return np.maximum(band, distance - 1)


def chevron(x: Array, y: Array) -> Array:
    return np.maximum(np.abs((x + np.abs(y)) / math.sqrt(2) - 0.2) - 0.22, np.abs(y) - 0.85)


def hourglass(x: Array, y: Array) -> Array:
    return np.maximum((np.abs(x) - 0.8 * np.abs(y)) / math.hypot(1, 0.8), np.abs(y) - 0.8)


SHAPES: dict[str, SignedDistance] = {
    shape.__name__: shape for shape in (disc, ring, square, triangle, star, cross, heart, crescent, arrow, bar)
}
UNSEEN_SHAPES: dict[str, SignedDistance] = {
    shape.__name__: shape for shape in (hexagon, letter_l, letter_t, letter_z, spiral, chevron, hourglass)
}


# --- fills: a tone in [0,1] for every pixel ---------------------------------------------------------------


def _wave(rng: np.random.Generator) -> Array:
    """Sine in a random direction, period 4 to 9 px."""
    angle, phase = rng.uniform(0, 2 * math.pi, 2).tolist()
    rate = 2 * math.pi / rng.uniform(4, 9)
    return np.sin(rate * math.cos(angle) * _COLUMN + (rate * math.sin(angle) * _ROW + phase))


def _plain(rng: np.random.Generator) -> Array:
    return np.zeros((SIDE, SIDE), np.float32)


def _stripes(rng: np.random.Generator) -> Array:
    return 0.5 + 0.5 * _wave(rng)


def _checks(rng: np.random.Generator) -> Array:
    return 0.5 + 0.5 * _wave(rng) * _wave(rng)


def _gradient(rng: np.random.Generator) -> Array:
    angle = rng.uniform(0, 2 * math.pi)
    ramp = math.cos(angle) * (_COLUMN - SIDE / 2) + math.sin(angle) * (_ROW - SIDE / 2)
    return 0.5 + ramp * np.float32(1 / (math.sqrt(2) * SIDE))


def _grain(rng: np.random.Generator) -> Array:
    return rng.random((SIDE, SIDE), dtype=np.float32)


def _blocks(rng: np.random.Generator) -> Array:
    """Grain at a quarter of the resolution."""
    return np.kron(rng.random((SIDE // 4, SIDE // 4), dtype=np.float32), np.ones((4, 4), np.float32))


FILLS: dict[str, Callable[[np.random.Generator], Array]] = {
    "plain": _plain,
    "stripes": _stripes,
    "checks": _checks,
    "gradient": _gradient,
    "grain": _grain,
    "blocks": _blocks,
}
_FILLS = tuple(FILLS.values())


def fill(rng: np.random.Generator, colour: Array, spread: float) -> Array:
    """Pixels [3,S,S] of a random fill between `colour` [3] and a second colour at most `spread` away a channel."""
    tone = _FILLS[rng.integers(len(_FILLS))](rng)
    second = rng.uniform(-spread, spread, 3).astype(np.float32)
    return colour[:, None, None] + second[:, None, None] * tone


# --- composition ------------------------------------------------------------------------------------------


class Look(NamedTuple):
    """What makes scenes easy or hard to read."""

    contrast: tuple[float, float]  # range of the share of the full colour difference to the background
    clearance: float  # least distance of two centres over the sum of their radii
    occluders: int  # at most so many wide lines across the objects
    clutter: tuple[int, int]  # so many thin lines and dots below the objects, inclusive
    blur: float  # at most so many px of Gaussian sigma
    noise: float  # standard deviation of pixel noise, at most


NORMAL = Look(contrast=(0.7, 1.0), clearance=0.75, occluders=0, clutter=(0, 6), blur=0.0, noise=0.02)
HARD = Look(contrast=(0.4, 0.7), clearance=0.5, occluders=4, clutter=(4, 10), blur=1.0, noise=0.05)

RADIUS = (7.0, 16.0)  # px
MIN_VISIBLE = 0.4  # an object is not placed where it or an earlier one would show less of its area
_POSITIONS = 16  # tried per object


class Placed(NamedTuple):
    """One object on the canvas."""

    label: int
    centre: Array  # [2], x and y
    radius: float
    colour: Array  # [3]
    area: int  # px, before anything covers it
    visible: Mask  # [S,S]


@dataclass
class Canvas:
    """A scene while it is being drawn: pixels [3,S,S] and the objects on them, bottom to top."""

    pixels: Array
    background: Array  # [3], the colour that contrast refers to
    objects: list[Placed] = field(default_factory=list)

    def paint(self, coverage: Array, colour: Array) -> None:
        """Blend `colour` ([3,1,1] or [3,S,S]) over the pixels by coverage [S,S]."""
        self.pixels += coverage * (colour - self.pixels)

    def cover(self, hidden: Mask) -> bool:
        """Take `hidden` pixels from the objects' visible masks, unless one would show too little of itself."""
        remaining = [placed.visible & ~hidden for placed in self.objects]
        if any(mask.sum() < MIN_VISIBLE * placed.area for mask, placed in zip(remaining, self.objects, strict=True)):
            return False
        self.objects = [placed._replace(visible=m) for placed, m in zip(self.objects, remaining, strict=True)]
        return True


def coverage_of(shape: SignedDistance, centre: Array, radius: float, angle: float) -> Array:
    """Share of each pixel [S,S] that the shape covers."""
    cos, sin = math.cos(angle) / radius, math.sin(angle) / radius
    dx, dy = _COLUMN - centre[0], _ROW - centre[1]
    return np.clip(0.5 - np.float32(radius) * shape(cos * dx + sin * dy, cos * dy - sin * dx), 0, 1)


def _stroke(rng: np.random.Generator, length: tuple[float, float], half_width: float) -> Array:
    """Coverage [S,S] of a line with round ends at a random place; a dot where the length is 0."""
    (x, y), angle, span = rng.uniform(0, SIDE, 2), rng.uniform(0, math.pi), rng.uniform(*length) / 2
    cos, sin = math.cos(angle), math.sin(angle)
    dx, dy = _COLUMN - np.float32(x), _ROW - np.float32(y)
    along = np.maximum(np.abs(cos * dx + sin * dy) - np.float32(span), 0)
    across = cos * dy - sin * dx
    return np.clip(np.float32(0.5 + half_width) - np.sqrt(along * along + across * across), 0, 1)


def _contrasting_colour(rng: np.random.Generator, canvas: Canvas, look: Look) -> Array:
    """A colour [3] unlike the background's and the earlier objects', drawn back to the background by the look."""
    taken = np.stack([canvas.background, *(placed.colour for placed in canvas.objects)])
    candidates = rng.uniform(0.1, 0.95, (8, 3)).astype(np.float32)
    nearest = np.sqrt(((candidates[:, None] - taken) ** 2).sum(2)).min(1)
    chosen = candidates[(nearest >= min(0.5, nearest.max())).argmax()]
    return canvas.background + np.float32(rng.uniform(*look.contrast)) * (chosen - canvas.background)


def _free_centre(rng: np.random.Generator, canvas: Canvas, radius: float, clearance: float) -> Array | None:
    """A centre [2] inside the canvas that keeps its distance from the earlier objects, if one is found."""
    centres = rng.uniform(radius, SIDE - radius, (_POSITIONS, 2)).astype(np.float32)
    free = np.ones(_POSITIONS, bool)
    for placed in canvas.objects:
        distance = np.hypot(*(centres - placed.centre).T)
        free &= distance >= clearance * (radius + placed.radius)
    return centres[free.argmax()] if free.any() else None


def _place(rng: np.random.Generator, canvas: Canvas, look: Look, shapes: Sequence[SignedDistance]) -> None:
    """Draw one object of a random class, if there is room."""
    label, radius, angle = int(rng.integers(len(shapes))), rng.uniform(*RADIUS), rng.uniform(0, 2 * math.pi)
    centre = _free_centre(rng, canvas, radius, look.clearance)
    if centre is None:
        return
    coverage = coverage_of(shapes[label], centre, radius, angle)
    visible = coverage >= 0.5
    if canvas.cover(visible):
        colour = _contrasting_colour(rng, canvas, look)
        canvas.paint(coverage, fill(rng, colour, 0.3 * look.contrast[1]))
        canvas.objects.append(Placed(label, centre, radius, colour, int(visible.sum()), visible))


def _add_clutter(rng: np.random.Generator, canvas: Canvas, look: Look) -> None:
    """Thin lines and dots that belong to no class."""
    for _ in range(rng.integers(look.clutter[0], look.clutter[1] + 1)):
        is_dot = rng.random() < 0.5
        stroke = _stroke(rng, (0, 0) if is_dot else (5, 20), rng.uniform(0.8, 1.5) if is_dot else 0.5)
        canvas.paint(stroke, rng.uniform(0.1, 0.95, (3, 1, 1)).astype(np.float32))


def _add_occluders(rng: np.random.Generator, canvas: Canvas, look: Look) -> None:
    """Wide lines in shades of the background, above the objects."""
    for _ in range(rng.integers(look.occluders + 1)):
        stroke = _stroke(rng, (20, 50), rng.uniform(1.0, 2.2))
        if canvas.cover(stroke >= 0.5):
            shade = canvas.background + rng.uniform(-0.1, 0.1, 3).astype(np.float32)
            canvas.paint(stroke, shade[:, None, None])


def _blurred(pixels: Array, sigma: float) -> Array:
    """Gaussian blur of [3,S,S] with 7 taps, borders replicated; sigma in px, at most about 1.5."""
    taps = np.exp(-0.5 * (np.arange(-3, 4) / max(sigma, 1e-3)) ** 2)
    kernel = (taps / taps.sum()).astype(np.float32)
    padded = np.pad(pixels, ((0, 0), (3, 3), (3, 3)), mode="edge")
    rows = sum(weight * padded[:, k : k + SIDE] for k, weight in enumerate(kernel))
    return np.asarray(sum(weight * rows[:, :, k : k + SIDE] for k, weight in enumerate(kernel)), np.float32)


def background(rng: np.random.Generator, look: Look) -> Canvas:
    """A textured canvas with clutter and nothing on it; darker than most objects, so that inversion shows."""
    colour = rng.uniform(0.05, 0.45, 3).astype(np.float32)
    canvas = Canvas(fill(rng, colour, 0.2) + np.zeros((3, SIDE, SIDE), np.float32), colour)
    _add_clutter(rng, canvas, look)
    return canvas


def scene(rng: np.random.Generator, look: Look, shapes: Sequence[SignedDistance], count: tuple[int, int]) -> Canvas:
    """A background with count[0] to count[1] objects (fewer where there is no room, at least one)."""
    canvas = background(rng, look)
    for _ in range(rng.integers(count[0], count[1] + 1)):
        _place(rng, canvas, look, shapes)
    _add_occluders(rng, canvas, look)
    return canvas


def develop(rng: np.random.Generator, canvas: Canvas, look: Look) -> NDArray[np.uint8]:
    """The canvas as an image [3,S,S]: blurred, noisy, in 8 bits; no channel reaches 0 or 255."""
    pixels = canvas.pixels
    if look.blur:
        pixels = _blurred(pixels, rng.uniform(0, look.blur))
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(rng.uniform(0, look.noise))
    return np.rint(np.clip(pixels + noise, 0.04, 0.96) * 255).astype(np.uint8)
