"""A batch of labels: from the workers to losses, metrics and other projects."""

import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseDataPreprocessor
from torch.utils.data import DataLoader

from trn_plugin.datasets import ToyFaces, multi_task_collate
from trn_plugin.errors import DataError
from trn_plugin.evaluation import Accuracy, BatchEvaluator
from trn_plugin.structures import MultiTaskBatch, MultiTaskDataSample
from trn_plugin.tasks import read_tasks

TASKS = read_tasks(
    dict(
        points=dict(kind="landmarks", names=("a", "b")),
        pose=dict(kind="class", classes=("x", "y", "z")),
        marks=dict(kind="attributes", names=("m", "n")),
    )
)


def samples(count=5):
    g = torch.Generator().manual_seed(0)
    for row in range(count):
        sample = MultiTaskDataSample(metainfo=dict(img_path=f"{row}.jpg", tasks=TASKS))
        if row == 2:
            sample.set_field(True, "unreadable", field_type="metainfo")
        sample.gt = {"points": torch.rand(2, 2, generator=g), "pose": torch.tensor(row % 3)}
        if row != 1:
            sample.gt["marks"] = torch.tensor([1.0, row % 2])
        if row == 4:
            del sample.gt["pose"]
        yield sample


def batch(count=5):
    return MultiTaskBatch.of(list(samples(count)), TASKS)


def test_complete_tasks_are_known_on_every_device():
    found = batch()
    assert found.complete == {"points"}
    assert found.to("meta").complete == {"points"}
    assert pickle.loads(pickle.dumps(found)).complete == {"points"}
    assert batch(1).complete == set(TASKS)


def test_a_batch_is_a_sequence_of_samples():
    found = batch()
    assert len(found) == len(list(found)) == 5
    assert [sample.img_path for sample in found[1:3]] == ["1.jpg", "2.jpg"]
    assert found[-1].img_path == "4.jpg"
    with pytest.raises(IndexError):
        found[5]
    for ours, theirs in zip(found, samples(), strict=True):
        assert set(ours.gt) == set(theirs.gt)
        for task, label in theirs.gt.items():
            assert ours.gt[task].dtype == label.dtype
            assert torch.equal(ours.gt[task], label)
        assert ("unreadable" in ours) == ("unreadable" in theirs)


def test_a_batch_is_pickled_as_plain_bytes():
    data = bytes(ForkingPickler.dumps(batch()))
    assert b"rebuild" not in data
    again = pickle.loads(data)
    assert torch.equal(again.matrix, batch().matrix)
    assert torch.equal(again.mask, batch().mask)
    assert again.meta == batch().meta


def test_fields_set_on_a_batch_reach_its_samples():
    pred = {"pose": torch.arange(15.0).view(5, 3)}
    found = batch().with_fields(pred=pred, target=batch().targets)
    assert torch.equal(found[3].pred["pose"], pred["pose"][3])
    assert "marks" not in found[1].target
    given = list(samples())
    assert found.give_to(given) is given
    assert torch.equal(given[3].pred["pose"], pred["pose"][3])
    moved = found.to(torch.float64)
    assert moved.fields["pred"]["pose"].dtype == torch.float64


def test_mmengine_moves_a_batch_with_its_pictures():
    data = dict(inputs=torch.zeros(5, 3, 4, 4), data_samples=batch())
    preprocessor = BaseDataPreprocessor()
    preprocessor.to(torch.device("meta"))
    assert preprocessor(data)["data_samples"].matrix.device.type == "meta"


def test_data_sets_of_a_batch_may_have_different_tasks():
    packed = []
    for name, label in (("pose", torch.tensor(2)), ("marks", torch.tensor([0.0, 1.0]))):
        sample = MultiTaskDataSample(metainfo=dict(tasks={name: TASKS[name]}))
        sample.gt = {name: label}
        packed.append(dict(inputs=torch.zeros(3, 2, 2), data_samples=sample))
    for order in (packed, packed[::-1]):
        masks = multi_task_collate(order)["data_samples"].masks
        assert {name: int(mask.sum()) for name, mask in masks.items()} == dict(pose=1, marks=1)
    other = read_tasks(dict(pose=dict(kind="class", classes=("z", "y", "x"))))
    packed[1]["data_samples"].set_field(other, "tasks", field_type="metainfo")
    packed[1]["data_samples"].gt = {"pose": torch.tensor(1)}
    with pytest.raises(DataError, match="task pose: two data sets of a batch"):
        multi_task_collate(packed)
    packed[0]["data_samples"].gt = {"smile": torch.tensor(1)}
    with pytest.raises(DataError, match="describes no task 'smile'"):
        multi_task_collate(packed[:1])


