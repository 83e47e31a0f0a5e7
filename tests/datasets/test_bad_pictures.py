"""A picture file is read, or refused by one line that names it."""

import random
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from trn_plugin.errors import DataError
from trn_plugin.geometry import read_image


def scene():
    """A smooth (48, 64, 3) picture, RGB."""
    noise = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (64, 48), interpolation=cv2.INTER_CUBIC)


def png(width, height, depth=8, kind=2, pixels=bytes(999)):
    """A PNG whose header gives this size of RGB; by default it holds almost no pixels."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def with_exif_turn(path, image):
    picture = Image.fromarray(image)
    exif = picture.getexif()
    exif[274] = 6  # a camera held upright: rotate clockwise by 90 degrees
    picture.save(path, exif=exif, quality=95)


GOOD = {
    "rgb.jpg": lambda p, x: Image.fromarray(x).save(p, quality=95),
    "progressive.jpg": lambda p, x: Image.fromarray(x).save(p, quality=95, progressive=True),
    "cmyk.jpg": lambda p, x: Image.fromarray(x).convert("CMYK").save(p, quality=95),
    "16-bit.png": lambda p, x: cv2.imwrite(str(p), x[:, :, ::-1].astype(np.uint16) * 257),
    "16-bit.tif": lambda p, x: cv2.imwrite(str(p), x[:, :, ::-1].astype(np.uint16) * 257),
    "rgba.png": lambda p, x: Image.fromarray(x).convert("RGBA").save(p),
    "animated.webp": lambda p, x: Image.fromarray(x).save(
        p, save_all=True, append_images=[Image.fromarray(255 - x)], lossless=True
    ),
    "animated.png": lambda p, x: Image.fromarray(x).save(
        p, save_all=True, append_images=[Image.fromarray(255 - x)]
    ),
    "name is wrong.png": lambda p, x: Image.fromarray(x).save(p, format="JPEG", quality=95),
    "grey.png": lambda p, x: Image.fromarray(x).convert("L").save(p),
    "turned.jpg": with_exif_turn,
}


@pytest.mark.parametrize("name", GOOD)
def test_kinds_of_pictures(tmp_path, name):
    image = scene()
    GOOD[name](tmp_path / name, image)
    if name == "grey.png":
        image = np.asarray(Image.fromarray(image).convert("L").convert("RGB"))
    if name == "turned.jpg":
        image = np.rot90(image, -1)
    found = read_image(str(tmp_path / name))
    assert found.shape == image.shape
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - image).mean() < 4


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("share", [0.02, 0.4, 0.97])
def test_truncated_pictures(tmp_path, name, share):
    if (name, share) == ("animated.png", 0.97):
        pytest.skip("its first picture is whole")
    path = tmp_path / name
    GOOD[name](path, scene())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"not a readable picture \(\d+ bytes\)"):
        read_image(str(path))


@pytest.mark.parametrize(
    "data",
    [b"", b"text", bytes(4000), b"<svg/>", png(60000, 60000), png(30000, 30000), png(0, 9)],
)
def test_files_that_are_no_pictures(tmp_path, data):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"picture\.png: not a readable picture"):
        read_image(str(path))


def fuzz_picture(path, rng):
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 20)):
        data[rng.randrange(min(len(data), rng.choice((30, 400, 10**9))))] = rng.randrange(256)
    path.write_bytes(data[: rng.randint(1, 2 * len(data))])
    try:
        image = read_image(str(path))
    except DataError as error:
        text = str(error)
    else:
        return image.ndim == 3 and image.dtype == np.uint8
    assert path.name in text
    assert "\n" not in text
    return False


@pytest.mark.parametrize("count", [5, pytest.param(300, marks=pytest.mark.slow)])
def test_damaged_pictures(tmp_path, count):
    good = 0
    for name, write in GOOD.items():
        rng = random.Random(name)
        for _ in range(count):
            write(tmp_path / name, scene())
            good += fuzz_picture(tmp_path / name, rng)
    assert 0 < good < count * len(GOOD)


def test_the_limit_of_pixels_holds_in_the_tools(tmp_path):
    """A whole picture of more than 2^28 pixels, read after all that the tools import."""
    side = 16_400
    path = tmp_path / "huge.png"
    path.write_bytes(png(side, side, depth=1, kind=0, pixels=bytes((side // 8 + 1) * side)))
    code = (
        "import trn_plugin.cli.config, sys\n"
        "from trn_plugin.geometry import read_image\n"
        "print(read_image(sys.argv[1]).shape)"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert run.returncode == 1
    assert "not a readable picture" in run.stderr
