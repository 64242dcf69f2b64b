import pytest
import torch
from safetensors.torch import save_file

from detector.models import NPRDetector
from detector.training.state import Position, load_state, save_state


def trained(seed):
    torch.manual_seed(seed)
    model = NPRDetector().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    model(images).sum().backward()
    optimizer.step()
    return model, optimizer


def test_everything_comes_back(tmp_path):
    model, optimizer = trained(1)
    position = Position(epoch=2, batch=3, step=17, losses=[0.1, torch.tensor(0.3).item()], best=0.75)
    save_state(tmp_path / "s", model, optimizer, position)
    drawn = torch.rand(4)

    other, other_optimizer = trained(2)
    assert load_state(tmp_path / "s", other, other_optimizer) == position
    assert torch.equal(torch.rand(4), drawn)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        for name, value in optimizer.state[a].items():
            restored = other_optimizer.state[b][name]
            assert torch.equal(restored, value), name
            assert restored.stride() == value.stride(), name


def test_best():
    position = Position()
    rounds = [(0.5, True), (0.4, False), (None, True), (0.3, True), (0.3, True), (0.2, False)]
    assert [position.improves({"average_precision": value}) for value, _ in rounds] == [best for _, best in rounds]


@pytest.mark.parametrize("kind", ["text", "other tensors", "other model", "no position"])
def test_states_that_do_not_fit(tmp_path, kind):
    path = tmp_path / "state.safetensors"
    model, optimizer = trained(1)
    if kind == "text":
        path.write_text("a photograph of a cat")
    elif kind == "other tensors":
        save_file({"a": torch.zeros(1)}, path, {"position": "{}"})
    elif kind == "no position":
        save_file({"a": torch.zeros(1)}, path)
    else:
        other = torch.nn.Linear(2, 2)
        save_state(path, other, torch.optim.Adam(other.parameters()), Position())
    with pytest.raises(ValueError, match=r"state\.safetensors: (damaged|the state of another model)"):
        load_state(path, model, optimizer)
