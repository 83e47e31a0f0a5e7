"""Measure how related tasks are: their labels (the paper's Figure 3), and a model's features.

Of a config's data set, of CelebA's attribute file, of any CSV file, or of a trained checkpoint.

Example:
    trn-plugin similarity trn_plugin::toy/mtl_test-resnet_toy.py --out-dir similarity
    trn-plugin similarity --celeba data/celeba/list_attr_celeba.txt --order clustered
    trn-plugin similarity --csv labels.csv --columns age,weight --classes breed
    trn-plugin similarity CONFIG --checkpoint CHECKPOINT --split val
"""

import itertools
import math
import os
import time
from pathlib import Path

from trn_plugin.cli.config import add_config_arguments, load_config
from trn_plugin.cli.parsing import positive_int
from trn_plugin.engine.building import config_errors
from trn_plugin.errors import ConfigError
from trn_plugin.files import atomic_write, write_json, write_table

LABELS = "gt"
LEVELS = {LABELS: "labels", "output": "predictions", "hidden": "hidden features"}
OF_FILES = ("columns", "classes")
OF_CONFIGS = ("cfg_options", "checkpoint", "split", "tasks", "by_column", "all_pairs", "points")


def add_arguments(parser):
    add_config_arguments(parser, optional=True)
    parser.add_argument("--celeba", metavar="FILE", help="labels of list_attr_celeba.txt")
    parser.add_argument("--csv", metavar="FILE", help="labels of a CSV file with a header")
    names = dict(nargs="+", metavar="NAME")
    parser.add_argument("--columns", **names, help="of the file, these only; numbers")
    parser.add_argument("--classes", **names, help="columns of the CSV file that hold classes")
    parser.add_argument("--split", choices=("train", "val", "test"), help="of the config's data")
    parser.add_argument("--tasks", **names, help="of the config's data, these only")
    parser.add_argument(
        "--by-column", action="store_true", help="take tasks of several attributes apart"
    )
    parser.add_argument(
        "--points",
        choices=("crop", "shape", "file"),
        help="landmarks relative to the crop that evaluation takes (default), as a shape without "
        "place and scale, or in pixels as in the file",
    )
    parser.add_argument(
        "--groups",
        nargs="+",
        metavar="NAME=A,B",
        help="relate these groups of tasks or columns instead",
    )
    parser.add_argument("--checkpoint", help="measure this model's features and outputs too")
    parser.add_argument(
        "--all-pairs",
        action="store_true",
        help="with --checkpoint: of all its tasks, not the config's relations",
    )
    parser.add_argument(
        "--order",
        choices=("given", "clustered"),
        default="given",
        help="rows of the heat map (%(default)s)",
    )
    parser.add_argument(
        "--listed", type=positive_int, default=10, help="pairs to print at either end"
    )
    parser.add_argument("--out-dir", help="write CSV, JSON and heat maps here")


def main(args):
    check(args)
    from trn_plugin.evaluation.pairwise import pair_similarities

    levels, pairs, data = read(args)
    present = levels.pop("present", None)
    started = time.perf_counter()
    found = {level: pair_similarities(levels[level], pairs, present) for level in levels}
    took = time.perf_counter() - started
    rows = [
        row(a, b, {level: s[i] for level, s in found.items()}) for i, (a, b) in enumerate(pairs)
    ]
    rows.sort(key=lambda r: -(r["tau_gt"] if r["tau_gt"] is not None else -1))
    count = len(next(iter(levels[LABELS].values())))
    print(f"{data}: {count} samples, {len(pairs)} pair{'s' * (len(pairs) > 1)} in {took:.2f} s")
    print(report(rows, list(found), args.listed))
    if args.out_dir:
        write(Path(args.out_dir), rows, data, found, pairs, args.order)


def check(args):
    sources = [name for name in ("config", "celeba", "csv") if getattr(args, name)]
    if len(sources) != 1:
        raise ConfigError(
            f"expected one of CONFIG, --celeba FILE and --csv FILE, found {len(sources)}"
        )
    refused = OF_CONFIGS if sources != ["config"] else OF_FILES
    for name in (*refused, *(["classes"] if args.celeba else [])):
        if getattr(args, name):
            owner = "a config" if name in OF_CONFIGS else "--csv or --celeba"
            owner = "--csv" if name == "classes" else owner
            raise ConfigError(f"--{name.replace('_', '-')}: goes with {owner} only")
    if args.all_pairs and not args.checkpoint:
        raise ConfigError("--all-pairs: goes with --checkpoint only")
    if args.by_column and args.checkpoint:
        raise ConfigError("--by-column: does not go with --checkpoint, whose tasks are whole")


