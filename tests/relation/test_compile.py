import pytest
import torch
from reference import layer_of, on_host_only
from test_layer import batches, gradients
from torch import nn

pytestmark = on_host_only


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.tails = nn.ModuleList(nn.Linear(6, d) for d in (5, 3))
        self.relation = layer_of(0.9)

    def forward(self, x):
        f1, f2 = (tail(x).relu() for tail in self.tails)
        return f1.square().mean() + self.relation(f1, f2)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_model_trains_as_an_eager_one(backend):
    torch.manual_seed(0)
    eager, net = Net(), Net()
    net.load_state_dict(eager.state_dict())
    compiled = torch.compile(net, backend=backend)
    for x, _ in batches(3, 16, 6, 2, dtype=torch.float32):
        x = x.detach()
        losses = eager(x), compiled(x)
        assert torch.allclose(*losses, atol=1e-6)
        for pair in zip(
            *(gradients(v, *m.parameters()) for v, m in zip(losses, (eager, net), strict=True)),
            strict=True,
        ):
            assert torch.allclose(*pair, atol=1e-6)
