"""Reading an image: background, and each blob's shape, colour, size and place.

Blobs are found by their distance from the background's colour and named by the best overlap with templates;
the templates are blurred too, because a small latent diffusion model draws soft edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from selma.shapes.world.render import CANVAS, render
from selma.shapes.world.scene import BACKGROUNDS, COLORS, SHAPES

_PALETTE = np.array(list(COLORS.values()), np.float32)
_GROUNDS = np.array(list(BACKGROUNDS.values()), np.float32)
_GRID = 16  # templates are _GRID x _GRID soft masks
_MIN_AREA = 40  # pixels; the smallest thing drawn covers about 90
_MIN_OVERLAP = 0.66  # of a blob with its best template
_MAX_COLOR_DISTANCE = 80  # RGB units to the nearest palette colour
_MAX_GROUND_DISTANCE = 60


@dataclass(frozen=True)
class Blob:
    """Something on the background. shape and color may be "unknown"; the rest is in pixels of the canvas."""

    shape: str
    color: str
    side: float
    x: float
    y: float


@dataclass(frozen=True)
class Picture:
    """What was read; background may be "unknown"."""

    background: str
    blobs: tuple[Blob, ...]


def read_picture(image: Image.Image) -> Picture:
    """Read an RGB image; one that is not 64x64 is scaled to it first."""
    if image.size != (CANVAS, CANVAS):
        image = image.resize((CANVAS, CANVAS), Image.Resampling.BOX)
    pixels = np.asarray(image.convert("RGB"), np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(border, 0)
    distances = np.linalg.norm(_GROUNDS - ground, axis=1)
    nearest = int(distances.argmin())
    name = list(BACKGROUNDS)[nearest] if distances[nearest] < _MAX_GROUND_DISTANCE else "unknown"
    contrast = _distance(pixels, ground)
    # A pixel belongs to a thing when it is past half the way from the background to its nearest palette colour.
    seen = contrast > 40
    closest = np.zeros(seen.shape, np.intp)  # read where something is seen
    closest[seen] = _squares(pixels[seen][:, None], _PALETTE).argmin(1)
    reach = _distance(_PALETTE, ground)[closest]
    labels, count = ndimage.label(seen & (contrast > 0.5 * reach))
    blobs = []
    for index, area in enumerate(np.bincount(labels.ravel(), minlength=count + 1)[1:], start=1):
        if area >= _MIN_AREA:
            blobs.append(_read_blob(pixels, contrast, closest, labels == index))
    return Picture(name, tuple(blobs))


def _distance(colors: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Euclidean, in RGB units, over the last axis."""
    return np.sqrt(_squares(colors, color))


def _squares(colors: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Squared distance over the last axis, one channel after another: three times as fast as numpy's own sum of three.

    Colours are whole numbers or halves, so float32 holds every sum exactly, and the order makes no difference.
    """
    red, green, blue = (colors[..., i] - color[..., i] for i in range(3))
    return red * red + green * green + blue * blue


def _read_blob(pixels: np.ndarray, contrast: np.ndarray, closest: np.ndarray, inside: np.ndarray) -> Blob:
    """The blob on the pixels `inside`; `closest` are their nearest palette colours."""
    strong = inside & (contrast >= np.median(contrast[inside]))
    core = pixels[strong]
    nearest = closest[strong]
    color_index = int(np.bincount(nearest, minlength=len(_PALETTE)).argmax())
    color = np.median(core, 0)
    # One colour, near the palette's, on most of the blob: a half red, half blue blob has none.
    plain = (nearest == color_index).mean() >= 0.7
    known = plain and np.linalg.norm(color - _PALETTE[color_index]) < _MAX_COLOR_DISTANCE
    mask, (left, right, top, bottom) = _soft_mask(contrast, inside, float(np.median(contrast[strong])))
    names, templates = _templates()
    overlap = np.minimum(mask, templates).sum((1, 2)) / np.maximum(mask, templates).sum((1, 2))
    best = int(overlap.argmax())
    width, height = right - left, bottom - top
    sound = overlap[best] >= _MIN_OVERLAP and 0.6 < width / max(height, 1e-6) < 1.65
    return Blob(
        shape=names[best] if sound else "unknown",
        color=list(COLORS)[color_index] if known else "unknown",
        side=(width + height) / 2,
        x=(left + right) / 2,
        y=(top + bottom) / 2,
    )


def _soft_mask(contrast: np.ndarray, inside: np.ndarray, amplitude: float):
    """The blob's coverage resampled to _GRID x _GRID, and its edges (left, right, top, bottom) in subpixels."""
    coverage = np.where(ndimage.binary_dilation(inside), np.clip(contrast / (amplitude + 1e-6), 0, 1), 0)
    left, right = _extent(coverage.max(0))
    top, bottom = _extent(coverage.max(1))
    box = (
        max(0.0, left),
        max(0.0, top),
        min(CANVAS, max(right, left + 1)),
        min(CANVAS, max(bottom, top + 1)),
    )
    image = Image.fromarray((coverage * 255).astype(np.uint8))
    crop = image.resize((_GRID, _GRID), Image.Resampling.BILINEAR, box=box)
    return np.asarray(crop, np.float32) / 255, (left, right, top, bottom)


def _extent(profile: np.ndarray) -> tuple[float, float]:
    """Where a coverage profile starts and ends; partly covered border pixels count for their share."""
    solid = np.flatnonzero(profile > 0.5)
    if not len(solid):
        return 0.0, 1.0
    first, last = int(solid[0]), int(solid[-1])
    before = profile[first - 1] if first else 0.0
    after = profile[last + 1] if last + 1 < len(profile) else 0.0
    return first + 1 - profile[first] - before, last + profile[last] + after


@cache
def _templates() -> tuple[list[str], np.ndarray]:
    """Names and mean soft masks [n, _GRID, _GRID] of every shape at four sides and three blurs."""
    names, masks = [], []
    shifts = [(dx, dy) for dx in (-0.33, 0, 0.33) for dy in (-0.33, 0, 0.33)]
    for shape in SHAPES:
        for side in (15, 17, 22, 30):
            for blur in (0, 1.0, 1.8):
                drawn = [_template(shape, side, blur, 32 + dx, 32 + dy) for dx, dy in shifts]
                names.append(shape)
                masks.append(np.mean(drawn, 0))
    return names, np.stack(masks).astype(np.float32)


def _template(shape: str, side: float, blur: float, x: float, y: float) -> np.ndarray:
    image = _sharp(shape, side, x, y).filter(ImageFilter.GaussianBlur(blur))
    pixels = np.asarray(image, np.float32)
    contrast = _distance(pixels, pixels[0, 0])
    inside = contrast > 0.5 * contrast.max()
    strong = inside & (contrast >= np.median(contrast[inside]))
    return _soft_mask(contrast, inside, float(np.median(contrast[strong])))[0]


@cache
def _sharp(shape: str, side: float, x: float, y: float) -> Image.Image:
    """What is blurred several times; drawing it takes longer than all that."""
    return render([("blue", shape, x, y, side)], "white")
