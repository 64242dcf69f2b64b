import pytest
import torch

from detector.data import BlurJpeg, Preprocessing, RandomDelivery
from detector.models import CNNDetector, NPRDetector
from detector.training.recipes import AUGMENTATIONS, CNNDETECTION, DEFAULT, NPR, RECIPES, Recipe


def test_the_papers_recipe():
    assert NPR.preprocessing() == Preprocessing(policy="resize", resize=256, crop=224, flip=True)
    assert (NPR.batch_size, NPR.epochs, NPR.learning_rate, NPR.betas) == (32, 50, 2e-4, (0.9, 0.999))
    rates = [NPR.learning_rate_at(epoch, batch, 100) for epoch in range(50) for batch in (0, 99)]
    assert rates == [pytest.approx(2e-4 * 0.9 ** (i // 20)) for i in range(100)]


def test_cnndetections_recipe():
    recipe = CNNDETECTION
    assert recipe.preprocessing() == Preprocessing(policy="centre", crop=224, flip=True)
    assert (recipe.batch_size, recipe.learning_rate, recipe.betas) == (64, 1e-4, (0.9, 0.999))
    assert recipe.changed(jpeg_encoders=("pillow",)).augmentation() == BlurJpeg(
        0.5, (0.0, 3.0), 0.5, (30, 100), ("pillow",)
    )
    assert [recipe.learning_rate_at(7, 3, 9, drops) for drops in range(3)] == pytest.approx([1e-4, 1e-5, 1e-6])
    assert [recipe.ends_after(drops) for drops in range(4)] == [False, False, False, True]
    assert not NPR.ends_after(100)


def test_augmentations_are_the_papers_five_and_delivery():
    recipes = {name: CNNDETECTION.changed(**values) for name, values in AUGMENTATIONS.items()}
    delivery = recipes.pop("delivery").changed(jpeg_quality=(50, 90), jpeg_encoders=("pillow",))
    assert delivery.augmentation() == RandomDelivery(2 / 3, (50, 90), ("pillow",))
    assert Recipe.from_dict(delivery.to_dict()) == delivery
    assert not any(recipe.delivery_probability for recipe in recipes.values())
    assert delivery.changed(**AUGMENTATIONS["blur"]).augmentation() == BlurJpeg(
        0.5, jpeg_quality=(50, 90), jpeg_encoders=("pillow",)
    )
    chances = {name: (recipe.blur_probability, recipe.jpeg_probability) for name, recipe in recipes.items()}
    assert chances == {
        "none": (0, 0), "blur": (0.5, 0), "jpeg": (0, 0.5), "blur+jpeg-0.5": (0.5, 0.5), "blur+jpeg-0.1": (0.1, 0.1),
    }  # fmt: skip


def test_the_detector_of_a_recipe():
    model = DEFAULT.changed(patch=4, anchor=3).detector()
    assert isinstance(model, NPRDetector)
    assert model.architecture == {"residual": "npr", "patch": 4, "anchor": 3, "mode": "pixel"}
    assert model.preprocessing == DEFAULT.preprocessing()
    model = CNNDETECTION.changed(crop=64).detector()
    assert isinstance(model, CNNDetector)
    assert model.preprocessing == Preprocessing(policy="centre", crop=64)


def test_identity_start():
    """Then a ResNet's blocks do nothing: layer1 gives what its shortcut gives."""
    torch.manual_seed(0)
    model = CNNDETECTION.changed(crop=64, identity_start=True).detector().eval()
    x = torch.rand(2, 64, 8, 8)
    assert torch.equal(model.layer1(x), model.layer1[0].downsample(x).relu())
    assert not torch.equal(CNNDETECTION.detector().layer1(x), model.layer1(x))


def test_cosine_goes_to_zero():
    steps = [DEFAULT.learning_rate_at(e, b, 10) for e in range(DEFAULT.epochs) for b in range(10)]
    assert steps[0] == DEFAULT.learning_rate
    assert steps == sorted(steps, reverse=True)
    assert 0 < steps[-1] < 0.001 * steps[0]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_round_trip(recipe):
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"crop": 8}, "crop must be at least 16"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"schedule": "linear"}, "schedule must be one of steps, cosine, plateau, got 'linear'"),
        (
            {"delivery_probability": 0.5, "jpeg_probability": 0.1},
            r"delivery_probability is for training without .* jpeg_probability, got 0.5 with 0 and 0.1",
        ),
        ({"model": "VGG"}, "model must be one of NPRDetector, CNNDetector, got 'VGG'"),
        ({"model": "CNNDetector", "crop": 63}, "crop must be at least 64"),
        ({"model": "CNNDetector", "crop": 64, "patch": 4}, "mode, luma and pooling are of NPRDetector, not of CNN"),
        ({"model": "CNNDetector", "crop": 64, "luma": True}, "luma and pooling are of NPRDetector, not of CNN"),
    ],
)
def test_bad_values(values, match):
    with pytest.raises(ValueError, match=match):
        DEFAULT.changed(**values)


def test_learning_rate_above_its_end():
    with pytest.raises(ValueError, match="learning_rate must be at least 1e-06, where the training ends, got 1e-07"):
        CNNDETECTION.changed(learning_rate=1e-7)


def test_wrong_kind():
    with pytest.raises(TypeError, match="batch_size must be an int, got float"):
        DEFAULT.changed(batch_size=2.5)


def test_unknown_keys():
    with pytest.raises(ValueError, match="unknown recipe keys warmup"):
        Recipe.from_dict(DEFAULT.to_dict() | {"warmup": 3})
