import cv2
import numpy as np
import pytest
from PIL import Image

from trn_plugin.datasets import (
    CropResize,
    LoadCrop,
    LoadImage,
)
from trn_plugin.errors import ConfigError, DataError, PictureError
from trn_plugin.geometry import jpeg_size
from trn_plugin.tasks import read_tasks


def slopes(width, height):
    """A picture whose red and green encode the position of each pixel's centre."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    values = np.stack([255 * x / width, 255 * y / height, np.full_like(x, 90)], axis=-1)
    return np.rint(values).astype(np.uint8)


def save(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return str(path)


def results(path, box, points=(), drawn=True):
    tasks = dict(points=dict(kind="landmarks", names=list("abcdef")))
    return dict(
        img_path=path,
        box=box,
        box_sampled=drawn,
        gt=dict(points=np.array(points, dtype=float).reshape(-1, 2)),
        tasks=read_tasks(tasks),
        sample_idx=0,
    )


def random_boxes(width, height, count=40, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        side = int(rng.integers(20, max(width, height)))
        x0, y0 = rng.integers(-side // 3, (width - side // 2, height - side // 2))
        yield int(x0), int(y0), int(x0) + side, int(y0) + side


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_equals_load_image_and_crop_resize_up_to_rounding(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)
    path = save(tmp_path / f"a.{suffix}", noise)
    for size in (24, (40, 30), 150):
        for box in random_boxes(130, 90, 10):
            ours = LoadCrop(size)(results(path, box, [[5, 6]]))
            theirs = CropResize(size)(LoadImage()(results(path, box, [[5, 6]])))
            assert ours["img"].dtype == np.uint8
            assert np.abs(ours["img"] - theirs["img"]).max() < 1.01
            np.testing.assert_array_equal(ours["gt"]["points"], theirs["gt"]["points"])
            for key in ("box", "ori_shape", "crop_shape"):
                assert ours[key] == theirs[key]


@pytest.mark.parametrize("size", [16, 32, (20, 40)])
def test_reduced_pictures_keep_every_pixel_in_its_place(tmp_path, size):
    width, height = 301, 407
    path = save(tmp_path / "a.jpg", slopes(width, height), quality=98, subsampling=0)
    rows, columns = (size, size) if isinstance(size, int) else size
    shifts = {}
    transform = LoadCrop(size, reduced=True)
    for box in random_boxes(width, height):
        picture = transform._read(results(path, box), (rows, columns))
        out = transform(results(path, box))
        r = picture.reduction
        x0, y0, x1, y1 = out["box"]
        assert np.abs(np.subtract(out["box"], box)).max() <= r / 2
        assert r == 1 or ((x1 - x0) // r >= columns and (y1 - y0) // r >= rows)
        assert out["ori_shape"] == (height, width)
        x = x0 + (np.arange(columns) + 0.5) * (x1 - x0) / columns
        y = y0 + (np.arange(rows) + 0.5) * (y1 - y0) / rows
        margin = 2 * max((x1 - x0) / columns, (y1 - y0) / rows) + 8  # the edge's and its blocks'
        inside = ((y > margin) & (y < height - margin))[:, None] & (
            (x > margin) & (x < width - margin)
        )
        red, green = (out["img"][..., channel].astype(float) for channel in (0, 1))
        if inside.sum() < 60:  # too few to average the grey levels' rounding
            continue
        shifts.setdefault(r, []).append(
            (
                (red * width / 255 - x)[inside].mean(),
                (green * height / 255 - y[:, None])[inside].mean(),
            )
        )
    assert shifts.keys() >= {1, 2, 4}
    for r, pixels in shifts.items():
        # a crop that is off by one reduced pixel, or a label by half a one, is off by r / 2
        assert np.abs(np.mean(pixels, axis=0)).max() < 0.2 * r


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("size", [24, (60, 40), 300])
def test_landmarks_follow_rotated_boxes(tmp_path, size, reduced):
    """At a landmark's new position the crop shows the picture at its old position."""
    width, height = 301, 407
    path = save(tmp_path / "a.jpg", slopes(width, height), quality=98, subsampling=0)
    transform = LoadCrop(size, rotate=40, scale=(0.7, 1.4), shift=0.2, reduced=reduced)
    grid = np.stack(np.meshgrid(np.arange(10, 295, 6), np.arange(10, 400, 6)), -1).reshape(-1, 2)
    errors = []
    for i, box in enumerate(random_boxes(width, height, 25)):
        given = dict(results(path, box, grid + 0.5), rng=np.random.default_rng(i))
        out = transform(given)
        rows, columns = out["crop_shape"]
        place = out["gt"]["points"] * (columns, rows) - 0.5
        inside = ((place > 1) & (place < (columns - 2, rows - 2))).all(axis=1)
        edge = 3 * 1.4 * (box[2] - box[0]) / min(rows, columns)  # black may be mixed in there
        inside &= ((grid > edge) & (grid < np.subtract((width, height), edge))).all(axis=1)
        x, y = place[inside].astype(np.float32).T
        if not x.size:
            continue
        seen = cv2.remap(out["img"], x[None], y[None], cv2.INTER_LINEAR)[0].astype(float)
        shown = seen[:, :2] * (width / 255, height / 255)
        errors.append(np.abs(shown - grid[inside] - 0.5).mean(axis=0))
    errors = np.array(errors)
    assert len(errors) > 15
    assert np.median(errors) < 1.0  # pixels of the picture; a grey level is 1.2 and 1.6 of them
    assert errors.max() < 2


