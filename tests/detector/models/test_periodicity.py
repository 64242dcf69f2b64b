"""What the whole image adds to the logit."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from detector.data import Preprocessing
from detector.explain import explain, local_logits
from detector.models import NPRDetector, load_checkpoint, save_checkpoint
from detector.models.inference import logits, score_stream
from detector.models.periodicity import FLOOR, GROUPS, REFERENCE_BLOCKS, Periodicity, measure, transposed
from detector.models.sampling import reading_stream
from npr_kernels.periodicity import DIFFERENCES, blocks_of, coherence


def random_head(rng):
    head = Periodicity()
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(rng.normal(0, 0.05, head.weight.shape)))
        head.bias.fill_(rng.normal())
    return head


def detector(rng, **arguments):
    torch.manual_seed(int(rng.integers(2**31)))
    model = NPRDetector(Preprocessing(policy="native", crop=32), residual="npr+haar", **arguments).eval()
    return model.with_periodicity(random_head(rng), 0.5)


def noise(rng, *shape):
    return torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))


def test_groups_have_each_frequency_once():
    members = [frequency for group in GROUPS.values() for frequency in group]
    conjugates = [((-row) % 8, (-column) % 8) for row, column in members]
    assert len(set(members)) == len(members) == 33
    everything = {(row, column) for row in range(8) for column in range(8)} - {(0, 0)}
    assert set(members) | set(conjugates) == everything
    for name, group in GROUPS.items():
        where, period = name.split()
        for row, column in group:
            assert (row == 0) == (where == "across")
            assert (column == 0) == (where == "down")
            assert max(8 // math.gcd(8, row), 8 // math.gcd(8, column)) == int(period)


def test_the_logit_is_the_formula(rng):
    head, images = random_head(rng), noise(rng, 2, 3, 83, 120)
    expected = np.full(2, head.bias.item())
    for n, found in enumerate(coherence(images).double().numpy()):
        for g, group in enumerate(GROUPS.values()):
            mean = np.mean([found[..., row, column] for row, column in group], axis=0)
            expected[n] += (head.weight[..., g].detach().double().numpy() * np.log(mean + FLOOR)).sum()
    # 648 logarithms below 8, of weights near 0.05, in float32.
    np.testing.assert_allclose(head(images).squeeze(1).detach().numpy(), expected, atol=2e-4)


def test_large_images_count_as_so_many_blocks(rng):
    """Of a lattice, T - 1 grows with the number of blocks; what is read of it does not."""
    strong = rng.normal(0, 20, (3, 600, 900)) * np.where(np.arange(900) % 2, 2.0, 1.0)
    image = torch.from_numpy((128 + strong).clip(0, 255).astype(np.uint8))[None]
    small = image[..., :258, :258]
    assert blocks_of(258, 258) == REFERENCE_BLOCKS
    place = (..., list(DIFFERENCES).index("xx"), slice(None), list(GROUPS).index("across 2"))
    large, reference = (measure(each)[place].exp() for each in (image, small))
    assert coherence(image)[0, 0, 3, :, 0, 4].min() > 2 * reference.min()  # as it is, it has grown
    # The lattice's share p of the energy, 0.6 and of edges 0.16, is known from B blocks to a part 2 sqrt((1 - p) / p B)
    # of itself, 0.05 and 0.14: six of them, of the logarithm, are a factor of 1.3 and 2.4. Unread blocks give one of 8.
    share = (large - 1) / (REFERENCE_BLOCKS - 1)
    deviation = 2 * ((1 - share) / (share * REFERENCE_BLOCKS)).sqrt()
    assert ((large / reference).log().abs() < 6 * deviation).all()


def test_transposed_images_are_transposed_measurements(rng):
    images = noise(rng, 2, 3, 97, 64)
    torch.testing.assert_close(measure(images.transpose(2, 3)), transposed(measure(images)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("pooling", ["mean", "top-10%"])
def test_it_is_added_whichever_way_an_image_is_read(pooling, rng):
    model = detector(rng, pooling=pooling)
    images = noise(rng, 2, 3, 301, 210)
    with torch.no_grad():
        network = model.pool(model.features(images)).flatten().double()
        whole = model.periodicity(images).flatten().double()
        torch.testing.assert_close(model(images).flatten().double(), network + whole, rtol=0, atol=1e-5)
        torch.testing.assert_close(model.for_inference()(images).flatten().double(), network + whole, rtol=0, atol=1e-4)
    for size in (2**20, 2**14):  # at once, and in tiles
        torch.testing.assert_close(logits(model, images, max_pixels=size), network + whole, rtol=0, atol=1e-4)


def test_large_images_are_sampled_and_it_is_added(rng):
    model, image = detector(rng), noise(rng, 3, 1100, 1300)
    ((_, reading),) = reading_stream(model, [(0, image)], 1, outcome=lambda _: 0, confidence=0.99)
    ((_, score),) = score_stream(model, [(0, image)], 1)
    assert reading.read < 0.6
    low, high = reading.interval
    assert low <= score <= high
    middle = math.log(reading.score / (1 - reading.score))
    with torch.no_grad():
        network = middle - model.periodicity(image[None]).item()
        whole = model.pool(model.for_inference().features(image[None].contiguous(memory_format=torch.channels_last)))
    assert network == pytest.approx(whole.item(), abs=0.5 * (math.log(high / (1 - high)) - math.log(low / (1 - low))))


def test_explanations_add_up(rng):
    model, image = detector(rng), noise(rng, 3, 150, 161)
    with torch.no_grad():
        whole, logit = model.periodicity(image[None]).item(), model(image[None]).item()
    found = explain(model, image, max_pixels=2**13)
    assert found.whole == pytest.approx(whole, abs=1e-5)
    assert found.logit == pytest.approx(logit, abs=1e-4)
    assert found.activation.sum().item() + found.bias + found.whole == pytest.approx(found.logit, abs=1e-9)
    assert found.local_logits.mean().item() == pytest.approx(found.logit, abs=1e-6)
    torch.testing.assert_close(local_logits(model, image), found.local_logits, rtol=0, atol=1e-4)


def test_checkpoints_keep_it(tmp_path, rng):
    model, images = detector(rng), noise(rng, 1, 3, 64, 64)
    save_checkpoint(tmp_path / "m.safetensors", model)
    again = load_checkpoint(tmp_path / "m.safetensors")
    assert again.architecture == model.architecture
    assert again.architecture["periodicity"] is True
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    plain = NPRDetector(residual="npr+haar")
    assert "periodicity" not in plain.architecture
    assert not any("periodicity" in name for name in plain.state_dict())


def test_images_too_small_for_a_tile_have_a_logit(rng):
    model = detector(rng)
    for size in ((2, 2), (17, 40), (18, 18)):
        with torch.no_grad():
            assert model(noise(rng, 1, 3, *size)).isfinite().all()


def test_the_box_tells_enlarged_noise_from_noise_without_a_lattice(rng):
    """A field of noise that a transposed convolution enlarged, against one of the same spectrum with no lattice: what
    the regression was fitted for, on pictures that it cannot have seen."""
    whole = load_checkpoint("default").periodicity
    code = torch.from_numpy(rng.normal(0, 1, (1, 1, 160, 160))).float()
    # Taps that differ between even and odd places by a tenth: what training leaves of a decoder's asymmetry.
    taps = torch.tensor([[0.23, 0.77, 0.87, 0.13]])
    kernel = (taps.T @ taps)[None, None]
    decoded = torch.nn.functional.conv_transpose2d(code, kernel, stride=2, padding=1)
    image = (128 + 25 * decoded + torch.from_numpy(rng.normal(0, 2, decoded.shape))).clamp(0, 255)
    real = image.flatten()[torch.from_numpy(rng.permutation(image.numel()))].view(image.shape)
    real = torch.nn.functional.avg_pool2d(real, 3, 1, 1)
    with torch.no_grad():
        fake_logit, real_logit = (
            whole(each.round().to(torch.uint8).expand(-1, 3, -1, -1)[..., :256, :256]).item()
            for each in (image, 128 + 2 * (real - 128))
        )
    assert fake_logit > real_logit + 1


def test_compression_hides_it(rng):
    """The coherence of a weak lattice falls when the image is compressed: here so that nobody expects otherwise."""
    strength = np.where(np.arange(256) % 2, 1.3, 1.0)
    pixels = (128 + rng.normal(0, 8, (256, 256, 3)) * strength[None, :, None]).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=50)
    compressed = np.asarray(Image.open(buffer))
    place = (0, 0, list(DIFFERENCES).index("xx"), slice(None), 0, 4)
    before, after = (
        coherence(torch.from_numpy(each.copy()).permute(2, 0, 1)[None])[place] for each in (pixels, compressed)
    )
    # In 150 draws: 194 and a standard deviation of 14 before, 4.9 and a tail that falls by e each 3.5 after.
    assert before.min() > 2 * after.max()
