"""Very different backbones, cut before their last stage."""

import pytest
from backbone_check import check_backbone

NAMES = {
    "test_resnet": 5,
    "test_convnext": 4,
    "test_efficientnet": 5,
    "mobilenetv3_small_050": 5,
    "test_vit": 6,
    "eva02_tiny_patch14_224": 12,
    "swin_tiny_patch4_window7_224": 4,
    "hiera_tiny_224": 4,
    "mvitv2_tiny": 4,
    "twins_svt_small": 4,
    "densenet121": 5,
    "hrnet_w18_small": 5,
}


@pytest.mark.parametrize("name", NAMES)
def test_the_cut_model_computes_and_trains_like_the_uncut_one(name):
    row = check_backbone(name, boundaries=[NAMES[name] - 1], onnx=False)
    assert (row["outcome"], row["boundaries"]) == ("ok", 1)
    assert max(float(row["eval"]), float(row["train"])) <= 1e-5