def test_rotated_boxes_stay_within_their_limits(tmp_path):
    path = save(tmp_path / "a.png", slopes(200, 100))
    box = (40, 10, 120, 70)
    corners = np.array([[40, 10], [120, 10], [120, 70], [40, 70], [80, 40]])
    transform = LoadCrop(20, rotate=30, scale=(0.8, 1.5), shift=0.1)
    turns, factors, moves = [], [], []
    for seed in range(200):
        out = transform(dict(results(path, box, corners), rng=np.random.default_rng(seed)))
        assert out["box"] == box
        square = (out["gt"]["points"] - 0.5) * (80, 60)  # up to the factor, in pixels
        across = square[1] - square[0]
        turns.append(np.degrees(np.arctan2(across[1], across[0])))
        factors.append(80 / np.hypot(*across))
        moves.append(np.hypot(*square[4]) * factors[-1])
        up = square[3] - square[0]
        assert abs(across @ up) < 1e-6  # right angles stay
        assert np.hypot(*up) * factors[-1] == pytest.approx(60)
    assert 25 < max(turns) <= 30
    assert -30 <= min(turns) < -25
    assert 0.8 <= min(factors) < 0.85
    assert 1.45 < max(factors) <= 1.5
    assert max(moves) <= np.hypot(8, 6) + 1e-6
    assert min(moves) < 1


def test_what_lies_outside_the_upright_box_is_shown(tmp_path):
    path = save(tmp_path / "a.png", np.full((200, 200, 3), 200, dtype=np.uint8))
    transform = LoadCrop(32, rotate=45)
    for seed in range(20):
        given = dict(results(path, (70, 70, 130, 130)), rng=np.random.default_rng(seed))
        assert transform(given)["img"].min() == 200
    given = dict(results(path, (0, 0, 200, 200)), rng=np.random.default_rng(0))
    assert transform(given)["img"].min() == 0


def test_large_pictures_are_averaged_before_sampling(tmp_path):
    """Sampling single pixels of a fine pattern would alias."""
    pattern = np.indices((512, 512)).sum(axis=0) % 2 * 255
    path = save(tmp_path / "a.png", np.repeat(pattern[..., None], 3, -1).astype(np.uint8))
    given = dict(results(path, (64, 64, 448, 448)), rng=np.random.default_rng(0))
    image = LoadCrop(32, rotate=20)(given)["img"].astype(int)
    assert np.abs(image - 127).max() < 20


