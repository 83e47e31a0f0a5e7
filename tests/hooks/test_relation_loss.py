import pytest
import torch
from builders import batch, build, model_config
from mmengine.runner import Runner

from trn_plugin.engine import SafeRunner
from trn_plugin.errors import ConfigError
from trn_plugin.hooks import TaskRelationLossHook

SIZE = 32


class Faces(torch.utils.data.Dataset):
    metainfo: dict = {}

    def __len__(self):
        return 32

    def __getitem__(self, index):
        x, (sample,) = batch(1, SIZE, seed=int(index))
        return dict(inputs=(x[0] * 50 + 120).clamp(0, 255).byte(), data_samples=sample)


def runner(
    tmp_path,
    hooks=(),
    name="run",
    kind=SafeRunner,
    epochs=1,
    seed=3,
    batch_size=16,
    dataset=None,
    sampler="DrawSampler",
    shuffle=True,
    **options,
):
    defaults = dict(
        model=model_config(size=SIZE, levels=("hidden", "output")),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.05, momentum=0.9)),
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1)),
        default_scope="trn_plugin",
    )
    return kind(
        work_dir=str(tmp_path / name),
        train_dataloader=dict(
            batch_size=batch_size,
            sampler=dict(type=sampler, shuffle=shuffle),
            dataset=dataset or Faces(),
            collate_fn=dict(type="pseudo_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        custom_hooks=list(hooks),
        experiment_name=f"{abs(hash(str(tmp_path)))}_{name}",
        randomness=dict(seed=seed),
        log_level="WARNING",
        **{**defaults, **options},
    )


def weights(run):
    return {k: v for k, v in run.model.state_dict().items() if not k.startswith("neck.")}


def history(run, key):
    return run.message_hub.get_scalar(f"train/{key}").data[0].tolist()


def relation_hook(**options):
    return dict(type="TaskRelationLossHook", **(dict(min_samples_per_dim=0) | options))


def test_mtl_becomes_trn_by_one_line(tmp_path):
    mtl, trn = (
        runner(tmp_path, hooks, name=name)
        for name, hooks in (
            ("mtl", []),
            ("trn", [relation_hook(weights=dict(output=1.0, hidden=1.0))]),
        )
    )
    mtl.train()
    trn.train()
    assert "train/loss_relation_output" not in mtl.message_hub.log_scalars
    for level in ("output", "hidden"):
        tau, label = (history(trn, f"relation/{x}/landmarks-pose")[0] for x in (level, "label"))
        expected = abs(tau - label)
        assert history(trn, f"loss_relation_{level}")[0] == pytest.approx(expected, abs=1e-6)
    assert history(mtl, "loss_pose")[0] == history(trn, "loss_pose")[0]
    assert any(not torch.equal(v, weights(trn)[k]) for k, v in weights(mtl).items())


def test_weight_zero_is_bit_identical_to_mtl(tmp_path):
    runs = [
        runner(tmp_path, [], name="mtl"),
        runner(tmp_path, [relation_hook(weights=dict(output=0.0, hidden=0.0))], name="zero"),
        runner(tmp_path, [], name="no-neck", model=model_config(size=SIZE, neck=False)),
    ]
    for run in runs:
        run.train()
    for other in runs[1:]:
        assert all(torch.equal(v, weights(other)[k]) for k, v in weights(runs[0]).items())


def test_warm_up_by_effective_sample_size(tmp_path):
    """Output has 10 + 5 features, so it needs 75 samples; a step has 16."""
    run = runner(
        tmp_path,
        [relation_hook(weights=dict(output=0.5), min_samples_per_dim=5)],
        epochs=4,
    )
    run.train()
    samples = 0.0
    squares = 0.0
    for on, loss in zip(
        history(run, "relation/weight_output"), history(run, "loss_relation_output"), strict=True
    ):
        samples, squares = 0.9 * samples + 16, 0.81 * squares + 16
        enough = samples**2 / squares >= 75
        assert on == (0.5 if enough else 0)
        assert (loss > 0) == enough
    assert enough


def test_refuses_relations_that_never_get_enough_samples(tmp_path):
    hook = relation_hook(weights=dict(hidden=0.1), min_samples_per_dim=5)
    with pytest.raises(ConfigError, match=r"hidden.* needs 5 x \(96 \+ 96\) = 960 .*tends to 304"):
        runner(tmp_path, [hook], name="a").train()
    run = runner(tmp_path, [hook | dict(allow_undersampled=True)], name="b")
    run.train()
    assert set(history(run, "loss_relation_hidden")) == {0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *[(dict(weights=weights), "at least one level") for weights in ({}, 5)],
        (dict(weights=dict(output=-1)), "number >= 0 for 'output', found -1"),
        (dict(weights=dict(output="much")), "found 'much'"),
        (dict(weights=dict(output=1.0), min_samples_per_dim=-1), "min_samples_per_dim"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        TaskRelationLossHook(**options)


def test_missing_levels_and_necks(tmp_path):
    hook = relation_hook(weights=dict(hidden=0.1))
    model = model_config(size=SIZE, levels=("output",))
    with pytest.raises(ConfigError, match=r"level 'hidden' is not measured; .*\('output',\)"):
        runner(tmp_path, [hook], name="a", model=model).train()
    model = model_config(size=SIZE, neck=False)
    with pytest.raises(ConfigError, match=r"needs a model with model\.neck"):
        runner(tmp_path, [hook], name="b", model=model).train()


def test_a_step_along_the_gradient_closes_the_gap_as_predicted():
    """f(w - t g) = f(w) - t |g|^2 to first order, through heads, tails and trunk."""
    model = build(size=SIZE, momentum=0.0)
    hook = TaskRelationLossHook(dict(output=1.0, hidden=1.0), min_samples_per_dim=0)
    model.neck.require_samples(0)
    model.relation_losses.append(hook.losses)
    model.double()
    x, samples = batch(64, SIZE)

    def gap():
        losses = model(x.double(), samples, "loss")
        return losses["loss_relation_output"] + losses["loss_relation_hidden"]

    parameters = list(model.parameters())
    before = gap()
    gradients = torch.autograd.grad(before, parameters)
    squared = sum(g.square().sum() for g in gradients).item()
    step = 1e-4 * before.item() / squared
    with torch.no_grad():
        for p, g in zip(parameters, gradients, strict=True):
            p -= step * g
    assert before.item() - gap().item() == pytest.approx(step * squared, rel=0.05)


def test_mmengines_runner_works(tmp_path):
    """The hook also works with MMEngine's own runner."""
    run = runner(tmp_path, [relation_hook(weights=dict(output=1.0))], kind=Runner)
    run.train()
    assert history(run, "loss_relation_output")[0] > 0
