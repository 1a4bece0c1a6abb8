"""Pictures that users bring: read as a viewer shows them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selma.ground.errors import UserError
from selma.ground.pairs import read_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


def read(image: Image.Image, path: Path, **options) -> np.ndarray:
    image.save(path, **options)
    found = read_image(path)
    assert found.mode == "RGB"
    return np.asarray(found)


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_a_photograph_is_turned_as_its_exif_says(tmp_path, orientation, corner):
    image = Image.new("RGB", (24, 16), "white")
    image.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in (".png", ".webp"):
        pixels = read(image, tmp_path / f"turned{suffix}", exif=exif, lossless=True)
        assert pixels.shape[:2] == ((16, 24) if orientation in (1, 3) else (24, 16))
        assert tuple(pixels[corner]) == RED


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_of_grey_are_scaled_and_not_cut_off(tmp_path, suffix):
    values = np.array([[0, 256, 32768, 65535]], dtype=np.uint16)
    pixels = read(Image.fromarray(values), tmp_path / f"grey{suffix}")
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]
    assert (pixels == pixels[..., :1]).all()


def test_what_is_transparent_lies_on_white(tmp_path):
    pink = Image.new("RGBA", (2, 1), (255, 0, 255, 0))
    pink.putpixel((1, 0), (255, 0, 0, 255))
    assert [tuple(pixel) for pixel in read(pink, tmp_path / "rgba.png")[0]] == [WHITE, RED]
    assert tuple(read(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), tmp_path / "half.png")[0, 0]) == (127,) * 3
    assert tuple(read(Image.new("LA", (1, 1), (0, 0)), tmp_path / "la.png")[0, 0]) == WHITE
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 255, *RED])
    palette.putpixel((1, 0), 1)
    for name in ("palette.png", "palette.gif"):
        assert [tuple(pixel) for pixel in read(palette, tmp_path / name, transparency=0)[0]] == [WHITE, RED]
    assert tuple(read(palette, tmp_path / "opaque.png")[0, 0]) == (255, 0, 255)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [("1", 1, WHITE), ("L", 7, (7, 7, 7)), ("RGB", RED, RED), ("CMYK", (0, 255, 255, 0), (254, 0, 0))],
)
def test_other_modes_are_converted(tmp_path, mode, value, expected):
    pixels = read(Image.new(mode, (8, 8), value), tmp_path / "image.tif")
    assert np.abs(pixels[0, 0].astype(int) - expected).max() <= 1


def test_pixels_of_no_known_range_are_refused(tmp_path):
    Image.new("F", (1, 1), 0.5).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"float\.tif: is not a complete image \(floating-point"):
        read_image(tmp_path / "float.tif")


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 400),
    st.binary(min_size=1, max_size=6),
    st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF"]),
)
def test_a_damaged_image_is_read_or_one_line(tmp_path_factory, place, bytes_, kind):
    path = tmp_path_factory.getbasetemp() / "damaged"
    Image.effect_noise((12, 9), 80).convert("RGB").save(path, format=kind)
    content = bytearray(path.read_bytes())
    content[place : place + len(bytes_)] = bytes_
    path.write_bytes(content)
    try:
        assert read_image(path).mode == "RGB"
    except UserError as error:
        assert "\n" not in str(error)
