"""Augmentation by albumentations, with landmarks."""

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

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it makes a network request

import albumentations
from albumentations.core.composition import BaseCompose
from albumentations.core.transforms_interface import BasicTransform

__all__ = ["Albumentations"]

TRIALS = 24  # of each new transform, on a grid of points
TRIAL_SIDE = 64


@TRANSFORMS.register_module()
class Albumentations:
    """Apply albumentations to the crop, rounded to uint8, and to its landmarks.

    albumentations gets landmarks as pixel indices, x W - 0.5: fractions start at the edge of the
    first pixel, indices at its centre. Landmarks outside the picture are kept. The sample's ``rng``
    seeds each call. Belongs after `CropResize`.

    Distortions move landmarks by the inverse of their maps, whatever ``keypoint_remapping_method``
    says. A data set ``without`` 'turn' leaves out the transforms that move landmarks; ``without``
    'colour' leaves out the others. Leaving out one kind is an error if a group (such as ``OneOf``)
    mixes both.

    Args:
        transforms: a dict for each transform: ``type``, a class of albumentations, and its
            arguments; groups such as ``OneOf`` take nested ``transforms``.

    Raises:
        ConfigError: an unknown name or argument, a value that albumentations refuses, a transform
            that mirrors (it would not swap left and right labels: use `RandomFlip`), drops
            landmarks, or changes the size or type of the picture (use `CropResize`).
    """

    def __init__(self, transforms: Sequence[dict]) -> None:
        self.config = list(transforms)
        built = [_build(config, f"transforms[{i}]") for i, config in enumerate(self.config)]
        self.python_rng = random.Random()
        self.tried = False
        self.moving = [_moves_landmarks(transform) for transform in built]
        self.mixed = [i for i, transform in enumerate(built) if len(_kinds(transform)) > 1]
        points = albumentations.KeypointParams(format="xy", remove_invisible=False)
        with warnings.catch_warnings():
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
                f"Albumentations.transforms[{self.mixed[0]}]: {group} mixes transforms that "
                f"move landmarks with others, but 'without' ({', '.join(sorted(without))}) "
                "leaves out one kind: split the group"
            )
        moves = any(self.moving) and "turn" not in without
        found = {name: results["tasks"][name].points(gt[name]) for name in gt if moves}
        tasks = [name for name, points in found.items() if len(points)]
        points = [np.asarray(found[name], dtype=np.float64) * size - 0.5 for name in tasks]
        kinds = ["turn" if moving else "colour" for moving in self.moving]
        pairs = zip(self.compose.transforms, kinds, strict=True)
        transforms = [transform for transform, kind in pairs if kind not in without]
        self._try(transforms, image)
        self._seed(results["rng"])
        out = {"image": image}
        if points:
            # x, y, z, angle, scale: Compose's own format, at half its cost
            out["keypoints"] = np.zeros((sum(map(len, points)), 5), dtype=np.float32)
            out["keypoints"][:, :2] = np.concatenate(points)
        for transform in transforms:
            out = transform(**out)
        _check_picture(image, out["image"])
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

    def _try(self, transforms: list, image: np.ndarray) -> None:
        """At the first picture, refuse what would change the size or type of a later one."""
        if self.tried:
            return
        self.tried = True
        certain = copy.deepcopy(transforms)
        _set_certain(certain)
        generators = np.random.default_rng(0), random.Random(0)
        for transform in certain:
            transform.set_random_state(*generators)
        for _ in range(TRIALS):
            out = {"image": image}
            try:
                for transform in certain:
                    out = transform(**out)
            except Exception:  # the transform needs more than a picture
                return
            _check_picture(image, out["image"])

    def _seed(self, rng: np.random.Generator) -> None:
        if self.compose.random_generator is not rng:
            self.compose.set_random_state(rng, self.python_rng)
        self.python_rng.seed(int(rng.integers(2**63)))
        cv2.setRNGSeed(int(rng.integers(2**31)))


def _set_certain(transforms: Sequence) -> None:
    for transform in transforms:
        transform.p = 1.0
        _set_certain(getattr(transform, "transforms", ()))


def _check_picture(before: np.ndarray, after) -> None:
    if after.shape != before.shape or after.dtype != before.dtype:
        raise ConfigError(
            f"Albumentations: the picture went in as {before.shape} {before.dtype} and came out "
            f"as {tuple(after.shape)} {after.dtype}; resize with CropResize"
        )


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
        arguments["strict"] = True  # otherwise invalid values silently become the defaults
    try:
        built = transform(**arguments)
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"{where}: {name}: {text}") from None
    if isinstance(built, BasicTransform) and _moves_landmarks(built):
        _check_points(built, _smallest(arguments.get("scale")) < 0, f"{where}: {name}")
    return built


def _check_points(transform: BasicTransform, mirrors: bool, where: str) -> None:
    """Refuse a transform that mirrors or drops landmarks in trials on a grid of points.

    ``mirrors``: whether its arguments already show that it mirrors.
    """
    tried = copy.deepcopy(transform)
    tried.p = 1.0
    places = np.linspace(2, TRIAL_SIDE - 3, 6)
    points = np.zeros((36, 5), dtype=np.float32)
    points[:, :2] = np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)
    image = np.zeros((TRIAL_SIDE, TRIAL_SIDE, 3), dtype=np.uint8)
    image[::2, ::3] = 255
    generators = np.random.default_rng(0), random.Random(0)
    for _ in range(TRIALS):
        tried.set_random_state(*generators)
        try:
            moved = np.asarray(tried(image=image, keypoints=points.copy())["keypoints"])
        except Exception:  # the transform needs another size of picture
            break
        if len(moved) != len(points):
            raise ConfigError(
                f"{where} drops landmarks: {len(points)} went in, {len(moved)} came out"
            )
        grid = moved[:, :2].reshape(6, 6, 2).astype(np.float64)
        right, down = np.diff(grid, axis=1)[:-1], np.diff(grid, axis=0)[:, :-1]
        area = right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]
        mirrors |= bool((area < 0).mean() > 0.5)  # orientation reversed
    if mirrors:
        raise ConfigError(
            f"{where} mirrors the picture but not its left and right labels; use RandomFlip"
        )


def _smallest(scale: object) -> float:
    """The smallest number in an argument: a number, a sequence, or a mapping by axis."""
    if isinstance(scale, Mapping):
        scale = list(scale.values())
    if isinstance(scale, (list, tuple)):
        return min(map(_smallest, scale), default=0.0)
    return float(scale) if isinstance(scale, (int, float)) else 0.0


def _moves_landmarks(transform: BasicTransform | BaseCompose) -> bool:
    return "turn" in _kinds(transform)


def _kinds(transform: BasicTransform | BaseCompose) -> set[str]:
    """'turn' if it moves landmarks, else 'colour'; of a group all kinds; of ``NoOp`` none."""
    if isinstance(transform, BaseCompose):
        return set().union(*map(_kinds, transform.transforms))
    if type(transform) is albumentations.NoOp:
        return set()
    return {"colour" if isinstance(transform, albumentations.ImageOnlyTransform) else "turn"}


def _is_validated(transform: type) -> bool:
    """Whether albumentations validates the transform's arguments by a schema."""
    owner = next(base for base in transform.__mro__ if "__init__" in vars(base))
    return "InitSchema" in vars(owner)
