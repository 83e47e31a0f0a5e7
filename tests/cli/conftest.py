import pytest
from tool_runs import tool
from toy_job import CONFIG, SIZES, options

from trn_plugin.datasets.toy_faces import make_toy_faces


@pytest.fixture(scope="session")
def job(tmp_path_factory):
    """One trained run: its folder, faces, checkpoint and exported file."""
    folder = tmp_path_factory.mktemp("job")
    faces, work, exported = folder / "faces", folder / "work", folder / "model.onnx"
    make_toy_faces(str(faces), **SIZES)
    checkpoint = work / "epoch_2.pth"
    with pytest.MonkeyPatch.context() as patch:
        train = (CONFIG, "--work-dir", work, *options(faces, 2))
        assert tool("train", *train, monkeypatch=patch) == 0
        export = (CONFIG, checkpoint, exported, *options(faces))
        assert tool("export_onnx", *export, monkeypatch=patch) == 0
    return dict(folder=folder, faces=faces, checkpoint=checkpoint, exported=exported)
