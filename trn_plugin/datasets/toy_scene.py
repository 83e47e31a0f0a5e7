"""Sample a cartoon face with pose, light, background, occlusion and camera defects."""

from __future__ import annotations

import cv2
import numpy as np

from trn_plugin.datasets.mtfl_format import MTFLRow
from trn_plugin.datasets.toy_drawing import draw_face
from trn_plugin.datasets.toy_head import Face, landmarks

__all__ = ["SIDE", "random_picture"]

SIDE = 96
POSE_PROBABILITIES = (0.08, 0.17, 0.5, 0.17, 0.08)
YAW_EDGES = (-58.0, -33.0, -13.0, 13.0, 33.0, 58.0)
SKINS = ((238, 200, 175), (224, 176, 145), (198, 145, 108), (150, 103, 74), (96, 64, 48))
HAIRS = (
    (30, 24, 22),
    (62, 42, 30),
    (105, 70, 42),
    (160, 120, 70),
    (205, 175, 120),
    (140, 138, 136),
)
IRISES = ((60, 85, 60), (70, 100, 140), (80, 52, 32))


def random_picture(path: str, rng: np.random.Generator) -> tuple[np.ndarray, MTFLRow]:
    """A picture (SIDE, SIDE, 3) uint8 RGB, and its row with ``path``."""
    pose = int(rng.choice(5, p=POSE_PROBABILITIES))
    male, smiling, glasses = rng.random() < 0.55, rng.random() < 0.5, rng.random() < 0.22
    face = _random_face(rng, pose, male, smiling, glasses)
    points = landmarks(face)
    image = draw_face(_background(rng), face)
    image = _degrade(_occlude(image, points, rng), rng)
    labels = (1 if yes else 2 for yes in (male, smiling, glasses))
    return image, MTFLRow(path, tuple(points[:, 0]), tuple(points[:, 1]), *labels, pose + 1)


def _random_face(
    rng: np.random.Generator, pose: int, male: bool, smiling: bool, glasses: bool
) -> Face:
    skin = np.array(SKINS[rng.integers(len(SKINS))]) * rng.uniform(0.92, 1.06)
    long_hair = rng.random() < (0.08 if male else 0.75)
    bearded = male and rng.random() < 0.45
    lips = skin * (0.82, 0.66, 0.66) if male else skin * (0.86, 0.5, 0.54)
    face = Face(
        yaw=rng.uniform(YAW_EDGES[pose], YAW_EDGES[pose + 1]),
        pitch=float(np.clip(rng.normal(0, 10), -25, 25)),
        roll=float(np.clip(rng.normal(0, 10), -30, 30)),
        center=(0.0, 0.0),
        scale=rng.uniform(34, 52),
        smile=rng.uniform(0.45, 1.0) if smiling else rng.uniform(0.0, 0.28),
        glasses=str(rng.choice(["round", "square", "dark"], p=[0.35, 0.4, 0.25]))
        if glasses
        else "",
        long_hair=long_hair,
        beard=rng.uniform(0.2, 0.9) if bearded else 0.0,
        jaw=rng.uniform(0.53, 0.63) if male else rng.uniform(0.48, 0.56),
        brow=rng.uniform(0.045, 0.08) if male else rng.uniform(0.02, 0.05),
        lips=tuple(lips * rng.uniform(0.85, 1.1)),
        skin=tuple(skin),
        hair=tuple(np.array(HAIRS[rng.integers(len(HAIRS))]) * rng.uniform(0.8, 1.2)),
        iris=IRISES[rng.integers(len(IRISES))],
        shirt=tuple(rng.uniform(30, 230, 3)),
        frame=tuple(rng.uniform(10, 110, 3)),
        light=(rng.uniform(-1, 1), rng.uniform(-0.9, 0.3), rng.uniform(0.35, 1)),
        ambient=rng.uniform(0.25, 0.65),
        eye_open=rng.uniform(0.5, 1.1),
        gaze=rng.uniform(-1, 1),
        nose=rng.uniform(0.85, 1.2),
        hairline=rng.uniform(-0.62, -0.42),
        mouth_y=rng.uniform(0.46, 0.55),
    )
    points = landmarks(face)
    middle = SIDE / 2 + rng.uniform(-10, 10, 2)
    face.center = tuple(middle - (points.min(axis=0) + points.max(axis=0)) / 2)
    return face


def _background(rng: np.random.Generator) -> np.ndarray:
    corners = rng.uniform(20, 235, (2, 2, 3)).astype(np.float32)
    image = cv2.resize(corners, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    for _ in range(rng.integers(0, 9)):
        colour = tuple(rng.uniform(10, 245, 3))
        center, axes = rng.integers(0, SIDE, 2).tolist(), rng.integers(3, 30, 2).tolist()
        if rng.random() < 0.5:
            cv2.ellipse(image, center, axes, rng.uniform(0, 180), 0, 360, colour, -1)
        else:
            cv2.fillPoly(image, [_rectangle(center, axes, rng.uniform(0, 180))], colour)
    image = np.clip(image, 0, 255).astype(np.uint8)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 3))


def _rectangle(center: list[int], axes: list[int], degrees: float) -> np.ndarray:
    corners = cv2.boxPoints(((center[0], center[1]), (2 * axes[0], 2 * axes[1]), degrees))
    return np.round(corners).astype(np.int32)


def _occlude(image: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Hide a part of the face in every third picture."""
    if rng.random() > 0.33:
        return image
    center = np.round(points[rng.integers(len(points))] + rng.normal(0, 6, 2)).astype(int).tolist()
    axes = rng.integers(4, 15, 2).tolist()
    colour = np.array(SKINS[rng.integers(len(SKINS))]) if rng.random() < 0.5 else None
    colour = tuple(float(v) for v in (rng.uniform(10, 245, 3) if colour is None else colour))
    if rng.random() < 0.5:
        cv2.ellipse(image, center, axes, rng.uniform(0, 180), 0, 360, colour, -1, cv2.LINE_AA)
    else:
        cv2.fillPoly(image, [_rectangle(center, axes, rng.uniform(0, 180))], colour, cv2.LINE_AA)
    return image


def _degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Camera defects: uneven light, contrast, resolution, blur, greyscale and noise."""
    pixels = image.astype(np.float32)
    gains = rng.uniform(0.6, 1.2, (2, 2)).astype(np.float32)
    pixels *= cv2.resize(gains, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)[..., None]
    contrast = rng.uniform(0.4, 1.05)
    pixels = (pixels - 128) * contrast + 128 + rng.uniform(-45, 45) * (1.1 - contrast)
    if rng.random() < 0.35:
        small = int(SIDE * rng.uniform(0.3, 0.65))
        pixels = cv2.resize(pixels, (small, small), interpolation=cv2.INTER_AREA)
        pixels = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.5:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 1.8))
    if rng.random() < 0.15:
        pixels = cv2.filter2D(pixels, -1, _motion_kernel(rng.integers(3, 10), rng.uniform(0, 180)))
    if rng.random() < 0.15:
        pixels = pixels @ np.full((3, 3), 1 / 3, dtype=np.float32)
    pixels = pixels + rng.normal(0, rng.uniform(1, 10), pixels.shape)
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def _motion_kernel(length: int, degrees: float) -> np.ndarray:
    """(11, 11) motion-blur kernel."""
    kernel = np.zeros((11, 11), dtype=np.float32)
    half = length / 2 * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    start, end = (tuple(np.round(5 + sign * half).astype(int).tolist()) for sign in (-1, 1))
    cv2.line(kernel, start, end, 1.0)
    return kernel / kernel.sum()
