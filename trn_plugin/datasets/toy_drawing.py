"""Render a cartoon face: a textured, lit head of ellipsoids in orthographic projection."""

from __future__ import annotations

import cv2
import numpy as np

from trn_plugin.datasets.toy_head import (
    EYE_X,
    EYE_Y,
    Ellipsoid,
    Face,
    ellipsoids,
    mouth_corner,
    project,
    rotation,
    surface_depth,
)

__all__ = ["draw_face"]

SUPERSAMPLING = 1.5
TEXTURE = 192  # side in pixels
TEXTURE_SPAN = 1.15  # half the side in head units
FIXED_POINT = 4  # fractional bits of OpenCV's coordinates


def draw_face(image: np.ndarray, face: Face) -> np.ndarray:
    """A copy of ``image`` (H, W, 3) uint8 RGB with ``face`` drawn on it."""
    height, width = image.shape[:2]
    size = (round(width * SUPERSAMPLING), round(height * SUPERSAMPLING))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR).astype(np.float32)
    depth = np.full(canvas.shape[:2], -np.inf, dtype=np.float32)
    texture = _texture(face)
    light = np.array(face.light) / np.linalg.norm(face.light)
    for solid in ellipsoids(face):
        _draw_solid(canvas, depth, face, solid, texture, light)
    if face.glasses:
        _draw_glasses(canvas, depth, face)
    canvas = np.clip(canvas, 0, 255).astype(np.uint8)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)


def _draw_solid(
    canvas: np.ndarray,
    depth: np.ndarray,
    face: Face,
    solid: Ellipsoid,
    texture: np.ndarray,
    light: np.ndarray,
) -> None:
    turn = rotation(face)
    radii = np.array(solid.radii)
    unit = SUPERSAMPLING * face.scale
    middle = turn @ np.array(solid.center)
    half = np.sqrt(((turn[:2] * radii) ** 2).sum(axis=1))
    origin = np.array(face.center) * SUPERSAMPLING
    low = np.floor(origin + (middle[:2] - half) * unit).astype(int)
    high = np.ceil(origin + (middle[:2] + half) * unit).astype(int) + 1
    x0, y0 = np.maximum(low, 0)
    x1, y1 = np.minimum(high, [canvas.shape[1], canvas.shape[0]])
    if x0 >= x1 or y0 >= y1:
        return

    # Ray casting: a pixel's ray meets the rotated ellipsoid where |offset + z direction| = 1.
    xs = ((np.arange(x0, x1) + 0.5 - origin[0]) / unit - middle[0]).astype(np.float32)
    ys = ((np.arange(y0, y1) + 0.5 - origin[1]) / unit - middle[1]).astype(np.float32)
    across, down, direction = (turn.T / radii[:, None]).astype(np.float32).T
    a = direction @ direction
    b = xs * (across @ direction) + ys[:, None] * (down @ direction)
    square = xs * xs * (across @ across) + (ys * ys * (down @ down))[:, None] - 1
    square += ys[:, None] * (xs * (2 * (across @ down)))
    root = b * b - a * square
    z = (np.sqrt(np.maximum(root, 0)) - b) / a
    front = depth[y0:y1, x0:x1]
    rows, columns = np.nonzero((root > 0) & (z + np.float32(middle[2]) > front))
    if not len(rows):
        return

    z = z[rows, columns][:, None]
    front[rows, columns] = z[:, 0] + middle[2]
    sphere = xs[columns][:, None] * across + ys[rows][:, None] * down + z * direction
    points = sphere * radii.astype(np.float32) + np.array(solid.center, dtype=np.float32)
    normals = sphere / radii.astype(np.float32)
    length = np.sqrt(np.einsum("ij,ij->i", normals, normals))
    towards = normals @ (turn.T @ light).astype(np.float32) / length
    shade = face.ambient + (1 - face.ambient) * np.maximum(towards, 0)
    colour = _colour(face, solid, points, texture)
    canvas[y0:y1, x0:x1][rows, columns] = colour * shade[:, None]


