"""A model, data and runs in the style of other OpenMMLab projects."""

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement, LabelData
from test_relation_loss import runner as a_runner
from torch import nn

from trn_plugin.hooks import TaskRelationLossHook

CLASSES, SAMPLES = 3, 32
WEIGHTS = dict(hidden=1.0)
FEATURES = dict(hidden=dict(depth="depth_head.conv1", seg="seg_head.fc"))
LABELS = dict(depth="gt_depth.value", seg=dict(path="gt_label.label", num_classes=CLASSES))


class DepthHead(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(6, width, 3)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, 2, 1)

    def forward(self, x):
        return self.conv2(self.act(self.conv1(x))).mean((2, 3))


class SegHead(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc = nn.Linear(6, width)
        self.out = nn.Linear(width, CLASSES)

    def forward(self, x):
        return self.out(self.fc(x.mean((2, 3))).tanh())


@MODELS.register_module()
class SomeoneElsesModel(BaseModel):
    """A model that knows nothing of this package."""

    def __init__(self, widths=(5, 4)):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 6, 3)
        self.depth_head = DepthHead(widths[0])
        self.seg_head = SegHead(widths[1])
        self.unused = nn.Identity()
        self.double()

    def forward(self, inputs, data_samples=None, mode="tensor"):
        x = self.stem(torch.stack(list(inputs))).relu()
        depth, seg = self.depth_head(x), self.seg_head(x)
        if mode == "tensor":
            return depth, seg
        if mode == "predict":
            return data_samples
        n = len(data_samples)
        losses = dict(loss_depth=[depth.sum() * 0, depth.sum() * 0], loss_seg=seg.sum() * 0)
        for row, sample in enumerate(data_samples):
            if "gt_depth" in sample:
                difference = depth[row] - sample.gt_depth.value.flatten()
                for index, own in enumerate((difference.square(), difference.abs())):
                    losses["loss_depth"][index] = losses["loss_depth"][index] + own.sum() / n
            if "gt_label" in sample:
                losses["loss_seg"] -= seg[row].log_softmax(0)[sample.gt_label.label].sum() / n
        return losses


class Scenes(torch.utils.data.Dataset):
    metainfo: dict = {}

    def __init__(self, missing=()):
        self.missing = dict(missing)

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(int(index))
        picture = torch.randn(1, 8, 8, generator=generator, dtype=torch.float64)
        sample = BaseDataElement()
        if self.missing.get(int(index)) != "depth":
            value = torch.stack([picture.mean(), picture.std()]).reshape(1, 2)
            sample.gt_depth = BaseDataElement(value=value)
        if self.missing.get(int(index)) != "seg":
            label = (picture.mean() > 0).long() + (picture.std() > 1).long()
            sample.gt_label = LabelData(label=label.reshape(1))
        return dict(inputs=picture, data_samples=sample)


MISSING = {0: "depth", 3: "seg", 4: "depth", 17: "depth", 30: "seg"}


def hook(**options):
    defaults = dict(
        type="trn_plugin.TaskRelationLossHook",
        weights=WEIGHTS,
        features=FEATURES,
        labels=LABELS,
        relations=[("depth", "seg")],
        momentum=0.9,
        min_samples_per_dim=0,
    )
    return defaults | options


def runner(work_dir, hooks=(), name="run", missing=(), **options):
    init_default_scope("mmengine")
    defaults = dict(
        model=dict(type="SomeoneElsesModel"),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9)),
        default_scope="mmengine",
        sampler="DefaultSampler",
        dataset=Scenes(missing),
    )
    return a_runner(work_dir, hooks, name, **{**defaults, **options})


def covariances(run):
    return attached(run).state()["moments"]


def attached(run):
    return next(h for h in run.hooks if isinstance(h, TaskRelationLossHook)).attached
