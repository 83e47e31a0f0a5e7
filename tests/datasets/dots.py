"""Pictures of dots, whose positions are known."""

import numpy as np

from trn_plugin.datasets.transforms import CropResize

POINTS = np.array([[30.0, 35], [66, 30], [50, 52], [36, 70], [60, 68]])
INNER = np.array([[32.0, 33], [67, 30], [50, 51], [33, 68], [69, 66]])


def dots(shape, points, radius=2.5):
    """A black picture with a soft dot of a level of its own around each point."""
    height, width = shape
    ys, xs = np.mgrid[:height, :width] + 0.5
    image = np.zeros((*shape, 3))
    for x, y in points:
        image += np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * radius**2))[..., None]
    return np.round(255 * image.clip(0, 1)).astype(np.uint8)


def centroid(image, point, reach=8):
    """Centre of brightness around ``point``, in pixels counted from the outer edge."""
    height, width = image.shape[:2]
    ys, xs = np.mgrid[:height, :width] + 0.5
    weights = image[..., 0] * (np.hypot(xs - point[0], ys - point[1]) < reach)
    return np.array([(weights * xs).sum(), (weights * ys).sum()]) / weights.sum()


def assert_points_on_dots(results, tolerance=0.5):
    height, width = results["img"].shape[:2]
    for point in results["gt"]["landmarks"] * (width, height):
        assert np.hypot(*(centroid(results["img"], point) - point)) < tolerance


def cropped(make_results, points=POINTS, shape=(100, 100), size=(100, 100), box=None, **kwargs):
    results = make_results(dots(shape, points), points, **kwargs)
    results["box"] = box or (0, 0, shape[1], shape[0])
    return CropResize(list(size))(results)