def test_further_entries_are_kept():
    packed = [
        dict(inputs=torch.zeros(3, 2, 2), data_samples=sample, weight=torch.tensor(2.0))
        for sample in samples(3)
    ]
    assert multi_task_collate(packed)["weight"].tolist() == [2, 2, 2]


def test_tasks_of_the_model_that_the_data_lack_have_no_targets():
    from trn_plugin.evaluation import TaskSimilarity
    from trn_plugin.evaluation.features import collect_features
    from trn_plugin.registry import MODELS

    backbone = dict(type="TimmTrunk", model_name="test_resnet", pretrained=False, img_size=32)
    heads = dict(
        pose=dict(type="ClassificationHead", num_classes=3),
        marks=dict(type="AttributeHead", num_attributes=2),
    )
    model = MODELS.build(dict(type="MultiTaskModel", backbone=backbone, heads=heads)).eval()
    few = MultiTaskBatch.of(list(samples()), {"pose": TASKS["pose"]})
    data = dict(inputs=torch.zeros(5, 3, 32, 32), data_samples=few)
    found = model.test_step(data)
    assert set(found[0].target) == {"pose"}
    assert set(found[4].target) == set()
    assert np.isnan(collect_features(model, [data])["gt"]["marks"]).all()
    metric = TaskSimilarity("all")
    metric.process(None, found)
    assert np.isnan(metric.evaluate(5)["relation/tau_output/marks-pose"])
    losses = model.loss(torch.zeros(5, 3, 32, 32), few)
    assert losses["loss_marks"] == 0
    wrong = MultiTaskBatch.of(list(samples()), {"marks": TASKS["marks"]})
    wrong.tasks["marks"] = read_tasks(dict(marks=dict(kind="values", names=("m", "n"))))["marks"]
    with pytest.raises(DataError, match="marks: expected labels of kind 'attributes'"):
        model.loss(torch.zeros(5, 3, 32, 32), wrong)


def test_a_label_that_does_not_fit_is_named():
    wrong = list(samples())
    wrong[3].gt["pose"] = torch.tensor(7)
    with pytest.raises(DataError, match=r"pose: expected a label of one class index 0\.\.2"):
        MultiTaskBatch.of(wrong, TASKS)


def test_pictures_of_different_sizes_are_refused():
    packed = [
        dict(inputs=torch.zeros(3, side, 4), data_samples=sample)
        for side, sample in zip((4, 5), samples(2), strict=True)
    ]
    with pytest.raises(DataError, match="differ in shape"):
        multi_task_collate(packed)


def test_samples_of_other_projects_are_collated_by_mmengine():
    packed = [dict(inputs=torch.zeros(2), labels=torch.tensor(i)) for i in range(3)]
    assert multi_task_collate(packed)["labels"].tolist() == [0, 1, 2]
    strange = [dict(inputs=torch.zeros(2), data_samples=torch.tensor(i)) for i in range(3)]
    assert multi_task_collate(strange)["data_samples"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_gives_its_samples_collated(toy_root, workers):
    from trn_plugin.datasets import CropResize, FaceBox, LoadImage, PackMultiTaskInputs

    sizes = dict(train_size=60, test_size=20, val_size=10)
    pipeline = [LoadImage(), FaceBox("perturbed"), CropResize(16), PackMultiTaskInputs()]
    dataset = ToyFaces(toy_root, pipeline=pipeline, **sizes)
    loader = DataLoader(dataset, 7, collate_fn=multi_task_collate, num_workers=workers)
    first = next(iter(loader))
    for row in range(7):
        item = dataset[row]
        assert torch.equal(first["inputs"][row], item["inputs"])
        sample = first["data_samples"][row]
        assert sample.box == item["data_samples"].box
        for task, label in item["data_samples"].gt.items():
            assert torch.equal(sample.gt[task], label)


class Foreign(BaseMetric):
    """A metric of another project: takes a dict for each picture."""

    default_prefix = "foreign"

    def process(self, data_batch, data_samples):
        assert isinstance(data_samples, list)
        for sample in data_samples:
            self.results.append(float(sample["pred"]["pose"].argmax() == sample["gt"]["pose"]))

    def compute_metrics(self, results):
        return {"right": 100 * float(np.mean(results))}


def test_metrics_are_the_same_for_batches_and_samples():
    evaluator = BatchEvaluator([Accuracy("pose"), Foreign()])
    g = torch.Generator().manual_seed(1)
    for count in (4, 3):
        pred = {"pose": torch.rand(count, 3, generator=g)}
        evaluator.process(batch(count).with_fields(pred=pred))
        evaluator.process([s for s in batch(count).with_fields(pred=pred)])
    found = evaluator.evaluate(14)
    assert found["pose/accuracy"] == pytest.approx(found["foreign/right"])
