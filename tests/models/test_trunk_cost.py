"""Nothing is computed twice, and no activation is stored twice."""

import pytest
import torch
from builders import trunk, uncut
from torch.utils.flop_counter import FlopCounterMode

X = torch.randn(2, 3, 64, 64)


def operations(run, *args):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(*args)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_operations_are_those_of_the_trunk_and_the_tails(name):
    whole = operations(uncut(name), X)
    assert operations(trunk(name, "all", "abc"), X) == whole
    assert operations(trunk(name, 0, "abc"), X) == 3 * whole
    model = trunk(name, -2, "ab")
    (shared,) = model.trunk(X)
    common, tail = operations(model.trunk, X), operations(model.tails["b"], *shared)
    assert common + tail == whole
    assert operations(model, X) == common + 2 * tail
    tree = trunk(name, dict(a=1, b=3, c=3), "abc")
    first, second = tree.trunk(X)
    between = operations(tree.tails["a"], *first) - operations(tree.tails["b"], *second)
    assert between > 0
    assert operations(tree, X) == (
        whole + operations(tree.tails["a"], *first) + operations(tree.tails["b"], *second)
    )


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_activations_are_those_of_the_trunk_and_the_tails(name):
    model = trunk(name, -2, "ab")
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def kept(run, *args):
        sizes = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                sizes[storage.data_ptr()] = storage.nbytes(), tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = run(*args)
        return sum(size for size, _ in sizes.values()), outputs

    common, (shared,) = kept(model.trunk, X)
    tails = [kept(tail, *shared)[0] for tail in model.tails.values()]
    assert kept(model, X)[0] <= 1.05 * (common + sum(tails))