def _colour(face: Face, solid: Ellipsoid, points: np.ndarray, texture: np.ndarray) -> np.ndarray:
    if solid.material == "head":
        places = ((points[:, :2] / TEXTURE_SPAN + 1) * (TEXTURE / 2) - 0.5).astype(np.float32)
        colour = cv2.remap(
            texture, places[:, None], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )[:, 0].astype(np.float32)
        colour[points[:, 2] < -0.15] = np.array(face.skin) * 0.8
        return colour
    if solid.material == "hair":
        strands = 1 + 0.18 * np.sin(27 * points[:, 0] + 5 * np.sin(6 * points[:, 1]))
        return np.array(face.hair) * strands[:, None]
    if solid.material == "ear":
        return np.array(face.skin) * np.float32(0.9) * np.ones((len(points), 1))
    base = np.array(face.skin) * 0.72 if solid.material == "neck" else np.array(face.shirt)
    return base * np.ones((len(points), 1))


def _texture(face: Face) -> np.ndarray:
    """(TEXTURE, TEXTURE, 3) uint8: the unlit frontal face."""
    texture = np.empty((TEXTURE, TEXTURE, 3), dtype=np.uint8)
    texture[:] = np.clip(face.skin, 0, 255)
    skin = np.array(face.skin)

    def fill(points: np.ndarray, colour: np.ndarray | tuple) -> None:
        cv2.fillPoly(texture, [_texture_pixels(points)], _scalar(colour), cv2.LINE_AA, FIXED_POINT)

    def line(points: np.ndarray, colour: np.ndarray | tuple, thickness: float) -> None:
        pixels = max(1, round(thickness * TEXTURE / (2 * TEXTURE_SPAN)))
        cv2.polylines(
            texture,
            [_texture_pixels(points)],
            False,
            _scalar(colour),
            pixels,
            cv2.LINE_AA,
            FIXED_POINT,
        )

    for sign in (-1, 1):
        fill(_ellipse(sign * 0.36, 0.24, 0.15, 0.12), skin * (1, 0.92, 0.9))
    if face.beard > 0:
        tint = skin * (1 - face.beard) + np.array(face.hair) * face.beard
        fill(_band([(-0.75, 0.1), (-0.5, 0.3), (-0.22, 0.36), (0, 0.34)], 1.2), tint)
    for sign in (-1, 1):
        eye = _ellipse(sign * EYE_X, EYE_Y, 0.125, 0.07 * face.eye_open)
        fill(_ellipse(sign * EYE_X, EYE_Y, 0.155, 0.095), skin * 0.85)
        fill(eye, (240, 240, 238))
        pupil = sign * EYE_X + 0.05 * face.gaze
        fill(_ellipse(pupil, EYE_Y, 0.06, min(0.06, 0.07 * face.eye_open)), face.iris)
        fill(_ellipse(pupil, EYE_Y, 0.028, min(0.028, 0.06 * face.eye_open)), (15, 15, 15))
        line(eye[len(eye) // 2 :], (40, 25, 20), 0.03)
        brow = np.array([(0.14, -0.26), (0.28, -0.33), (0.46, -0.27)]) * (sign, 1)
        line(brow, np.array(face.hair) * 0.8, face.brow)
        fill(_ellipse(sign * 0.055, 0.275, 0.03, 0.02), skin * 0.45)
    _paint_mouth(face, fill, line)
    top = face.hairline
    fringe = [(-1.2, -0.1), (-0.7, -0.12), (-0.56, top + 0.12), (-0.3, top), (0, top - 0.04)]
    fill(_band(fringe, -1.3), face.hair)
    return cv2.GaussianBlur(texture, (3, 3), 0)


def _paint_mouth(face: Face, fill, line) -> None:
    half, corner = mouth_corner(face)
    middle = face.mouth_y + 0.03 * face.smile
    xs = np.linspace(-1, 1, 15)
    bow = 1 - xs**2
    upper = corner + (middle - corner) * bow
    lower = upper + 0.13 * face.smile * bow
    outline = np.concatenate(
        [
            np.stack([xs * half, upper - 0.045 * bow], axis=1),
            np.stack([xs * half, lower + 0.06 * bow], axis=1)[::-1],
        ]
    )
    fill(outline, face.lips)
    if face.smile > 0.3:
        inside = np.concatenate(
            [np.stack([xs * half, upper], axis=1), np.stack([xs * half, lower], axis=1)[::-1]]
        )
        fill(inside, (240, 236, 228))
    line(np.stack([xs * half, upper], axis=1), np.array(face.lips) * 0.4, 0.022)


def _draw_glasses(canvas: np.ndarray, depth: np.ndarray, face: Face) -> None:
    z = surface_depth(face, EYE_X, EYE_Y) + 0.12
    angles = np.linspace(0, 2 * np.pi, 33)
    square = 0.6 if face.glasses == "square" else 1.0
    for sign in (-1, 1):
        ring = np.stack(
            [
                sign * EYE_X + 0.21 * np.sign(np.cos(angles)) * np.abs(np.cos(angles)) ** square,
                EYE_Y + 0.17 * np.sign(np.sin(angles)) * np.abs(np.sin(angles)) ** square,
                np.full(33, z),
            ],
            axis=1,
        )
        if face.glasses == "dark":
            lens = np.zeros(depth.shape, dtype=np.uint8)
            cv2.fillPoly(lens, [_picture_pixels(face, ring)], 1, cv2.LINE_8, FIXED_POINT)
            near = project(face, ring)[:, 2].mean()
            canvas[(lens > 0) & (depth < near)] = (28, 26, 30)
        _draw_rod(canvas, depth, face, ring)
        temple = np.linspace((sign * (EYE_X + 0.21), EYE_Y, z), (sign * 0.76, -0.1, -0.15), 16)
        _draw_rod(canvas, depth, face, temple)
    end = np.array([EYE_X - 0.21, EYE_Y - 0.03, z + 0.06])
    _draw_rod(canvas, depth, face, np.linspace(end * (-1, 1, 1), end, 4))


def _draw_rod(canvas: np.ndarray, depth: np.ndarray, face: Face, points: np.ndarray) -> None:
    """Draw a line through head points, hidden behind the head."""
    projected = project(face, points)
    pixels = np.floor(projected[:, :2] * SUPERSAMPLING).astype(int)
    inside = ((pixels >= 0) & (pixels < np.array(depth.shape)[::-1])).all(axis=1)
    pixels = np.clip(pixels, 0, np.array(depth.shape)[::-1] - 1)
    visible = inside & (projected[:, 2] > depth[pixels[:, 1], pixels[:, 0]] - 0.05)
    places = _picture_pixels(face, points)
    thickness = max(1, round(0.035 * face.scale * SUPERSAMPLING))
    for i in np.nonzero(visible[:-1] & visible[1:])[0]:
        start, end = (tuple(int(v) for v in places[j]) for j in (i, i + 1))
        cv2.line(canvas, start, end, face.frame, thickness, cv2.LINE_8, FIXED_POINT)


def _picture_pixels(face: Face, points: np.ndarray) -> np.ndarray:
    """Head points (N, 3) as fixed-point pixels of the supersampled picture."""
    pixels = project(face, points)[:, :2] * SUPERSAMPLING - 0.5
    return np.round(pixels * 2**FIXED_POINT).astype(np.int32)


def _texture_pixels(points: np.ndarray) -> np.ndarray:
    """Frontal head points (N, 2) as fixed-point pixels of the texture."""
    pixels = (np.asarray(points) / TEXTURE_SPAN + 1) * (TEXTURE / 2) - 0.5
    return np.round(pixels * 2**FIXED_POINT).astype(np.int32)


def _ellipse(x: float, y: float, half_width: float, half_height: float) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + half_width * np.cos(angles), y + half_height * np.sin(angles)], axis=1)


def _band(left: list[tuple[float, float]], edge: float) -> np.ndarray:
    """Polygon between a symmetric line, given by its left half, and y = ``edge``."""
    border = left + [(-x, y) for x, y in left[-2::-1]]
    return np.array([*border, (-left[0][0], edge), (left[0][0], edge)])


def _scalar(colour: np.ndarray | tuple) -> tuple[float, ...]:
    return tuple(float(value) for value in np.clip(colour, 0, 255))
