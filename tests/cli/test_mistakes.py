"""A user's mistake in data, arguments or config is one line and exit status 2."""

import re
import shutil

import pytest
import timm
from toy_job import CONFIG, MTFL_CONFIG, ROOT, SIZES, options


@pytest.fixture
def refused(run_tool):
    """A function that runs a tool, which must fail with one line that matches ``message``."""

    def run(message, *arguments):
        status, _, error = run_tool(*arguments)
        lines = [line for line in error.splitlines() if line.startswith("error:")]
        assert status == 2
        assert len(lines) == 1
        assert re.search(message, lines[0]), lines[0]

    return run


def short_row(root, lines):
    lines[2] = b" ".join(lines[2].split()[:-1])


def broken_picture(root, lines):
    for picture in (root / "toy_train").iterdir():
        picture.write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("change", "workers", "message"),
    [
        (short_row, 0, r"training.txt:3: expected 15 columns"),
        (broken_picture, 0, r"toy_train/.*not a readable picture"),
        (broken_picture, 2, r"toy_train/.*not a readable picture"),
    ],
)
def test_bad_data(job, refused, tmp_path, change, workers, message):
    """Toy faces, read as MTFL, with an annotation file or pictures changed."""
    root = tmp_path / "mtfl"
    shutil.copytree(job["faces"], root)
    (root / "toy_faces.json").unlink()
    lines = (root / "training.txt").read_bytes().split(b"\r\n")
    change(root, lines)
    (root / "training.txt").write_bytes(b"\r\n".join(lines))
    more = [f"{p}_dataloader.dataset.type=MTFL" for p in ("train", "val", "test")]
    more.append(f"train_dataloader.num_workers={workers}")
    # ToyFaces' own arguments are not MTFL's
    changed = [o for o in options(root, 1, *more) if not any(f"{size}=" in o for size in SIZES)]
    refused(message, "train", CONFIG, "--work-dir", tmp_path / "w", *changed)


VARIABLES = r"RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT not set"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train", ["absent.py"], r"absent\.py: no such config file"),
        ("test", [str(ROOT / "LICENSE"), CONFIG], r"LICENSE: not a usable config: Only py/"),
        ("train", [CONFIG, "--amp"], r"--amp needs CUDA"),
        ("train", [CONFIG, "--launcher", "pytorch"], VARIABLES),
        ("train", [CONFIG, "--resume", "absent.pth"], r"absent\.pth: .*No such file"),
        ("test", [CONFIG, "absent.pth"], r"absent\.pth: .*No such file"),
        ("export_onnx", [CONFIG, "a.pth", "a.pth"], r"a\.pth: expected .* ends in \.onnx"),
        ("train", [CONFIG, "--work-dir", CONFIG], r"trn-hidden.*\.py: File exists"),
    ],
)
def test_bad_arguments(job, refused, tmp_path, monkeypatch, name, arguments, message):
    monkeypatch.chdir(tmp_path)
    extra = options(job["faces"]) if arguments[0] == CONFIG else []
    refused(message, name, *arguments, *extra)


TASK = r"model\.heads\.landmarks: .* has no labels"
PIPELINE = "train_dataloader.dataset.pipeline"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("model.backbone.model_name=resnet19", r"timm knows no 'resnet19'; close .*: .*resnet"),
        ("model.backbone.shared_stages=9", r"shared_stages: expected 0, 'all', a stage .*layer4"),
        ("model.neck.relations=[('landmarks','age')]", r"'age' is not a task"),
        ("model.backbone.type=TimTrunk", r"TimTrunk is not in the"),
        ("model.bananas=1", r"bananas"),
        ("complie=True", r"--cfg-options complie: no such key, did you mean 'compile'\?"),
        ("modle.neck=None", r"--cfg-options modle\.neck: no such key, did you mean 'model'\?"),
        ("inputsize=48", r"--cfg-options inputsize: no such key, did you mean 'input_size'\?"),
        ("train_dataloader.dataset.tasks=('age',)", r"age"),
        ("train_dataloader.dataset.tasks=('pose',)", TASK),
        ("model.heads.pose.num_classes=4", r"model\.heads\.pose: .* expects 4 .* has 5 of kind"),
        ("train_dataloader.dataset.type=Faces", r"dataloader: Faces is not in the"),
        (f"{PIPELINE}.0.type=Load", r"train_dataloader.dataset: Load is not in the"),
        ("model.heads.pose.loss_weight=x", r"model\.heads\.pose\.loss_weight: .*number, found 'x'"),
        ("model.heads.pose.loss_weight=None", r"model\.heads\.pose\.loss_weight: .*found None"),
        ("optim_wrapper.clip_grad.max_norm=x", r"optim_wrapper\.clip_grad: .*'max_norm': 'x'"),
        ("optim_wrapper.optimizer.type=Foo", r"optimizer is named .Foo"),
        ("optim_wrapper.optimizer.bananas=3", r"optim_wrapper: .*bananas"),
        ("param_scheduler.1.eta_min=x", r"param_scheduler\.1\.eta_min: .*number, found 'x'"),
        ("param_scheduler.0.end=0", r"param_scheduler: .*end"),
        ("val_evaluator.0.norm=miles", r"norm"),
        ("train_cfg.max_epoch=1", r"train_cfg: .*max_epoch"),
        ("model.init_cfg.type=Pretrained", r"model\.init_cfg: not used"),
        ("model.backbone.img_size=96", r"img_size is 96, but input_size is 32"),
        ("model.backbone=None", r"model\.backbone: expected a dict, found None"),
        ("model.backbone=resnet18", r"model\.backbone: expected a dict, found 'resnet18'"),
        ("train_cfg.max_epochs", r"expected KEY=VALUE, got 'train_cfg.max_epochs'"),
        ("model.neck.relations=[('a','b')", r"expected KEY=VALUE, got .model.neck.relations="),
    ],
)
def test_bad_config_values(job, refused, tmp_path, option, message):
    arguments = options(job["faces"], 1, option)
    refused(message, "train", CONFIG, "--work-dir", tmp_path, *arguments)


def test_a_missing_root_says_where_to_get_the_data(refused, tmp_path, monkeypatch):
    """Before pretrained weights are downloaded, which takes minutes to fail without a network."""

    def asked(*args, **kwargs):
        raise AssertionError("a model was built")

    monkeypatch.setattr(timm, "create_model", asked)
    root = tmp_path / "nowhere"
    changed = [f"{p}_dataloader.dataset.data_root={root}" for p in ("train", "val", "test")]
    arguments = ("--work-dir", tmp_path / "w", "--cfg-options", *changed)
    refused(r"nowhere.*MTFL_ROOT.*http", "train", MTFL_CONFIG, *arguments)
