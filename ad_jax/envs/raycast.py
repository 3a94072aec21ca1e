"""First-person pictures of a round pool, in whole numbers.

A pose `(x, y, heading)` is three integers: places are in 2^-14 of the pool's radius from its middle, headings in 1/4096
of a turn, anticlockwise from +x. From there to the bytes of the picture every operation is on int32 and exact, so a
picture does not depend on the batch it is drawn in, on what the compiler fuses, or on the device. (In floats, a fused
multiply-add may move an edge by a pixel.) The one square root is taken in floats and then corrected.

A column of the picture is one ray in the plane. It meets the circular wall where |place + t direction| = radius, at

    t = sqrt(b^2 + radius^2 - |place|^2) - b,    b = place . direction

and a pixel's slope then says whether it sees sky, wall or water. Colors come from one texture, drawn here:

    sky     by azimuth and slope: far landmarks beyond the wall, which tell the heading and have no parallax
    wall    by bearing from the pool's middle and by height: a hue for each bearing, bricks, five posters
    water   by place: checkered

What is near is brighter. Wall and water together tell the place.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad_jax.types import Array

RADIUS = 2**14  # of the pool
TURN = 4096  # headings
UNIT = 2**14  # length of a direction
EYE = 2560  # height of the eye over the water
WALL = 8192  # height of the wall's top
SLOPE = 4096  # slopes are in 1/4096

# The texture: rows of sky (by slope, 64 to a slope of 1), wall (by height from the water) and water (by y); columns are
# azimuth, bearing or x.
SKY_ROWS, WALL_ROWS, WATER_ROWS, COLUMNS = 64, 64, 32, 1024


class Lens(NamedTuple):
    """What of a picture does not depend on the pose; int32. The field of view is 90 degrees wide."""

    cos: Array  # [W] of each column's angle to the right, in 1/UNIT
    sin: Array  # [W]
    angle: Array  # [W] the same angle, in 1/TURN
    slope: Array  # [H, W] downwards, of each pixel's ray, in 1/SLOPE
    reach: Array  # [H, W] distance to the water along it, where it goes down


def render(x: jax.Array, y: jax.Array, heading: jax.Array, height: int, width: int) -> jax.Array:
    """Return the picture `[height, width, 3]` uint8 from a pose, three int32 `[]`; `|(x, y)|` is below `RADIUS`."""
    lens = Lens(*map(jnp.asarray, _lens(height, width)))
    cos, sin = jnp.asarray(directions())[heading]
    # The direction of each column [W], by the addition theorems.
    dx, dy = (cos * lens.cos + sin * lens.sin) >> 14, (sin * lens.cos - cos * lens.sin) >> 14
    b = (x * dx + y * dy) >> 14
    t = isqrt(b * b + RADIUS**2 - x * x - y * y) - b
    bearing = angle_of(x + (t * dx >> 14), y + (t * dy >> 14))
    azimuth = (heading - lens.angle) & (TURN - 1)

    above = EYE - (t[None] * lens.slope >> 12)  # [H, W] height at which the ray meets the wall
    is_sky, is_water = above >= WALL, above < 0
    across, along = (p + (lens.reach * d[None] >> 14) for p, d in ((x, dx), (y, dy)))
    tile = 2 * RADIUS // WATER_ROWS
    water_row, water_column = ((p + RADIUS) // tile & (WATER_ROWS - 1) for p in (along, across))
    sky_row = jnp.clip(-lens.slope * SKY_ROWS // SLOPE, 0, SKY_ROWS - 1)
    wall_row = jnp.clip(above * WALL_ROWS // WALL, 0, WALL_ROWS - 1)
    row = jnp.where(is_sky, sky_row, SKY_ROWS + jnp.where(is_water, WALL_ROWS + water_row, wall_row))
    column = jnp.where(is_water, water_column, jnp.where(is_sky, azimuth[None], bearing[None]) * COLUMNS // TURN)
    color = jnp.asarray(packed_texture())[row * COLUMNS + column]

    distance = jnp.where(is_water, lens.reach, jnp.where(is_sky, 0, t[None]))
    light = 256 - (distance >> 8)  # of 256; at the far side of the pool half of it
    channels = [((color >> shift & 255) * light >> 8) for shift in (16, 8, 0)]
    return jnp.stack(channels, axis=-1).astype(jnp.uint8)


def isqrt(n: jax.Array) -> jax.Array:
    """Return the whole part of the square root of int32 `n` in [0, 2^30]; exact, whatever the device's square root
    rounds.
    """
    root = jnp.sqrt(n.astype(jnp.float32)).astype(jnp.int32)
    root = root - (root * root > n).astype(jnp.int32)
    return root + ((root + 1) * (root + 1) <= n).astype(jnp.int32)


def angle_of(x: jax.Array, y: jax.Array) -> jax.Array:
    """Angle of int32 `(x, y)`, below 2^18 and not both 0, in 0..TURN - 1 anticlockwise from +x."""
    low, high = jnp.minimum(jnp.abs(x), jnp.abs(y)), jnp.maximum(jnp.abs(x), jnp.abs(y))
    angle = jnp.asarray(_arctangents())[(low << 12) // high]
    angle = jnp.where(jnp.abs(y) > jnp.abs(x), TURN // 4 - angle, angle)
    angle = jnp.where(x < 0, TURN // 2 - angle, angle)
    return jnp.where(y < 0, -angle, angle) & (TURN - 1)


@functools.cache
def directions() -> np.ndarray:
    """`[TURN, 2]` int32: cosine and sine of each heading, in 1/UNIT."""
    angle = np.arange(TURN) * (2 * np.pi / TURN)
    return np.round(UNIT * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.int32)


@functools.cache
def _arctangents() -> np.ndarray:
    """`[4097]` int32: arc tangent of i / 4096, in 1/TURN."""
    return np.round(np.arctan(np.arange(4097) / 4096) * (TURN / (2 * np.pi))).astype(np.int32)


@functools.cache
def _lens(height: int, width: int) -> Lens:
    """Return the lens of a picture, in NumPy. Pixels are square; rays go through their centers."""
    right = (2 * np.arange(width) + 1 - width) / width  # tangents, -1 to 1
    down = (2 * np.arange(height) + 1 - height) / width
    angle = np.arctan(right)
    slope = down[:, None] * np.cos(angle)
    reach = EYE / np.maximum(slope, EYE / (2 * RADIUS))  # beyond the pool it is not used

    def whole(x):
        return np.round(x).astype(np.int32)

    turns = angle * (TURN / (2 * np.pi))
    parts = UNIT * np.cos(angle), UNIT * np.sin(angle), turns, SLOPE * slope, reach
    return Lens(*map(whole, parts))


@functools.cache
def packed_texture() -> np.ndarray:
    """Return the texture, flat: int32 `red << 16 | green << 8 | blue`. One word a pixel is read, not three bytes."""
    red, green, blue = np.moveaxis(texture().astype(np.int32), -1, 0)
    return (red << 16 | green << 8 | blue).reshape(-1)


@functools.cache
def texture() -> np.ndarray:
    """`[SKY_ROWS + WALL_ROWS + WATER_ROWS, COLUMNS, 3]` uint8."""
    return np.concatenate([_sky(), _wall(), _water()]).astype(np.uint8)


def _sky() -> np.ndarray:
    """Row 0 is the horizon. Landmarks at uneven distances, none like another."""
    up, azimuth = np.arange(SKY_ROWS)[:, None] / SKY_ROWS, np.arange(COLUMNS)[None] / COLUMNS
    sky = np.array([205, 225, 240]) + up[..., None] * np.array([-120, -95, -25]) + 0 * azimuth[..., None]

    def off(center):
        return (azimuth - center + 0.5) % 1 - 0.5  # turns to the left of it

    band = (up * 12).astype(int) % 2 == 0

    def paint(where, color):
        return np.where(where[..., None], np.array(color), sky)

    sky = paint((off(0.07) ** 2 + ((up - 0.8) / 6.3) ** 2) < 0.022**2, (255, 225, 80))  # the sun
    sky = paint(up < 0.75 - 9 * np.abs(off(0.24)), (60, 110, 60))  # a green peak
    sky = paint((np.abs(off(0.41)) < 0.022) & (up < 0.9) & band, (200, 40, 40))  # a tower, red and white
    sky = paint((np.abs(off(0.41)) < 0.022) & (up < 0.9) & ~band, (245, 245, 245))
    sky = paint((off(0.6) / 0.07) ** 2 + (up / 0.62) ** 2 < 1, (120, 70, 150))  # a violet dome
    return paint((np.abs(off(0.86)) < 0.05) & (up < 0.55 + 0.25 * (off(0.86) > 0)), (70, 65, 60))  # a dark step


def _wall() -> np.ndarray:
    """Row 0 is at the water."""
    row, bearing = np.arange(WALL_ROWS)[:, None], np.arange(COLUMNS)[None]
    hue = bearing / COLUMNS * 6 + 0 * row

    def ramp(shift):
        return np.clip(np.abs((hue + shift) % 6 - 3) - 1, 0, 1)

    wall = 95 + 110 * np.stack([ramp(0), ramp(4), ramp(2)], axis=-1)
    mortar = (row % 16 < 3) | ((bearing + 32 * (row // 16 % 2)) % 64 < 6)
    wall = np.where(mortar[..., None], 0.62 * wall, wall)
    for center, pattern in ((40, "checkers"), (290, "disc"), (455, "stripes"), (640, "cross"), (905, "bars")):
        left, up = (bearing - center + COLUMNS // 2) % COLUMNS - COLUMNS // 2 + 0 * row, row - 30 + 0 * bearing
        on, one, other = {
            "checkers": ((left // 10 + up // 7) % 2 == 0, (20, 20, 20), (250, 250, 250)),
            "disc": (left**2 + (1.6 * up) ** 2 < 20**2, (220, 30, 30), (250, 250, 250)),
            "stripes": ((left + 2 * up) // 12 % 2 == 0, (30, 30, 30), (250, 220, 40)),
            "cross": ((np.abs(left) < 7) | (np.abs(up) < 5), (30, 60, 200), (250, 250, 250)),
            "bars": (up // 5 % 2 == 0, (20, 120, 60), (250, 250, 250)),
        }[pattern]
        poster = (np.abs(left) < 30) & (np.abs(up) < 18)
        wall = np.where(poster[..., None], np.where(on[..., None], np.array(one), np.array(other)), wall)
    return wall


def _water() -> np.ndarray:
    """Square tiles over the pool; the columns past the last of them are never looked up."""
    y, x = np.arange(WATER_ROWS)[:, None], np.arange(COLUMNS)[None]
    light = (x // 2 + y // 2) % 2 == 0
    return np.where(light[..., None], np.array([70, 125, 150]), np.array([52, 104, 132]))