@pytest.mark.parametrize("kind", ["plain", "turned", "grey", "progressive", "png"])
def test_whole_pictures_of_every_kind(tmp_path, kind):
    image = slopes(203, 331)
    path, options = tmp_path / "a.jpg", dict(quality=95)
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    if kind == "grey":
        image = image[..., 0]
    if kind == "progressive":
        options["progressive"] = True
    if kind == "png":
        path, options = tmp_path / "a.png", {}
    save(path, image, **options)
    box = LoadImage()(results(str(path), None))["ori_shape"][::-1]
    full = CropResize(32)(LoadImage()(results(str(path), (0, 0, *box))))
    out = LoadCrop(32, reduced=True)(results(str(path), None))
    assert out["ori_shape"] == full["ori_shape"] == ((203, 331) if kind == "turned" else (331, 203))
    assert np.abs(np.subtract(out["box"], (0, 0, *box))).max() <= 4
    assert np.abs(out["img"] - full["img"]).mean() < 3


def test_sizes_in_headers(tmp_path):
    for i, (width, height) in enumerate([(8, 300), (301, 5), (77, 78)]):
        path = save(tmp_path / f"{i}.jpg", slopes(width, height), progressive=bool(i % 2))
        assert jpeg_size(np.fromfile(path, np.uint8)) == (width, height)
    data = np.fromfile(path, np.uint8)
    for length in (0, 1, 2, 5, 20, 100):
        assert jpeg_size(data[:length]) is None
    rng = np.random.default_rng(0)
    for _ in range(200):  # it returns for any content
        jpeg_size(np.concatenate([data[:2], rng.integers(0, 256, 300).astype(np.uint8)]))
    assert jpeg_size(np.frombuffer(b"\x89PNG\r\n\x1a\n" + bytes(50), np.uint8)) is None


@pytest.mark.parametrize(
    "options",
    [dict(rotate=-1), dict(rotate="10"), dict(shift=0.6), dict(scale=1.0), dict(scale=(1.1, 0.9))],
)
def test_unusable_options(options):
    with pytest.raises(ConfigError, match=rf"^LoadCrop\.{next(iter(options))}: expected"):
        LoadCrop(8, **options)


def test_boxes_of_other_transforms(tmp_path):
    given = results(save(tmp_path / "a.png", slopes(60, 40)), (0, 0, 40, 40))
    del given["box_sampled"]
    transform = LoadCrop(20, cache_gb=0.01)
    transform.open(1)
    first = transform(dict(given))["img"]
    np.testing.assert_array_equal(transform(dict(given))["img"], first)
    other = transform(dict(given, box=(20, 0, 60, 40)))["img"]  # not the first from the cache
    assert np.abs(other.astype(int) - first).max() > 20


def test_mistakes(tmp_path):
    path = save(tmp_path / "a.jpg", slopes(60, 60))
    with pytest.raises(ConfigError, match="LoadCrop: put it after FaceBox"):
        LoadCrop(8)(dict(img_path=path))
    with pytest.raises(ConfigError, match="input_size"):
        LoadCrop()(results(path, None))
    with pytest.raises(ConfigError, match=r"LoadCrop\.cache_gb: .*-1"):
        LoadCrop(8, cache_gb=-1)
    with pytest.raises(DataError, match=r"outside the picture of 60 x 60"):
        LoadCrop(8, reduced=True)(results(path, (61, 0, 160, 99)))
    with pytest.raises(PictureError, match="No such file"):
        LoadCrop(8)(results(str(tmp_path / "b.jpg"), None))
    cv2.imwrite(path, cv2.imread(path))
    with open(path, "r+b") as file:
        file.truncate(400)
    with pytest.raises(PictureError, match="not a readable picture"):
        LoadCrop(8, reduced=True)(results(path, None))
