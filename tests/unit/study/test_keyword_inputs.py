"""A network that is called by keyword, as those of transformers are."""

import onnxruntime
import pytest
import torch
from torch import nn

import autoprune


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.up, self.head = nn.Embedding(20, 8), nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, input_ids, attention_mask=None, labels=None):
        x = torch.relu(self.up(self.embed(input_ids)))
        mask = attention_mask[..., None].float()
        logits = self.head((x * mask).sum(1) / mask.sum(1))
        return {"logits": logits}


def batch(size, generator):
    ids = torch.randint(0, 20, (size, 6), generator=generator)
    return {"attention_mask": (ids > 3).long(), "input_ids": ids}


def test_a_search_with_keyword_inputs(tmp_path):
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Masked().eval()
    held = batch(64, generator)
    with torch.no_grad():
        wanted = model(**held)["logits"]

    def evaluate(network):
        return -float((network(**held)["logits"] - wanted).pow(2).mean() / wanted.pow(2).mean())

    result = autoprune.search(
        model,
        batch(4, generator),
        budget="params=0.7x",
        evaluate=evaluate,
        calibration=[batch(32, generator) for _ in range(2)],
        device=None,
        trials=3,
    )
    assert result.held
    assert result.accuracy > -0.5
    session = onnxruntime.InferenceSession(result.export(tmp_path / "pruned.onnx"))
    names = {value.name for value in session.get_inputs()}
    assert names == {"input_ids", "attention_mask"}
    small = batch(4, generator)
    (got,) = session.run(None, {name: small[name].numpy() for name in names})
    with torch.no_grad():
        assert torch.from_numpy(got) == pytest.approx(result.model(**small)["logits"], abs=1e-4)
    program = torch.export.load(result.export(tmp_path / "pruned.pt2"))
    assert torch.from_numpy(got) == pytest.approx(
        program.module()(**small)["logits"].detach(), abs=1e-4
    )
