"""The paper's tables."""

from __future__ import annotations

from reproduction.scales import (
    CELEBA_FINETUNE,
    CELEBA_SMALL,
    CELEBA_SMALL_512,
    FINETUNE,
    MTFL_SMALL,
    PAPER,
)
from trn_plugin.experiments.plan import Column, Row, Table

PILLAI = "model.neck.statistic=pillai"
THREEFOLD = "model.heads.landmarks.loss_weight=30"
UNCERTAINTY = (
    "model.task_weighting.type=UncertaintyWeighting",
    "optim_wrapper.paramwise_cfg.custom_keys.task_weighting.decay_mult=0",
)
UPGRAD = (
    "optim_wrapper.type=JacobianOptimWrapper",
    "optim_wrapper.aggregator.type=UPGrad",
)


def weights_times(factor: float) -> tuple[str, ...]:
    """Options that multiply the paper's weights of output and hidden relations by a factor."""
    levels = {"output": 0.01, "hidden": 0.001}
    return tuple(f"custom_hooks.0.weights.{k}={factor * w:g}" for k, w in levels.items())


PAIR = "landmarks-pose"
NME, ACCURACY = "landmarks/NME", "pose/accuracy"
TAU_HIDDEN, TAU_OUTPUT = (f"relation/tau_{level}/{PAIR}" for level in ("hidden", "output"))

MTFL_COLUMNS = (
    Column(NME, "NME (%)", -1),
    Column(ACCURACY, "pose accuracy (%)", 1),
    Column("pose/balanced_accuracy", "balanced (%)", 1),
    Column(TAU_HIDDEN, "τ hidden", digits=3),
    Column(TAU_OUTPUT, "τ output", digits=3),
)


MTL, STL, TRN_OUTPUT, TRN = (
    f"configs/mtfl/{name}-fast_resnet18_mtfl.py"
    for name in ("mtl", "stl", "trn-output", "trn-hidden-output")
)
BEST = "configs/mtfl/best_resnet18_mtfl.py"
HEATMAP = "configs/mtfl/mtl-heatmap_resnet18_mtfl.py"


def _paper(*numbers: float) -> dict[str, float]:
    return dict(zip((TAU_HIDDEN, TAU_OUTPUT, NME, ACCURACY), numbers, strict=True))


# epochs in which STL needs the compute of MTL, from the ratio of their multiplications
COMPUTE = {"small": 6, "finetune": 6, "paper": 38}
AT_COMPUTE = {scale: (f"train_cfg.max_epochs={epochs}",) for scale, epochs in COMPUTE.items()}
# 4 % more multiplications for the small trunk, instead of 47 % (ResNet-18: 5 % with all channels)
NARROW = ("model.heads.landmarks.channels=32",)
WEIGHTED = "MTL, three times the landmarks' loss"

TABLE1 = Table(
    name="table1",
    title="MTFL (the paper's Table 1).",
    rows=(
        Row("MTL", MTL, paper=_paper(0.90, 0.69, 6.36, 79.33)),
        Row("STL", STL, (), "MTL", _paper(0.84, 0.67, 7.87, 78.70)),
        Row("TRN (output)", TRN_OUTPUT, (), "MTL", _paper(0.88, 0.68, 6.12, 79.60)),
        Row("TRN (hidden + output)", TRN, (), "MTL", _paper(0.81, 0.66, 6.03, 80.37)),
        Row("STL, MTL's compute", STL, (), "MTL", at=AT_COMPUTE),
        Row(WEIGHTED, MTL, (THREEFOLD,), "MTL"),
        Row("MTL, uncertainty weighting", MTL, UNCERTAINTY, "MTL"),
        Row("MTL, UPGrad", MTL, UPGRAD, "MTL"),
        Row(f"TRN (hidden + output){WEIGHTED[3:]}", TRN, (THREEFOLD,), WEIGHTED),
        Row("A better recipe", BEST, (), "MTL"),
        Row(
            "TRN, Pillai's trace, 1,000 times λ (not the paper's)",
            TRN,
            (*weights_times(1000), PILLAI),
            "MTL",
        ),
        Row("MTL, heatmap head", HEATMAP, (), "MTL", at={"small": NARROW}),
    ),
    columns=MTFL_COLUMNS,
    scales={"small": MTFL_SMALL, "finetune": FINETUNE, "paper": PAPER},
)

ERROR, MAP = "attributes/error_rate", "attributes/mAP"

TABLE2 = Table(
    name="table2",
    title="CelebA, 40 attributes (the paper's Table 2).",
    rows=(
        Row("MTL", "configs/celeba/mtl_resnet18_celeba.py", paper={ERROR: 8.42, MAP: 80.72}),
        Row("TRN", "configs/celeba/trn_resnet18_celeba.py", (), "MTL", {ERROR: 8.21, MAP: 81.62}),
    ),
    columns=(
        Column(ERROR, "error rate (%)", -1),
        Column(MAP, "mAP (%)", 1),
        Column("relation/tau_output/group_a-group_b", "τ output", digits=3),
    ),
    scales={"small": CELEBA_SMALL, "finetune": CELEBA_FINETUNE, "paper": PAPER},
)

# the paper's Table 3: AP of each attribute with STL, MTL and TRN
_PAIRS = {
    ("Wearing_Hat", "Bald"): ((91.66, 92.24, 93.04), (75.32, 75.82, 76.98)),
    ("Mustache", "Goatee"): ((56.61, 58.54, 59.13), (72.35, 72.65, 72.76)),
    ("Sideburns", "No_Beard"): ((74.18, 76.21, 76.82), (99.60, 99.61, 99.62)),
    ("Sideburns", "Arched_Eyebrows"): ((75.85, 74.43, 75.82), (75.64, 75.30, 75.74)),
    ("Male", "Bags_Under_Eyes"): ((99.54, 99.54, 99.55), (59.97, 59.44, 60.14)),
}


def _pair_rows(pair: tuple[str, str]) -> list[Row]:
    name = "_".join(attribute.lower().replace("_", "-") for attribute in pair)
    keys = {c: f"attributes/AP_{a}" for c, a in zip(("first", "second"), pair, strict=True)}
    rows = []
    for place, method in enumerate(("STL", "MTL", "TRN")):
        paper = {key: aps[place] for key, aps in zip(keys, _PAIRS[pair], strict=True)}
        baseline = "" if method == "MTL" else "MTL"
        path = f"configs/celeba/pairs/{name}_{method.lower()}.py"
        rows.append(Row(method, path, (), baseline, paper, " and ".join(pair), keys))
    return rows


TABLE3 = Table(
    name="table3",
    title="CelebA, pairs of attributes (the paper's Table 3).",
    rows=tuple(row for pair in _PAIRS for row in _pair_rows(pair)),
    columns=(
        Column("first", "AP of the first (%)", 1),
        Column("second", "AP of the second (%)", 1),
        Column("relation/tau_output/att1-att2", "τ output", digits=3),
        Column("relation/tau_gt/att1-att2", "τ labels", digits=3),
    ),
    scales={"small": CELEBA_SMALL, "finetune": CELEBA_FINETUNE, "paper": PAPER},
)

# the paper's Figure 4 uses two networks that share nothing, with 512 hidden features each
FIGURE4 = Table(
    name="figure4",
    title="Online and offline tau (the paper's Figure 4).",
    rows=(Row("STL", "configs/celeba/pairs/male_bags-under-eyes_stl.py"),),
    columns=TABLE3.columns,
    scales={"small": CELEBA_SMALL_512, "paper": PAPER},
)
