"""Measure how related tasks are, from their labels (the paper's Figure 3) or a model's features.

Labels come from a config's data set, CelebA's attribute file or a CSV file, features from a model.

Example:
    trn-plugin similarity trn_plugin::toy/mtl_test-resnet_toy.py --out-dir similarity
    trn-plugin similarity --celeba data/celeba/list_attr_celeba.txt --order clustered
    trn-plugin similarity --csv labels.csv --columns age,weight --classes breed
    trn-plugin similarity CONFIG --checkpoint CHECKPOINT --split val
"""

import copy
import itertools
import os
import time
from pathlib import Path

import numpy as np
from mmengine.device import get_device
from tqdm import tqdm

from trn_plugin.cli.config import add_config_arguments, load_config
from trn_plugin.config_checks import config_errors
from trn_plugin.datasets.crops import placement
from trn_plugin.datasets.label_csv import read_celeba_columns, read_label_csv
from trn_plugin.datasets.wrapped import DrawnDataset, parts_of
from trn_plugin.engine.data_config import plain_datasets_in
from trn_plugin.engine.inference import build_loader, load_model
from trn_plugin.errors import ConfigError
from trn_plugin.evaluation import pairwise
from trn_plugin.evaluation.features import collect_features
from trn_plugin.evaluation.label_similarity import label_features, own_shape
from trn_plugin.evaluation.similarity_plots import save_similarity
from trn_plugin.files import atomic_write, write_json, write_table
from trn_plugin.structures import relation_sides
from trn_plugin.tasks import read_tasks

LABELS = "gt"
LISTED = 10  # of the most and of the least related pairs
LEVELS = {LABELS: "labels", "output": "predictions", "hidden": "hidden features"}
CONFIG_ONLY = ("cfg_options", "checkpoint", "split", "tasks", "by_column", "all_pairs", "points")


def add_arguments(parser):
    add_config_arguments(parser, optional=True)
    names = dict(nargs="+", metavar="NAME")
    parser.add_argument("--celeba", metavar="FILE", help="labels of list_attr_celeba.txt")
    parser.add_argument("--csv", metavar="FILE", help="labels of a CSV file with a header")
    parser.add_argument("--columns", **names, help="numeric columns of the file to use")
    parser.add_argument("--classes", **names, help="columns of the CSV file that hold classes")
    splits = ("train", "val", "test")
    parser.add_argument("--split", choices=splits, help="default: train; test with --checkpoint")
    parser.add_argument("--tasks", **names, help="tasks of the config to use")
    parser.add_argument("--by-column", action="store_true", help="treat each attribute as a task")
    parser.add_argument(
        "--points",
        choices=("crop", "shape", "file"),
        help="coordinates of landmarks. crop: relative to the evaluation crop (default); shape: "
        "centred and scaled to one size; file: pixels of the file",
    )
    parser.add_argument(
        "--groups", nargs="+", metavar="NAME=A,B", help="relate these groups of tasks or columns"
    )
    parser.add_argument("--checkpoint", help="also measure this model's features and outputs")
    parser.add_argument(
        "--all-pairs", action="store_true", help="of --checkpoint, not only the config's relations"
    )
    parser.add_argument(
        "--order", choices=("given", "clustered"), default="given", help="rows of the heat map"
    )
    parser.add_argument("--out-dir", metavar="D", help="write CSV, JSON and heat maps here")


def main(args):
    check(args)
    read = read_checkpoint if args.checkpoint else read_labels
    levels, present, pairs, data, points = read(args)
    begun = time.perf_counter()
    found = {level: pairwise.pair_similarities(levels[level], pairs, present) for level in levels}
    took = time.perf_counter() - begun
    rows = pairwise.similarity_rows(pairs, found, points)
    count = len(next(iter(levels[LABELS].values())))
    print(f"{data}: {count} samples, {len(pairs)} pair{'s' * (len(pairs) > 1)} in {took:.2f} s")
    print(pairwise.similarity_table(rows, list(found), LISTED))
    if args.out_dir:
        write(Path(args.out_dir), rows, data, found, pairs, args.order)


def check(args):
    sources = [name for name in ("config", "celeba", "csv") if getattr(args, name)]
    if len(sources) != 1:
        raise ConfigError(
            f"expected one of CONFIG, --celeba FILE and --csv FILE, found {len(sources)}"
        )
    for names, owner, given in (
        (CONFIG_ONLY, "a config", args.config),
        (["columns"], "--csv or --celeba", not args.config),
        (["classes"], "--csv", args.csv),
        (["all_pairs"], "--checkpoint", args.checkpoint),
    ):
        for name in names:
            if getattr(args, name) and not given:
                raise ConfigError(f"--{name.replace('_', '-')}: needs {owner}")
    if args.by_column and args.checkpoint:
        raise ConfigError("--by-column: not possible with --checkpoint, which has whole tasks only")


def read_labels(args):
    """Read labels alone.

    Returns:
        Features by level and name; masks of the samples to use, by name (None: those with labels);
        the pairs; the name of the data; and --points (None without landmarks).
    """
    points = None
    columns, classes = listed(args.columns), listed(args.classes)
    if args.config:
        features, data, points = read_dataset(args)
    elif args.celeba:
        features, data = read_celeba_columns(args.celeba, columns), args.celeba
    else:
        features, data = read_label_csv(args.csv, columns, classes or ()), args.csv
    if args.groups:
        features = pairwise.grouped(features, parse_groups(args.groups, features))
    if len(features) < 2:
        raise ConfigError(f"{data}: expected at least two tasks to relate, found {len(features)}")
    return {LABELS: features}, None, list(itertools.combinations(features, 2)), data, points


