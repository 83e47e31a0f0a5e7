"""Augmentation by albumentations, landmarks carried along."""

from __future__ import annotations

import copy
import inspect
import os
import random
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from trn_plugin.datasets.transforms import _distortions
from trn_plugin.datasets.transforms._cropped import require_crop
from trn_plugin.errors import ConfigError
from trn_plugin.registry import TRANSFORMS

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network when imported

import albumentations
from albumentations.core.composition import BaseCompose
from albumentations.core.transforms_interface import BasicTransform

__all__ = ["Albumentations"]

PROBES = 24  # times that a transform is tried when it is built
PROBED_SIDE = 64


@TRANSFORMS.register_module()
class Albumentations:
    """Run albumentations on the crop, rounded to uint8, and carry the landmarks along.

    Landmarks are handed over as pixel indices (x W - 0.5: fractions count from the outer edge of
    the first pixel, indices from its middle) and none is dropped when it leaves the picture. Each
    call is seeded from the sample's ``rng``. Belongs after `CropResize`.

    Distortions take landmarks along by a search in their maps; ``keypoint_remapping_method`` is
    not read. A data set ``without`` 'turn' leaves out the transforms that move landmarks, one
    ``without`` 'colour' the others; a group (``OneOf`` and the like) of both kinds is refused then.

    Args:
        transforms: one dict a transform, its ``type`` a class of albumentations and the rest its
            arguments; ``OneOf`` and the like take ``transforms`` of their own.

    Raises:
        ConfigError: for an unknown name or argument, a value that albumentations refuses, a
            transform that mirrors (it would not swap left and right labels: use `RandomFlip`),
            drops landmarks, or changes the size or type of the picture (use `CropResize`).
    """

    def __init__(self, transforms: Sequence[dict]) -> None:
        self.config = list(transforms)
        built = [_build(config, f"transforms[{i}]") for i, config in enumerate(self.config)]
        self.python_rng = random.Random()
        self.moving = [_moves(transform) for transform in built]
        self.mixed = [i for i, transform in enumerate(built) if len(_words(transform)) > 1]
        points = albumentations.KeypointParams(format="xy", remove_invisible=False)
        with warnings.catch_warnings():
            # Transforms of pixels only are no reason to warn.
            warnings.filterwarnings("ignore", message="Got processor for keypoints")
            self.compose = albumentations.Compose(built, keypoint_params=points)

    def __call__(self, results: dict) -> dict:
        height, width = require_crop(results, "Albumentations")
        image, gt = results["img"], results["gt"]
        if image.dtype != np.uint8:
            image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        size = np.array([width, height])
        without = results.get("without", ())
        if self.mixed and ("turn" in without) != ("colour" in without):
            group = self.config[self.mixed[0]]["type"]
            raise ConfigError(
                f"Albumentations.transforms[{self.mixed[0]}]: {group} holds both transforms that "
                f"move landmarks and others, of which 'without' ({', '.join(sorted(without))}) "
                "leaves out one kind: take them apart"
            )
        moves = any(self.moving) and "turn" not in without
        found = {name: results["tasks"][name].points(gt[name]) for name in gt if moves}
        tasks = [name for name, own in found.items() if len(own)]
        points = [np.asarray(found[name], dtype=np.float64) * size - 0.5 for name in tasks]
        self._seed(results["rng"])
        out = {"image": image}
        if points:
            # x, y, z, angle, scale: what Compose hands to its transforms, at half its cost
            out["keypoints"] = np.zeros((sum(map(len, points)), 5), dtype=np.float32)
            out["keypoints"][:, :2] = np.concatenate(points)
        for transform, turns in zip(self.compose.transforms, self.moving, strict=True):
            if ("turn" if turns else "colour") not in without:
                out = transform(**out)
        if out["image"].shape != image.shape or out["image"].dtype != image.dtype:
            raise ConfigError(
                f"Albumentations: the picture went in as {image.shape} {image.dtype} and came out "
                f"as {out['image'].shape} {out['image'].dtype}; sizes are CropResize's business"
            )
        results["img"] = out["image"]
        if tasks:
            moved = np.asarray(out["keypoints"], dtype=np.float64)[:, :2]
            counts = [len(group) for group in points]
            if len(moved) != sum(counts):
                raise ConfigError(
                    f"Albumentations: {sum(counts)} landmarks went in, {len(moved)} came out"
                )
            groups = np.split((moved + 0.5) / size, np.cumsum(counts)[:-1])
            changed = {
                name: results["tasks"][name].with_points(gt[name], group)
                for name, group in zip(tasks, groups, strict=True)
            }
            results["gt"] = {**gt, **changed}
        return results

    def _seed(self, rng: np.random.Generator) -> None:
        if self.compose.random_generator is not rng:
            self.compose.set_random_state(rng, self.python_rng)
        self.python_rng.seed(int(rng.integers(2**63)))
        cv2.setRNGSeed(int(rng.integers(2**31)))

    def __repr__(self) -> str:
        return f"Albumentations({self.config})"


