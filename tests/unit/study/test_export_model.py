import warnings

import pytest
import torch
from torch import nn

from autoprune.core.errors import ConfigError, ExportError
from autoprune.study.result import export_model


def test_a_recurrent_network_is_written_without_a_warning(tmp_path):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.rnn = nn.Dropout(), nn.GRU(4, 8, batch_first=True)

        def forward(self, x):
            return self.rnn(self.drop(x))[0]

    model, x = Recurrent(), torch.randn(2, 5, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = export_model(model, (x,), tmp_path / "net.pt2")
    assert model.training
    program = torch.export.load(path)
    assert torch.allclose(program.module()(x), model.eval()(x), atol=1e-6)


def test_what_torch_refuses_is_an_export_error(tmp_path):
    class Flow(nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    with pytest.raises(ExportError, match="refused Flow"):
        export_model(Flow(4, 4), (torch.randn(2, 4),), tmp_path / "net.pt2")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match=r"onnx .* or torch .*net\.pth"):
        export_model(Flow(4, 4), (torch.randn(2, 4),), tmp_path / "net.pth")
