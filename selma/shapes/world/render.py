"""Scenes become images: positions are drawn at random, edges are anti-aliased."""

from __future__ import annotations

from random import Random

from PIL import Image, ImageDraw

from selma.shapes.world.scene import BACKGROUNDS, COLORS, Scene

CANVAS = 64  # pixels per side
_OVERSAMPLE = 6
_SIZE_RANGES = {"small": (15.0, 17.0), "medium": (20.5, 23.5), "large": (29.0, 32.0)}

_USUAL_CELLS = {1: (4,), 2: (3, 5), 3: (1, 6, 8), 4: (0, 2, 6, 8), 5: (0, 2, 4, 6, 8)}  # of a 3x3 grid

Placed = tuple[str, str, float, float, float]  # color, shape, centre x, centre y, side; pixels


def place(rng: Random, scene: Scene, spread: float = 1.0, jitter: float = 1.0) -> list[Placed]:
    """Positions and sides (pixels) of every thing, apart from each other and inside the canvas.

    spread: 1 puts things anywhere; towards 0 they move to where a photographer would put them, in the middle.
    jitter: 1 draws sides, distances and offsets from their whole ranges; towards 0 from the middle of them.
    """
    if scene.kind == "count":
        return _place_count(rng, scene, spread, jitter)
    sides = [_uniform(rng, *_SIZE_RANGES[thing.size], jitter) for thing in scene.things]
    if scene.kind == "single":
        margin = sides[0] / 2 + 1.5
        centres = [(rng.uniform(margin, CANVAS - margin), rng.uniform(margin, CANVAS - margin))]
    else:
        centres = _place_pair(rng, scene.relation, sides, jitter)
    middle_x = sum(x for x, _ in centres) / len(centres)
    middle_y = sum(y for _, y in centres) / len(centres)
    shift_x, shift_y = ((1 - spread) * (CANVAS / 2 - middle) for middle in (middle_x, middle_y))
    return [
        (thing.color, thing.shape, x + shift_x, y + shift_y, side)
        for thing, (x, y), side in zip(scene.things, centres, sides, strict=True)
    ]


def _place_count(rng: Random, scene: Scene, spread: float, jitter: float) -> list[Placed]:
    """Equal things on cells of a 3x3 grid, which keeps up to nine of them apart."""
    cells = rng.sample(range(9), scene.number)
    if spread < 1 and rng.random() >= spread:
        cells = _USUAL_CELLS[scene.number]
    thing = scene.things[0]
    return [
        (
            thing.color,
            thing.shape,
            11 + 21 * (cell % 3) + _uniform(rng, -1, 1, jitter),
            11 + 21 * (cell // 3) + _uniform(rng, -1, 1, jitter),
            _uniform(rng, *_SIZE_RANGES["small"], jitter),
        )
        for cell in cells
    ]


def _place_pair(rng: Random, relation: str, sides: list[float], jitter: float) -> list[tuple[float, float]]:
    """Centres of two things along the relation's axis, the first one where the relation says."""
    low_side, high_side = sides if relation in ("left", "above") else sides[::-1]
    touching = (low_side + high_side) / 2
    room = CANVAS - 3 - low_side / 2 - high_side / 2  # the largest distance of the centres
    distance = _uniform(rng, min(touching + 4, room), min(touching + 12, room), jitter)
    low = rng.uniform(1.5 + low_side / 2, CANVAS - 1.5 - high_side / 2 - distance)
    margin = max(sides) / 2 + 3.5
    across = rng.uniform(margin, CANVAS - margin)
    shift = _uniform(rng, -2, 2, jitter)
    ends = [(low, across + shift), (low + distance, across - shift)]
    if relation in ("right", "below"):
        ends.reverse()
    return ends if relation in ("left", "right") else [(y, x) for x, y in ends]


def _uniform(rng: Random, low: float, high: float, jitter: float) -> float:
    value = rng.uniform(low, high)
    return value + (1 - jitter) * ((low + high) / 2 - value)


def render(placed: list[Placed], background: str) -> Image.Image:
    """RGB image of CANVAS x CANVAS pixels."""
    zoom = _OVERSAMPLE
    image = Image.new("RGB", (CANVAS * zoom, CANVAS * zoom), BACKGROUNDS[background])
    draw = ImageDraw.Draw(image)
    for color, shape, centre_x, centre_y, side in placed:
        x, y, r, fill = centre_x * zoom, centre_y * zoom, side * zoom / 2, COLORS[color]
        if shape == "circle":
            draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
        elif shape == "square":
            draw.rectangle([x - r, y - r, x + r - 1, y + r - 1], fill=fill)
        elif shape == "triangle":
            draw.polygon([(x - r, y + r), (x + r, y + r), (x, y - r)], fill=fill)
        else:
            arm = r / 3
            draw.rectangle([x - r, y - arm, x + r - 1, y + arm - 1], fill=fill)
            draw.rectangle([x - arm, y - r, x + arm - 1, y + r - 1], fill=fill)
    return image.reduce(zoom)


def draw_scene(rng: Random, scene: Scene, spread: float = 1.0, jitter: float = 1.0) -> Image.Image:
    """A random image of the scene: RGB, CANVAS x CANVAS pixels; `spread` and `jitter` as in `place`."""
    return render(place(rng, scene, spread, jitter), scene.background)