def _build(config: dict, path: str) -> BasicTransform | BaseCompose:
    where = f"Albumentations.{path}"
    if not hasattr(config, "items") or not isinstance(config.get("type"), str):
        raise ConfigError(f"{where}: expected a dict with a 'type', found {config!r}")
    arguments: dict[str, Any] = dict(config)
    name = arguments.pop("type")
    transform = getattr(_distortions, name, getattr(albumentations, name, None))
    if not (isinstance(transform, type) and issubclass(transform, (BasicTransform, BaseCompose))):
        raise ConfigError(f"{where}: albumentations has no transform {name!r}")
    known = [key for key in inspect.signature(transform).parameters if key != "strict"]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise ConfigError(f"{where}: {name} takes no {unknown}; it takes {known}")
    if issubclass(transform, BaseCompose):
        arguments["transforms"] = [
            _build(child, f"{path}.transforms[{i}]")
            for i, child in enumerate(arguments.get("transforms", ()))
        ]
    elif _is_validated(transform):
        arguments["strict"] = True  # or values that cannot be used become the defaults
    try:
        built = transform(**arguments)
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"{where}: {name}: {text}") from None
    if isinstance(built, BasicTransform) and _moves(built):
        _check_points(built, _least(arguments.get("scale")) < 0, f"{where}: {name}")
    return built


def _check_points(transform: BasicTransform, mirrors: bool, where: str) -> None:
    """Refuse what mirrors or drops landmarks, as found when it is tried on a grid of them.

    Raises:
        ConfigError: naming ``where``.
    """
    tried = copy.deepcopy(transform)
    tried.p = 1.0
    places = np.linspace(2, PROBED_SIDE - 3, 6)
    points = np.zeros((36, 5), dtype=np.float32)
    points[:, :2] = np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)
    image = np.zeros((PROBED_SIDE, PROBED_SIDE, 3), dtype=np.uint8)
    image[::2, ::3] = 255
    generators = np.random.default_rng(0), random.Random(0)
    for _ in range(PROBES):
        tried.set_random_state(*generators)
        try:
            moved = np.asarray(tried(image=image, keypoints=points.copy())["keypoints"])
        except Exception:  # of another size of picture, which the first sample will tell
            break
        if len(moved) != len(points):
            raise ConfigError(
                f"{where} drops landmarks: {len(points)} went in, {len(moved)} came out"
            )
        grid = moved[:, :2].reshape(6, 6, 2).astype(np.float64)
        right, down = np.diff(grid, axis=1)[:-1], np.diff(grid, axis=0)[:, :-1]
        turned = right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]
        mirrors |= bool((turned < 0).mean() > 0.5)
    if mirrors:
        raise ConfigError(
            f"{where} mirrors the picture but not its left and right labels; use RandomFlip"
        )


def _least(scale: object) -> float:
    """The lowest number in an argument that may be one, several, or some for each axis."""
    if isinstance(scale, Mapping):
        scale = list(scale.values())
    if isinstance(scale, (list, tuple)):
        return min(map(_least, scale), default=0.0)
    return float(scale) if isinstance(scale, (int, float)) else 0.0


def _moves(transform: BasicTransform | BaseCompose) -> bool:
    """Whether landmarks have to follow it; transforms of pixels alone leave them where they are."""
    return "turn" in _words(transform)


def _words(transform: BasicTransform | BaseCompose) -> set[str]:
    """'turn', 'colour' or both: what leaves out the transforms in it; ``NoOp`` is neither."""
    if isinstance(transform, BaseCompose):
        return set().union(*map(_words, transform.transforms))
    if type(transform) is albumentations.NoOp:
        return set()
    return {"colour" if isinstance(transform, albumentations.ImageOnlyTransform) else "turn"}


def _is_validated(transform: type) -> bool:
    """Whether albumentations checks the values against a schema."""
    owner = next(base for base in transform.__mro__ if "__init__" in vars(base))
    return "InitSchema" in vars(owner)