def read(args):
    """Features by level and name, the pairs to measure, and what the data are called."""
    if args.checkpoint:
        return read_checkpoint(args)
    if args.config:
        features, data = read_dataset(args)
    elif args.celeba:
        features, data = read_celeba(args.celeba, listed(args.columns)), args.celeba
    else:
        from trn_plugin.datasets.label_csv import read_label_csv

        features = read_label_csv(args.csv, listed(args.columns), listed(args.classes) or ())
        data = args.csv
    if args.groups:
        from trn_plugin.evaluation.pairwise import grouped

        features = grouped(features, parse_groups(args.groups, features))
    if len(features) < 2:
        raise ConfigError(f"{data}: expected at least two tasks to relate, found {len(features)}")
    return {LABELS: features}, list(itertools.combinations(features, 2)), data


def read_celeba(path, columns):
    import numpy as np

    from trn_plugin.datasets.celeba_format import read_attributes

    if os.path.isdir(path):
        path = os.path.join(path, "list_attr_celeba.txt")
    table = read_attributes(path)
    for name in columns or ():
        if name not in table.names:
            raise ConfigError(f"--columns: {path} has no {name!r}; it has {', '.join(table.names)}")
    values = table.values.T.astype(np.float32, order="C")
    features = {name: column[:, None] for name, column in zip(table.names, values, strict=True)}
    return {name: features[name] for name in columns or table.names}


def read_dataset(args):
    from trn_plugin.evaluation.label_similarity import label_features
    from trn_plugin.registry import DATASETS
    from trn_plugin.tasks import read_tasks

    config = load_config(args.config, args.cfg_options)
    split = args.split or "train"
    loader = config.get(f"{split}_dataloader")
    if not loader:
        raise ConfigError(f"{args.config}: has no {split}_dataloader")
    settings = dict(loader.dataset, tasks=args.tasks, pipeline=[])  # labels need no pictures
    with config_errors(f"{split}_dataloader.dataset"):
        dataset = DATASETS.build(settings)
    records = [dataset.get_data_info(index) for index in range(len(dataset))]
    tasks = read_tasks(dataset.metainfo["tasks"])
    place, about = placement(args.points, config, split, dataset, records, tasks)
    features = label_features(records, dataset.metainfo["tasks"], args.by_column, place)
    return features, f"{dataset.metainfo.get('dataset', args.config)} ({split}{about})"


def placement(points, config, split, dataset, records, tasks):
    """How points are placed before they are measured, and what to say of it."""
    from trn_plugin.datasets.crops import EvaluationCrops
    from trn_plugin.evaluation.label_similarity import own_shape

    pointed = [
        any(task.has_points(record["gt"].get(name)) for name, task in tasks.items())
        for record in records
    ]
    if not any(pointed):
        return None, ""
    if points == "shape":
        return own_shape, ", points centred and scaled: no position, no size"
    if points == "file":
        return None, ", points in pixels of the file"
    loader = config.get("val_dataloader" if split == "train" else f"{split}_dataloader") or {}
    crops = EvaluationCrops.of(dataset, (loader.get("dataset") or {}).get("pipeline") or ())
    if crops is None:
        return None, ", points in pixels of the file: the pipeline has no FaceBox or RegionBox"
    missing = sum(box is None for box, has in zip(crops.boxes, pointed, strict=True) if has)
    if missing:
        return None, f", points in pixels of the file: {missing} have no crop, a picture is missing"
    return crops.place, f", points relative to the crop of evaluation: {crops.about}"


def read_checkpoint(args):
    import numpy as np
    from mmengine.device import get_device
    from tqdm import tqdm

    from trn_plugin.deploy.inference import build_loader, load_model
    from trn_plugin.evaluation.features import collect_features
    from trn_plugin.evaluation.pairwise import grouped

    config = load_config(args.config, args.cfg_options)
    split = args.split or "test"
    model, _ = load_model(config, args.checkpoint)
    relations = chosen_relations(args, config, model.tasks)
    loader = build_loader(config, split)
    features = collect_features(model.to(get_device()), tqdm(loader, split, leave=False))
    sides = {"+".join(side): side for relation in relations for side in relation}
    levels = {level: grouped(features[level], sides) for level in LEVELS}
    pairs = [tuple("+".join(side) for side in relation) for relation in relations]
    data = f"{os.path.basename(args.checkpoint)} on {loader.dataset.metainfo['dataset']} ({split})"
    levels["present"] = {
        name: np.isfinite(values).all(1) for name, values in levels[LABELS].items()
    }
    return levels, pairs, data


