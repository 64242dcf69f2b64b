import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from detector.data import find_images
from detector.evaluation import SWEEPS, Robustness, as_robustness_table, compute_metrics, robustness
from detector.evaluation.robustness import CROP, RESIZE, UNTOUCHED, Condition, Degrade, condition
from tests.detector.evaluation.stub import Roughness, make_tree, read_image, save_image


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng()
    make_tree(tmp_path / "test", ["alpha", "beta"], rng, count=3)
    save_image(tmp_path / "test/alpha/0_real/other.png", rng, False, (31, 18))
    return find_images(tmp_path, "test")


def blurred(image, sigma):
    pixels = image.permute(1, 2, 0).numpy()
    return np.stack([gaussian_filter(pixels[:, :, c], sigma) for c in range(3)], axis=2)


def compressed(image, quality):
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    return np.array(Image.open(file))


def resized(image, factor):
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    size = round(picture.width * factor), round(picture.height * factor)
    return np.array(picture.resize(size, Image.Resampling.BICUBIC))


def cropped(image, side):
    top, left = (image.shape[1] - side) // 2, (image.shape[2] - side) // 2
    return image[:, top : top + side, left : left + side].permute(1, 2, 0).numpy()


def squeezed(image, side):
    return np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    ("sweep", "strength", "by_hand"),
    [
        ("blur", 1.5, blurred),
        ("jpeg", 40, compressed),
        ("resize", 0.5, resized),
        ("resize", 1.5, resized),
        ("view", CROP, lambda image, _: cropped(image, 16)),
        ("view", RESIZE, lambda image, _: squeezed(image, 16)),
    ],
)
def test_condition_equals_the_libraries_output_by_hand(data, sweep, strength, by_hand):
    model = Roughness()
    result = robustness(model, data, sweeps={sweep: [strength]}, batch_size=2)
    assert list(result.points) == [UNTOUCHED, Condition(sweep, strength)]
    for which, change in ((UNTOUCHED, lambda image, _: image.permute(1, 2, 0).numpy()), (result.curve(sweep), by_hand)):
        point = result.points[which] if which == UNTOUCHED else which[0][1]
        single = []
        everything = ([], [])
        for members in data.by_generator().values():
            images = [torch.from_numpy(change(read_image(sample.path), strength)) for sample in members.samples]
            scores = [model(image.permute(2, 0, 1)[None]).double().sigmoid().item() for image in images]
            single.append(compute_metrics(members.labels, scores))
            everything[0].extend(members.labels)
            everything[1].extend(scores)
        together = compute_metrics(*everything)
        assert point.images == len(data)
        assert point.accuracy == pytest.approx(together.accuracy)
        assert point.average_precision == pytest.approx(together.average_precision)
        assert point.mean_accuracy == pytest.approx(np.mean([each.accuracy for each in single]))
        assert point.mean_average_precision == pytest.approx(np.mean([each.average_precision for each in single]))


def test_strengths_that_change_nothing_are_one_condition():
    assert condition("blur", 0) == condition("resize", 1) == condition("noise", 0) == UNTOUCHED
    assert condition("jpeg", 100) == Condition("jpeg", 100)
    assert all(len(set(strengths)) == len(strengths) for strengths in SWEEPS.values())


def test_noise_depends_on_seed_and_image_alone(data):
    image = torch.full((3, 40, 50), 128, dtype=torch.uint8)
    noisy = Degrade(Condition("noise", 5), 1)(image, 7)
    assert torch.equal(noisy, Degrade(Condition("noise", 5), 1)(image, 7))
    others = [Degrade(Condition("noise", 5), seed)(image, index) for seed, index in ((1, 8), (2, 7))]
    assert not any(torch.equal(noisy, other) for other in others)
    assert noisy.float().std().item() == pytest.approx(5, rel=0.1)

    alone = robustness(Roughness(), data, sweeps={"noise": [4]}, batch_size=1)
    after_others = robustness(Roughness(), data, sweeps={"blur": [1], "noise": [1, 4]}, batch_size=5, workers=2)
    assert alone.points[Condition("noise", 4)] == after_others.points[Condition("noise", 4)]


def test_resumes_without_scoring_again(data, tmp_path):
    sweeps = {"blur": [0, 1, 2], "jpeg": [50]}
    model, states = Roughness(), []
    whole = robustness(model, data, sweeps=sweeps, save=states.append)
    assert [len(state.points) for state in states] == [1, 2, 3, 4]
    assert model.calls == 4 * len(data)

    # As from the file of a run that was killed after two conditions.
    partial = Robustness.from_dict(json.loads(json.dumps(states[1].to_dict())))
    again = Roughness()
    assert robustness(again, data, sweeps=sweeps, done=[partial]).points == whole.points
    assert again.calls == 2 * len(data)

    fresh = Roughness()
    robustness(fresh, data, sweeps={"jpeg": [50]}, done=[whole])
    assert fresh.calls == 0


def test_keeps_sweeps_that_are_not_asked_for(data):
    first = robustness(Roughness(), data, sweeps={"blur": [1, 2]})
    second = robustness(Roughness(), data, sweeps={"jpeg": [50]}, done=[first])
    assert list(second.points) == [UNTOUCHED, Condition("blur", 1), Condition("blur", 2), Condition("jpeg", 50)]


@pytest.mark.parametrize("change", ["weights", "images", "seed", "treatment"])
def test_scores_again_what_has_changed(data, change):
    first = robustness(Roughness(), data, sweeps={"noise": [3]})
    model, seed, preprocessing = Roughness(), 0, None
    match change:
        case "weights":
            model = Roughness(slope=-0.3)
        case "images":
            save_image(data.samples[0].path, np.random.default_rng(), True)
        case "seed":
            seed = 1
        case "treatment":
            preprocessing = model.preprocessing.__class__(policy="centre", crop=16)
    robustness(model, data, sweeps={"noise": [3]}, seed=seed, preprocessing=preprocessing, done=[first])
    assert model.calls == 2 * len(data)


def test_round_trip_and_table(data):
    result = robustness(Roughness(), data, sweeps={"resize": [0.5], "view": [CROP, RESIZE]}, name="rough")
    assert Robustness.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    table = as_robustness_table([result, result])
    assert table.row_count == 4
    assert [str(condition) for condition in result.points] == ["untouched", "resize 0.5", "centre crop", "resized"]


def test_one_class_is_undefined(tmp_path):
    make_tree(tmp_path / "test", ["alpha"], np.random.default_rng(), labels=["1_fake"])
    point = robustness(Roughness(), find_images(tmp_path, "test"), sweeps={}).points[UNTOUCHED]
    assert (point.average_precision, point.mean_average_precision, point.chance) == (None, None, None)
    assert point.accuracy is not None


def test_bad_input(data):
    with pytest.raises(ValueError, match="unknown sweeps fog; there are blur"):
        robustness(Roughness(), data, sweeps={"fog": [1]})
    with pytest.raises(ValueError, match="sigma must be finite and not negative, got -1"):
        robustness(Roughness(), data, sweeps={"blur": [-1]})
    with pytest.raises(ValueError, match="kind is 'evaluation'"):
        Robustness.from_dict({"kind": "evaluation"})
    with pytest.raises(ValueError, match="does not say its detector"):
        Robustness.from_dict({"kind": "robustness"})
