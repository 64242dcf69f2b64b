"""Several processes train what one would: statistics, gradients, whole runs, and resumption."""

import contextlib
import copy
import os
import queue
import signal
import subprocess
import sys
import time
from datetime import timedelta
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from detector.data import Batch
from detector.training.batch_norm import synchronise_batch_norms
from detector.training.log import read_log
from detector.training.ranks import ALONE, Ranks, torchrun_ranks
from detector.training.recipes import DEFAULT
from detector.training.trainer import EpochBatches, TrainConfig, step
from tests.detector.training.folders import make_data

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo, which ranks talk by on CPUs"
)

# 31 images and batches of 6, shared 3 + 3; of the last batch's one image, rank 0 has none.
OPTIONS = ["--crop", "16", "--batch-size", "6", "--workers", "0", "--device", "cpu", "--lr", "1e-4", "--log-every", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = make_data(tmp_path_factory.mktemp("data"))
    next((root / "train").rglob("*.png")).unlink()
    return root


def command(ranks, *words):
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    return [sys.executable, *start, "-m", "detector.cli", "train", *map(str, words), *OPTIONS]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def run(ranks, *words):
    done = subprocess.run(command(ranks, *words), env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def children_of(parent):
    """The processes that a process started."""
    children = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                children.append(int(status.parent.name))
    return children


def curve(folder):
    return np.array([line["loss"] for line in read_log(folder) if line["event"] == "train"])


def norm_main(rank, size, rendezvous, shares, module, grads, results):
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    module = copy.deepcopy(module)  # tensors arrive in memory that the ranks share
    synchronise_batch_norms(module)
    x = shares[rank].requires_grad_()
    out = module(x)
    out.backward(grads[rank])
    tensors = [out.detach(), x.grad, *(p.grad for p in module.parameters()), *module.buffers()]
    results.put((rank, [t.numpy() for t in tensors]))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(3, 2), (4, 0)], ids=["uneven", "one has none"])
def test_synchronised_statistics_are_those_of_the_whole_batch(rng, tmp_path, counts):
    whole = nn.Sequential(nn.BatchNorm2d(5), nn.Tanh(), nn.BatchNorm2d(5, eps=1e-3, momentum=0.3)).double()
    for parameter in whole.parameters():
        nn.init.normal_(parameter)
    module = copy.deepcopy(whole)
    shares = [3 * torch.randn(count, 5, 4, 7, dtype=torch.double) + 1 for count in counts]
    grads = [torch.randn_like(share) for share in shares]
    x = torch.cat(shares).requires_grad_()
    out = whole(x)
    out.backward(torch.cat(grads))

    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (len(counts), f"file://{tmp_path / 'rendezvous'}", shares, module, grads, results)
    processes = [context.Process(target=norm_main, args=(rank, *arguments)) for rank in range(len(counts))]
    for process in processes:
        process.start()
    answers = dict(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0

    for index, want in enumerate((out, x.grad)):
        got = np.concatenate([answers[rank][index] for rank in sorted(answers)])
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-9, atol=1e-9)
    parameters = list(whole.parameters())
    for index, parameter in enumerate(parameters, start=2):
        total = sum(answer[index] for answer in answers.values())
        np.testing.assert_allclose(total, parameter.grad.numpy(), rtol=1e-9, atol=1e-9)
    for index, buffer in enumerate(whole.buffers(), start=2 + len(parameters)):
        for answer in answers.values():
            np.testing.assert_allclose(answer[index], buffer.numpy(), rtol=1e-9, atol=1e-9)


def test_evaluation_needs_no_others(rng):
    module = nn.Sequential(nn.BatchNorm2d(3))
    x = torch.randn(2, 3, 4, 4)
    module(x)
    want = module.eval()(x)
    synchronise_batch_norms(module)
    assert torch.equal(module.eval()(x), want)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_make_up_the_whole(rng, size):
    items = list(range(int(rng.integers(0, 20))))
    shares = [Ranks(rank, size).share(items) for rank in range(size)]
    assert [item for share in shares for item in share] == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_batches_of_ranks_make_up_those_of_one(rng):
    labels = rng.integers(0, 2, 23).tolist()
    whole = EpochBatches(labels, 5, seed=3, balanced=False)
    parts = [EpochBatches(labels, 5, seed=3, balanced=False, ranks=Ranks(rank, 3)) for rank in range(3)]
    for batches in (whole, *parts):
        batches.set_epoch(2, first=1)
    assert [list(chain(*shares)) for shares in zip(*parts, strict=True)] == list(whole)


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with torchrun_ranks() as ranks:
        assert ranks is ALONE
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="WORLD_SIZE"), torchrun_ranks():
        pass


@pytest.fixture(scope="module")
def two(data, tmp_path_factory):
    """The folder of a run of two ranks, and what it said."""
    folder = tmp_path_factory.mktemp("two") / "run"
    return folder, run(2, data, "--out", folder, "--epochs", "4")


