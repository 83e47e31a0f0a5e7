"""Geometry of a cartoon head: ellipsoids, rotation, landmarks and orthographic projection.

Head coordinates of a frontal head: x to the picture's right, y down, z to the viewer; the head is
about 2 high.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "EYE_X",
    "EYE_Y",
    "Ellipsoid",
    "Face",
    "ellipsoids",
    "landmarks",
    "mouth_corner",
    "project",
    "rotation",
    "surface_depth",
]

EYE_X, EYE_Y = 0.3, -0.1


@dataclass
class Face:
    """A head. Angles in degrees; colours RGB, 0..255; lengths in head units.

    yaw > 0 turns the nose to the picture's right, pitch > 0 turns it down, roll > 0 turns the head
    clockwise.
    """

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    center: tuple[float, float] = (48.0, 48.0)
    scale: float = 30.0
    smile: float = 0.0
    glasses: str = ""
    long_hair: bool = False
    beard: float = 0.0
    jaw: float = 0.56
    brow: float = 0.05
    lips: tuple[float, float, float] = (170.0, 90.0, 90.0)
    skin: tuple[float, float, float] = (225.0, 180.0, 150.0)
    hair: tuple[float, float, float] = (70.0, 45.0, 30.0)
    iris: tuple[float, float, float] = (60.0, 80.0, 60.0)
    shirt: tuple[float, float, float] = (80.0, 90.0, 140.0)
    frame: tuple[float, float, float] = (30.0, 30.0, 30.0)
    light: tuple[float, float, float] = (-0.3, -0.4, 0.85)
    ambient: float = 0.5
    eye_open: float = 1.0
    gaze: float = 0.0
    nose: float = 1.0
    hairline: float = -0.5
    mouth_y: float = 0.5


def rotation(face: Face) -> np.ndarray:
    """(3, 3) from head to picture coordinates: yaw first, then pitch, then roll."""
    yaw, pitch, roll = np.radians([face.yaw, face.pitch, face.roll])
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(a), np.sin(a)) for a in (yaw, pitch, roll))
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return tilt @ nod @ turn


@dataclass
class Ellipsoid:
    """A part of the head, with axes along the head's."""

    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    material: str


def ellipsoids(face: Face) -> list[Ellipsoid]:
    """All parts; the first three are cranium, jaw and cheeks, the fifth the tip of the nose."""
    solids = [
        Ellipsoid((0, -0.25, -0.12), (0.72, 0.74, 0.84), "head"),
        Ellipsoid((0, 0.28, 0.0), (face.jaw, 0.68, 0.66), "head"),
        Ellipsoid((0, 0.02, -0.06), (0.665, 0.72, 0.755), "head"),
        Ellipsoid((0, 0.08, 0.66), (0.085 * face.nose, 0.26, 0.16), "head"),
        Ellipsoid((0, 0.2, 0.76), (0.13 * face.nose, 0.1, 0.14 * face.nose), "head"),
        Ellipsoid((-0.7, 0.0, -0.1), (0.09, 0.19, 0.13), "ear"),
        Ellipsoid((0.7, 0.0, -0.1), (0.09, 0.19, 0.13), "ear"),
        Ellipsoid((0, -0.38, -0.24), (0.78, 0.72, 0.82), "hair"),
        Ellipsoid((0, 1.0, -0.3), (0.34, 0.6, 0.34), "neck"),
        Ellipsoid((0, 1.95, -0.35), (1.35, 0.75, 0.6), "shirt"),
    ]
    if face.long_hair:
        solids += [
            Ellipsoid((0, 0.2, -0.45), (0.86, 1.05, 0.55), "hair"),
            Ellipsoid((-0.7, 0.3, -0.16), (0.19, 0.8, 0.3), "hair"),
            Ellipsoid((0.7, 0.3, -0.16), (0.19, 0.8, 0.3), "hair"),
        ]
    return solids


def surface_depth(face: Face, x: float, y: float) -> float:
    """z of the front surface of cranium, jaw and cheeks at (x, y)."""
    depths = []
    for solid in ellipsoids(face)[:3]:
        (cx, cy, cz), (rx, ry, rz) = solid.center, solid.radii
        squared = 1 - ((x - cx) / rx) ** 2 - ((y - cy) / ry) ** 2
        depths.append(cz + rz * np.sqrt(max(squared, 0.0)))
    return float(max(depths))


def mouth_corner(face: Face) -> tuple[float, float]:
    """x and y of the mouth's right corner."""
    return 0.2 + 0.07 * face.smile, face.mouth_y + 0.02 - 0.1 * face.smile


def landmarks(face: Face) -> np.ndarray:
    """(5, 2) in pixels: left and right eye, nose tip, left and right mouth corner."""
    half, corner = mouth_corner(face)
    nose = ellipsoids(face)[4]
    points = [(sign * EYE_X, EYE_Y, surface_depth(face, EYE_X, EYE_Y)) for sign in (-1, 1)]
    points.append((0, nose.center[1], nose.center[2] + nose.radii[2]))
    points += [(sign * half, corner, surface_depth(face, half, corner)) for sign in (-1, 1)]
    return project(face, np.array(points))[:, :2]


def project(face: Face, points: np.ndarray) -> np.ndarray:
    """Head points (N, 3) as x and y in pixels and depth in head units."""
    turned = points @ rotation(face).T
    turned[:, :2] = turned[:, :2] * face.scale + np.array(face.center)
    return turned