def read_dataset(args):
    config = load_config(args.config, args.cfg_options)
    split = args.split or "train"
    loader = config.get(f"{split}_dataloader")
    if not loader:
        raise ConfigError(f"{args.config}: has no {split}_dataloader")
    settings = copy.deepcopy(loader.dataset)
    for plain in plain_datasets_in(settings):
        plain.update(tasks=args.tasks, pipeline=[])  # labels need no pictures
    with config_errors(f"{split}_dataloader.dataset"):
        dataset = DrawnDataset(settings)
    records = []
    for part, rows in parts_of(dataset):
        if not hasattr(part, "results_of"):
            raise ConfigError(
                f"{split}_dataloader.dataset: {type(part).__name__} has no results_of"
            )
        records += map(part.results_of, rows.tolist())
    tasks = read_tasks(dataset.metainfo["tasks"])
    names = {name for name, task in tasks.items() if task.has_points}
    pointed = [not names.isdisjoint(record["gt"]) for record in records]
    points = (args.points or "crop") if any(pointed) else None
    place = about = None
    if points == "shape":
        place, about = own_shape, "points centred and scaled: no position, no size"
    elif points == "file":
        about = "points in pixels of the file"
    elif points == "crop":
        of_val = config.get("val_dataloader" if split == "train" else f"{split}_dataloader") or {}
        evaluated = next(plain_datasets_in(of_val.get("dataset")), {})
        place, about = placement(records, evaluated.get("pipeline") or (), pointed)
        points = "file" if place is None else points
    features = label_features(records, tasks, args.by_column, place)
    data = dataset.metainfo.get("dataset", args.config)
    return features, f"{data} ({split}{f', {about}' if about else ''})", points


def read_checkpoint(args):
    """Read labels, and a model's predictions and hidden features; returns as `read_labels`."""
    config = load_config(args.config, args.cfg_options)
    split = args.split or "test"
    model, _ = load_model(config, args.checkpoint)
    relations = chosen_relations(args, config, model.tasks)
    loader = build_loader(config, split)
    features = collect_features(model.to(get_device()), tqdm(loader, split, leave=False))
    sides = {"+".join(side): side for relation in relations for side in relation}
    levels = {level: pairwise.grouped(features[level], sides) for level in LEVELS}
    pairs = [tuple("+".join(side) for side in relation) for relation in relations]
    name = loader.dataset.metainfo.get("dataset", args.config)
    data = f"{os.path.basename(args.checkpoint)} on {name} ({split})"
    present = {name: np.isfinite(v).all(1) for name, v in levels[LABELS].items()}
    measured = [model.heads[task].task for side in sides.values() for task in side]
    points = "crop" if any(task.has_points for task in measured) else None
    return levels, present, pairs, data, points


def chosen_relations(args, config, tasks):
    neck = config.model.get("neck") or {}
    if args.groups:
        return list(itertools.combinations(parse_groups(args.groups, tasks).values(), 2))
    if neck.get("relations", "all") != "all" and not args.tasks and not args.all_pairs:
        return [relation_sides(r, "model.neck.relations") for r in neck["relations"]]
    for task in args.tasks or ():
        if task not in tasks:
            raise ConfigError(f"--tasks: the model has no task {task!r}; it has {', '.join(tasks)}")
    chosen = list(dict.fromkeys(args.tasks or tasks))
    if len(chosen) < 2:
        raise ConfigError(f"expected at least two tasks to relate, found {', '.join(chosen)}")
    return [((a,), (b,)) for a, b in itertools.combinations(chosen, 2)]


def parse_groups(texts, known):
    """Parse NAME=A,B to {name: members}; each member may be in one group only."""
    groups = {}
    for text in texts:
        name, _, rest = text.partition("=")
        members = tuple(member.strip() for member in rest.split(",") if member.strip())
        if not (name and members) or name in groups:
            raise ConfigError(f"--groups: expected NAME=A,B, each name once, found {text!r}")
        groups[name] = members
    members = list(itertools.chain(*groups.values()))
    for member in members:
        if member not in known:
            raise ConfigError(f"--groups: no {member!r} among {', '.join(known)}")
        if members.count(member) > 1:
            names = ", ".join(name for name, inside in groups.items() if member in inside)
            raise ConfigError(f"--groups: {member!r} is named twice, in {names}")
    if len(groups) < 2:
        raise ConfigError("--groups: expected at least two groups")
    return groups


def listed(names):
    """Split names at commas too."""
    return names and [part for name in names for part in name.split(",") if part]


def write(folder, rows, data, found, pairs, order):
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    matrices = {level: pairwise.similarity_matrix(names, pairs, s) for level, s in found.items()}
    places = list(range(len(names)))
    if order == "clustered":
        places = pairwise.clustered_order(matrices[LABELS])
    write_table(folder / "similarity.csv", rows, option="--out-dir")
    write_json(folder / "similarity.json", rows, "--out-dir")
    for level, matrix in matrices.items():
        name = "similarity.png" if level == LABELS else f"similarity_{level}.png"
        title = f"{LEVELS[level]}: {data}\n{pairwise.chance_text(found[level])}"
        with atomic_write(folder / name, "--out-dir") as partial:
            ordered = matrix[np.ix_(places, places)]
            save_similarity(str(partial), ordered, [names[i] for i in places], title)
    print(f"written to {folder}")
