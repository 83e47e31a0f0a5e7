"""The paper's tables."""

from __future__ import annotations

from reproduction.options import PILLAI, THREEFOLD, UNCERTAINTY, weights_times
from reproduction.plan import Column, Row, Table
from reproduction.scales import CELEBA_SMALL, CELEBA_SMALL_512, FINETUNE, MTFL_SMALL, PAPER

__all__ = ["FIGURE4", "TABLE1", "TABLE2", "TABLE3", "TAU_OF_PAIRS"]

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


def _mtfl(name: str, config: str, baseline: str, numbers: tuple[float, ...]) -> Row:
    keys = (TAU_HIDDEN, TAU_OUTPUT, NME, ACCURACY)
    path = f"configs/mtfl/{config}-fast_resnet18_mtfl.py"
    return Row(name, path, (), dict(zip(keys, numbers, strict=True)), baseline)


MTL, STL, TRN = (
    f"configs/mtfl/{name}-fast_resnet18_mtfl.py" for name in ("mtl", "stl", "trn-hidden-output")
)


TABLE1 = Table(
    name="table1",
    title="MTFL (the paper's Table 1).",
    rows=(
        _mtfl("MTL", "mtl", "", (0.90, 0.69, 6.36, 79.33)),
        _mtfl("STL", "stl", "MTL", (0.84, 0.67, 7.87, 78.70)),
        _mtfl("TRN (output)", "trn-output", "MTL", (0.88, 0.68, 6.12, 79.60)),
        _mtfl("TRN (hidden + output)", "trn-hidden-output", "MTL", (0.81, 0.66, 6.03, 80.37)),
        Row(
            "STL, MTL's compute",
            STL,
            (),
            {},
            "MTL",
            # its multiplications are 1.80 and 1.57 times MTL's
            at={
                "small": ("train_cfg.max_epochs=6",),
                "finetune": ("train_cfg.max_epochs=5",),
                "paper": ("train_cfg.max_epochs=38",),
            },
        ),
        Row("MTL, three times the landmarks' loss", MTL, (THREEFOLD,), {}, "MTL"),
        Row("MTL, uncertainty weighting", MTL, UNCERTAINTY, {}, "MTL"),
        Row(
            "TRN (hidden + output), three times the landmarks' loss",
            TRN,
            (THREEFOLD,),
            {},
            "MTL, three times the landmarks' loss",
        ),
        Row(
            "TRN, Pillai's trace, 1,000 times λ (not the paper's)",
            TRN,
            (*weights_times(1000), PILLAI),
            {},
            "MTL",
        ),
    ),
    columns=MTFL_COLUMNS,
    scales={"small": MTFL_SMALL, "finetune": FINETUNE, "paper": PAPER},
)

ERROR, MAP = "attributes/error_rate", "attributes/mAP"

TABLE2 = Table(
    name="table2",
    title="CelebA, 40 attributes (the paper's Table 2).",
    rows=(
        Row("MTL", "configs/celeba/mtl_resnet18_celeba.py", (), {ERROR: 8.42, MAP: 80.72}),
        Row("TRN", "configs/celeba/trn_resnet18_celeba.py", (), {ERROR: 8.21, MAP: 81.62}, "MTL"),
    ),
    columns=(
        Column(ERROR, "error rate (%)", -1),
        Column(MAP, "mAP (%)", 1),
        Column("relation/tau_output/group_a-group_b", "τ output", digits=3),
    ),
    scales={"small": CELEBA_SMALL, "paper": PAPER},
)

# the paper's Table 3: tau of the labels, then AP of either attribute by STL, MTL, TRN
_PAIRS = {
    ("Wearing_Hat", "Bald"): (0.031, (91.66, 92.24, 93.04), (75.32, 75.82, 76.98)),
    ("Mustache", "Goatee"): (0.451, (56.61, 58.54, 59.13), (72.35, 72.65, 72.76)),
    ("Sideburns", "No_Beard"): (0.543, (74.18, 76.21, 76.82), (99.60, 99.61, 99.62)),
    ("Sideburns", "Arched_Eyebrows"): (0.116, (75.85, 74.43, 75.82), (75.64, 75.30, 75.74)),
    ("Male", "Bags_Under_Eyes"): (0.301, (99.54, 99.54, 99.55), (59.97, 59.44, 60.14)),
}
TAU_OF_PAIRS = {pair: numbers[0] for pair, numbers in _PAIRS.items()}


def _pair_rows(pair: tuple[str, str]) -> list[Row]:
    name = "_".join(attribute.lower().replace("_", "-") for attribute in pair)
    keys = {c: f"attributes/AP_{a}" for c, a in zip(("first", "second"), pair, strict=True)}
    rows = []
    for place, method in enumerate(("STL", "MTL", "TRN")):
        paper = {key: aps[place] for key, aps in zip(keys, _PAIRS[pair][1:], strict=True)}
        baseline = "" if method == "MTL" else "MTL"
        path = f"configs/celeba/pairs/{name}_{method.lower()}.py"
        rows.append(Row(method, path, (), paper, baseline, " and ".join(pair), keys))
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
    scales={"small": CELEBA_SMALL, "paper": PAPER},
)

# the paper's Figure 4 follows two networks that share nothing, of 512 hidden features each
FIGURE4 = Table(
    name="figure4",
    title="Online beside offline (the paper's Figure 4).",
    rows=(Row("STL", "configs/celeba/pairs/male_bags-under-eyes_stl.py"),),
    columns=TABLE3.columns,
    scales={"small": CELEBA_SMALL_512, "paper": PAPER},
)
