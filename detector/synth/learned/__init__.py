"""Generators that are really trained, by gradient descent on photographs."""

from detector.synth.learned.families import LEARNED
from detector.synth.learned.spec import LearnedSpec
from detector.synth.learned.training import LearnedGenerator, Training, train

__all__ = ["LEARNED", "LearnedGenerator", "LearnedSpec", "Training", "train"]
