"""All implementations of a case compute the same, and what it costs at least is counted rightly."""

import pytest
import torch
from torch import nn

from detector.bench import calls, cases, works
from detector.bench.calls import Caller
from detector.bench.cases import Case
from detector.bench.networks import BUILDS, random_detector
from detector.export.errors import ExportError
from detector.models import NPRDetector
from tests import needs


@pytest.fixture
def caller(tmp_path):
    return Caller(1, tmp_path)


def flat(result):
    """What a call returned, as one vector."""
    if isinstance(result, list) and isinstance(result[0], torch.Tensor):
        return torch.cat([each.flatten() for each in result])
    return torch.as_tensor(result).flatten()


@needs.extension
@pytest.mark.parametrize("rival", ["eager", "channels_last"])
@pytest.mark.parametrize("work", [cases.FORWARD, cases.BACKWARD, cases.STEM, cases.STEM_TRAINING])
def test_ops_agree(work, rival, caller, rng):
    case = Case("op", work, int(rng.integers(1, 4)), 2 * int(rng.integers(4, 16)), ("npr", rival))
    torch.testing.assert_close(
        flat(caller.prepare(case, rival)()), flat(caller.prepare(case, "npr")()), rtol=1e-4, atol=1e-4
    )


@needs.extension
@pytest.mark.parametrize("rival", ["eager", "channels_last"])
def test_training_steps_agree(rival, caller, rng):
    """The loss, step after step."""
    case = Case("train", "training step", 4, 2 * int(rng.integers(16, 32)), ("npr", rival))
    ours, theirs = caller.prepare(case, "npr"), caller.prepare(case, rival)
    losses = [(ours().item(), theirs().item()) for _ in range(3)]
    for our, their in losses:
        assert our == pytest.approx(their, rel=1e-2)
    assert len({our for our, _ in losses}) == 3


@pytest.mark.parametrize("rival", [name for name in BUILDS if name not in ("npr", "compile")])
def test_models_agree(rival, caller, rng):
    case = Case("model", "model in inference", int(rng.integers(1, 4)), 2 * int(rng.integers(16, 48)), ("npr", rival))
    try:
        found = flat(caller.prepare(case, rival)())
    except ExportError as error:
        pytest.skip(f"{rival}: {error}")
    ours = flat(caller.prepare(case, "npr")())
    assert found.shape == ours.shape == (case.batch,)
    if not BUILDS[rival].int8:  # how near those are is tested with their rounding
        torch.testing.assert_close(found, ours, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_model_agrees(caller):
    case = Case("model", "model in inference", 2, 32, ("npr", "compile"))
    ours = flat(caller.prepare(case, "npr")())
    torch.testing.assert_close(flat(caller.prepare(case, "compile")()), ours, rtol=0, atol=1e-4)


def test_pipelines_agree(caller, rng):
    case = Case("pipeline", "files to verdicts", 18, 2 * int(rng.integers(16, 32)), ("npr", "eager", "channels_last"))
    ours, *others = (flat(caller.prepare(case, name)()) for name in case.implementations)
    assert ours.shape == (18,)
    assert len(set(ours.tolist())) == 4  # the scenes
    for scores in others:
        torch.testing.assert_close(scores, ours.to(scores), rtol=0, atol=1e-4)


def test_a_network_is_built_once_for_model_and_pipeline(caller, monkeypatch):
    built = []
    build = calls.networks.build
    monkeypatch.setattr(calls.networks, "build", lambda *args: built.append(args[0]) or build(*args))
    for kind, batch in (("model", 16), ("pipeline", 32), ("model", 2)):
        caller.prepare(Case(kind, "", batch, 16, ("eager",)), "eager")
    assert built == ["eager", "eager"]


def test_the_detector_is_always_the_same():
    first, second = random_detector(), random_detector()
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert not first.training


# ---- Costs --------------------------------------------------------------------------------------------------------


def counted(size):
    """Multiply-adds of a network's convolutions, layer by layer, and those of the stem's centre tap apart."""
    total = {"stem": 0, "blocks": 0}

    def count(name):
        def hook(conv, inputs, out):
            total[name] += out.numel() * conv.weight[0].numel()

        return hook

    model = NPRDetector().eval()
    for module in [*model.layer1.modules(), *model.layer2.modules()]:
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count("blocks"))
    stem = nn.Conv2d(3, 64, 3, stride=2, padding=1)
    stem.register_forward_hook(count("stem"))
    with torch.no_grad():
        model(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        stem(torch.zeros(1, 3, size, size))
    return total


def test_multiply_adds_are_those_of_the_layers(rng):
    size = 2 * int(rng.integers(16, 40))
    total = counted(size)
    stem, blocks = total["stem"] * 8 / 9, total["blocks"]
    assert works.convolution(size, size) == stem
    assert works.network(size, size) == stem + blocks
    case = Case("model", "", 1, size, ())
    assert calls.costs(case, "eager") == {"multiply_adds": stem + blocks}
    assert calls.costs(case, "npr-int8") == {}  # the floor is float32's
    train = calls.costs(Case("train", "training step", 1, size, ()), "npr")["multiply_adds"]
    assert train > 3 * blocks + stem


def test_bytes_are_those_of_inputs_and_outputs():
    costs = calls.costs(Case("op", cases.STEM, 16, 64, ()), "npr")
    assert costs["bytes"] == 3 * 64 * 64 + 4 * 64 * 16 * 16


def test_every_case_is_of_a_kind_and_a_work():
    for case in (*cases.FULL, *cases.QUICK):
        assert case.kind in cases.KINDS
        assert case.implementations[0] == "npr"
        assert calls.costs(case, "npr")["multiply_adds"] > 0
        assert case.batch * case.size**2 <= 2**22 or case.kind == "pipeline"
    for kind in cases.KINDS:
        assert {case.kind for case in cases.select(cases.QUICK, (kind,))} == {kind}