def chosen_relations(args, config, tasks):
    from trn_plugin.structures import relation_sides

    neck = config.model.get("neck") or {}
    if args.groups:
        groups = parse_groups(args.groups, tasks).values()
        return list(itertools.combinations(groups, 2))
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
    """{name: members} of NAME=A,B; a name that is in two groups would relate it to itself."""
    groups, taken = {}, {}
    for text in texts:
        name, equals, rest = text.partition("=")
        members = tuple(member.strip() for member in rest.split(",") if member.strip())
        if not (name and equals and members) or name in groups:
            raise ConfigError(f"--groups: expected NAME=A,B, each name once, found {text!r}")
        for member in members:
            if member not in known:
                raise ConfigError(f"--groups: no {member!r} among {', '.join(known)}")
            if member in taken:
                raise ConfigError(
                    f"--groups: {member!r} is named twice, in {taken[member]}, {name}"
                )
            taken[member] = name
        groups[name] = members
    if len(groups) < 2:
        raise ConfigError("--groups: expected at least two groups")
    return groups


def listed(names):
    """Names given one by one or with commas between."""
    return names and [part for name in names for part in name.split(",") if part]


def row(a, b, found):
    cells = {"a": a, "b": b, "N": found[LABELS].n}
    for level, similarity in found.items():
        for name in ("tau", "chance", "d1", "d2", "note"):
            value = getattr(similarity, name)
            if isinstance(value, float):
                value = None if math.isnan(value) else round(value, 6)
            cells[f"{name}_{level}"] = value
    return cells


def report(rows, levels, listed):
    from trn_plugin.evaluation.task_metric import table

    shown = rows if len(rows) <= 2 * listed else [*rows[:listed], None, *rows[-listed:]]
    header = ["pair, most related labels first", "N"]
    for level in levels:
        header += [f"tau {level}", "chance", "d1", "d2"]
    lines = []
    for cells in shown:
        if cells is None:
            lines.append(["...", *[""] * (len(header))])
            continue
        line, notes = [f"{cells['a']} - {cells['b']}", str(cells["N"])], []
        for level in levels:
            line += [number(cells[f"tau_{level}"]), number(cells[f"chance_{level}"])]
            line += [str(cells[f"d1_{level}"]), str(cells[f"d2_{level}"])]
            if cells[f"note_{level}"]:
                notes.append(f"{level}: {cells[f'note_{level}']}")
        lines.append([*line, "; ".join(notes)])
    return table([*header, ""], lines, left=(0, len(header)))


def number(value):
    return "-" if value is None else f"{value:.4f}"


def write(folder, rows, data, found, pairs, order):
    from trn_plugin.evaluation.pairwise import clustered_order, similarity_matrix
    from trn_plugin.evaluation.plots import save_similarity

    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    matrices = {level: similarity_matrix(names, pairs, s) for level, s in found.items()}
    places = range(len(names))
    if order == "clustered":
        places = clustered_order(matrices[LABELS])
    write_table(folder / "similarity.csv", rows, option="--out-dir")
    write_json(folder / "similarity.json", rows, "--out-dir")
    for level, matrix in matrices.items():
        name = "similarity.png" if level == LABELS else f"similarity_{level}.png"
        ordered = matrix[list(places)][:, list(places)]
        title = f"{LEVELS[level]}: {data}\n{chance_text(found[level])}"
        with atomic_write(folder / name, "--out-dir") as partial:
            save_similarity(str(partial), ordered, [names[i] for i in places], title)
    print(f"written to {folder}")


def chance_text(similarities):
    known = [s.chance for s in similarities if not math.isnan(s.chance)]
    if not known:
        return "undefined: too few samples"
    low, high = f"{min(known):.3f}", f"{max(known):.3f}"
    return f"unrelated features would give {low if low == high else f'{low} to {high}'}"
