"""The installed package: its configs, and imports from its top level."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.hub import get_config

import trn_plugin
from trn_plugin.cli import load_config
from trn_plugin.errors import ConfigError

ROOT = Path(__file__).parents[1]
PACKAGED = Path(trn_plugin.__file__).parent / ".mim"
TOY = "trn_plugin::toy/mtl_test-resnet_toy.py"
OWN = """
_base_ = "trn_plugin::_base_/own_data.py"
model = dict(heads=dict(a=dict(type="RegressionHead", num_values=1)), neck=None)
"""


def test_configs_and_tools_are_in_the_package():
    for path in (ROOT / "configs").rglob("*.*"):
        if "__pycache__" not in path.parts:
            assert (PACKAGED / path.relative_to(ROOT)).is_file()
    assert {path.name for path in (PACKAGED / "tools").iterdir()} - {"__pycache__"} == {
        *("dist_train.sh", "slurm_train.sh"),
        *("train.py", "test.py", "export_onnx.py"),
        *("predict.py", "task_similarity.py", "to_timm.py", "browse_dataset.py"),
    }


def test_the_index_names_every_config_once():
    found = []
    for metafile in yaml.safe_load((PACKAGED / "model-index.yml").read_text())["Import"]:
        content = yaml.safe_load((PACKAGED / metafile).read_text())
        (collection,) = [c["Name"] for c in content["Collections"]]
        for model in content["Models"]:
            assert model["In Collection"] == collection
            assert model["Name"] == Path(model["Config"]).stem
            found.append(model["Config"])
    configs = [p for p in (ROOT / "configs").rglob("*.py") if "_base_" not in p.parts]
    assert sorted(found) == sorted(str(path.relative_to(ROOT)) for path in configs)


def test_a_packaged_config_is_found_by_name():
    assert load_config(TOY).model.type == "MultiTaskModel"
    assert get_config(TOY).model.type == "MultiTaskModel"
    with pytest.raises(ConfigError, match=r"trn_plugin::toy/gone\.py: no such config file in "):
        load_config("trn_plugin::toy/gone.py")


@pytest.mark.parametrize("read", [Config.fromfile, load_config])
def test_a_packaged_config_is_a_base(tmp_path, read):
    (tmp_path / "own.py").write_text(OWN)
    config = read(str(tmp_path / "own.py"))
    assert config.model.heads.a.num_values == 1
    assert config.runner_type == "trn_plugin.SafeRunner"
    if read is load_config:
        assert "_scope_" not in config.pretty_text


@pytest.mark.parametrize(
    "imports",
    [
        "import trn_plugin.registry\nfrom mmengine.config import Config",
        "from mmengine.config import Config\nimport trn_plugin",
        "import trn_plugin\nfrom mmengine.config import Config",
    ],
)
def test_a_plain_script_reads_packaged_configs(tmp_path, imports):
    (tmp_path / "own.py").write_text(OWN)
    code = (
        f"{imports}\nfor name in ('own.py', {TOY!r}):\n    print(Config.fromfile(name).runner_type)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.count("trn_plugin.SafeRunner\n") == 2, done.stderr


def test_names_at_the_top():
    assert set(trn_plugin.__all__) <= set(dir(trn_plugin))
    for name in trn_plugin.__all__:
        assert getattr(trn_plugin, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Predictor'"):
        _ = trn_plugin.Predictor