def steps_main(ranks, rendezvous, config, batches, answers):
    """Trains float64 models by the same steps; puts the losses and the tensors at the end."""
    if ranks.size > 1:
        dist.init_process_group("gloo", init_method=rendezvous, rank=ranks.rank, world_size=ranks.size)
    torch.set_num_threads(1)
    torch.manual_seed(7 + ranks.rank)  # the first rank's weights are everybody's
    model = config.recipe.detector().double()
    ranks.prepare(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for images, labels in batches:
        batch = Batch(ranks.share(images), ranks.share(labels), ranks.share(labels), [])
        losses.append(step(model, optimizer, batch, len(labels), 1e-3, torch.device("cpu"), config, ranks).item())
    answers.put((ranks.rank, losses, {name: t.numpy() for name, t in model.state_dict().items()}))
    if ranks.size > 1:
        dist.destroy_process_group()


@pytest.mark.slow
def test_twenty_steps_of_two_ranks_equal_those_of_one(rng, tmp_path):
    """In float64, whose rounding grows to 1e-8 here, by batch norms of few values; a mistake moves weights by 1e-3."""
    config = TrainConfig("", "", DEFAULT.changed(crop=16, residual="npr+haar"))
    batches = [
        (torch.from_numpy(rng.integers(0, 256, (count, 3, 16, 16), dtype=np.uint8)), torch.arange(count) % 2)
        for count in [5] * 9 + [2, 1] + [4] * 9
    ]
    context = torch.multiprocessing.get_context("spawn")
    answers = context.Queue()
    arguments = (f"file://{tmp_path / 'rendezvous'}", config, batches, answers)
    processes = [context.Process(target=steps_main, args=(Ranks(rank, 2), *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    results = {rank: (losses, tensors) for rank, losses, tensors in (answers.get(timeout=200) for _ in processes)}
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    local = queue.Queue()
    threads = torch.get_num_threads()
    try:
        steps_main(ALONE, *arguments[:-1], local)
    finally:
        torch.set_num_threads(threads)
    _, losses, tensors = local.get()
    for rank in range(2):
        np.testing.assert_allclose(results[rank][0], losses, rtol=1e-4)
        for name, tensor in tensors.items():
            np.testing.assert_allclose(results[rank][1][name], tensor, rtol=1e-4, atol=1e-4, err_msg=name)
            assert (results[rank][1][name] == results[0][1][name]).all(), name


@pytest.mark.slow
def test_two_ranks_train_what_one_process_does(data, two, tmp_path):
    """The command, in float32: the same images in the same order, and rounding, which grows."""
    folder, done = two
    assert done.stdout.splitlines() == [str(folder / "best.safetensors")]
    assert done.stderr.count("31 images") == 1
    run(1, data, "--out", tmp_path / "one", "--epochs", "4")
    one, both = curve(tmp_path / "one"), curve(folder)
    assert len(one) == len(both) == 24
    np.testing.assert_allclose(both[:3], one[:3], rtol=1e-3)
    validations = [
        [line["images"] for line in read_log(f) if line["event"] == "val"] for f in (tmp_path / "one", folder)
    ]
    assert validations == [[12] * 4] * 2


def test_accumulated_gradients_are_those_of_the_batch(rng):
    """With batch norms at rest, which see the parts."""
    images = torch.from_numpy(rng.integers(0, 256, (5, 3, 16, 16), dtype=np.uint8))
    batch = Batch(images, torch.arange(5) % 2, torch.arange(5), [])
    model = DEFAULT.changed(crop=16).detector().double().eval()
    gradients, losses = [], []
    for parts in (1, 2, 7):
        config = TrainConfig("", "", DEFAULT.changed(crop=16), accumulate=parts)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        losses.append(step(model, optimizer, batch, 5, 0.0, torch.device("cpu"), config, ALONE).item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    for gradient, loss in zip(gradients, losses, strict=True):
        assert loss == pytest.approx(losses[0], rel=1e-9)
        assert torch.allclose(gradient, gradients[0], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc, to find torchrun's processes")
def test_killed_and_resumed_is_the_same_bit_for_bit(data, two, tmp_path):
    folder, _ = two
    words = (data, "--out", tmp_path / "run", "--epochs", "4", "--checkpoint-every", "5")
    process = subprocess.Popen(command(2, *words), env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    for worker in children_of(process.pid):  # they have sessions of their own, and would go on without torchrun
        os.kill(worker, signal.SIGKILL)
    process.kill()
    process.wait()
    done = subprocess.run(
        command(1, *words, "--resume"), env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert "with 1 processes: it was started with 2" in done.stderr
    run(2, *words, "--resume")
    for name in ("last.safetensors", "best.safetensors", "state.safetensors"):
        a, b = load_file(folder / name), load_file(tmp_path / "run" / name)
        assert [key for key in a if not torch.equal(a[key], b[key])] == []
    assert (curve(folder) == curve(tmp_path / "run")).all()
