import pytest

from detector.data import Preprocessing
from detector.training.recipes import DEFAULT, NPR, RECIPES, Recipe


def test_the_papers_recipe():
    assert NPR.preprocessing() == Preprocessing(policy="resize", resize=256, crop=224, flip=True)
    assert (NPR.batch_size, NPR.epochs, NPR.learning_rate, NPR.betas) == (32, 50, 2e-4, (0.9, 0.999))
    rates = [NPR.learning_rate_at(epoch, batch, 100) for epoch in range(50) for batch in (0, 99)]
    assert rates == [pytest.approx(2e-4 * 0.9 ** (i // 20)) for i in range(100)]


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
        ({"schedule": "linear"}, "schedule must be"),
    ],
)
def test_bad_values(values, match):
    with pytest.raises(ValueError, match=match):
        DEFAULT.changed(**values)


def test_wrong_kind():
    with pytest.raises(TypeError, match="batch_size must be an int, got float"):
        DEFAULT.changed(batch_size=2.5)


def test_unknown_keys():
    with pytest.raises(ValueError, match="unknown recipe keys warmup"):
        Recipe.from_dict(DEFAULT.to_dict() | {"warmup": 3})
