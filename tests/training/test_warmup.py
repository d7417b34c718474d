"""The first steps weigh the distortion more, and every step draws its own noise."""

import dataclasses
from pathlib import Path

import pytest
import torch
from photographs import crop
from PIL import Image

from dkic.errors import DkicError
from dkic.training.photos import PhotoFolder
from dkic.training.train import WARMUP_FACTOR, StepResult, Trainer, TrainSettings

SETTINGS = TrainSettings("tiny", lambda_=0.0067, steps=4, batch=1, crop=64, warmup_steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    Image.fromarray(crop(96, 100)).save(folder / "0.png")
    return folder


def loss(result: StepResult, factor: float) -> float:
    """bpp + factor * lambda * 255^2 * MSE, where PSNR = -10 log10 MSE."""
    return pytest.approx(result.bpp + factor * SETTINGS.lambda_ * 255**2 * 10 ** (-result.psnr / 10), rel=1e-4)


def test_the_distortion_weighs_more_in_the_first_steps(folder):
    assert WARMUP_FACTOR == 8
    trainer = Trainer(SETTINGS, PhotoFolder(folder, 64))
    results = [trainer.train_step() for _ in range(SETTINGS.steps)]
    for result, factor in zip(results, (WARMUP_FACTOR, WARMUP_FACTOR, 1, 1), strict=True):
        assert result.loss == loss(result, factor)
        assert result.loss != loss(result, 1 if factor > 1 else WARMUP_FACTOR)


def test_a_warmup_of_no_steps_is_none(folder):
    result = Trainer(dataclasses.replace(SETTINGS, warmup_steps=0), PhotoFolder(folder, 64)).train_step()
    assert result.loss == loss(result, 1)


def test_fewer_steps_than_none_are_refused():
    with pytest.raises(DkicError, match="--warmup-steps must be at least 0, not -1"):
        dataclasses.replace(SETTINGS, warmup_steps=-1)


def test_every_step_and_seed_draws_its_own_noise(folder, monkeypatch):
    def noise(seed: int) -> list[torch.Tensor]:
        drawn = []
        trainer = Trainer(dataclasses.replace(SETTINGS, seed=seed), PhotoFolder(folder, 64))
        forward = trainer.model.forward

        def recorded(x, generator):
            state = generator.get_state()
            drawn.append(torch.rand(4, generator=generator))
            generator.set_state(state)
            return forward(x, generator)

        monkeypatch.setattr(trainer.model, "forward", recorded)
        for _ in range(2):
            trainer.train_step()
        return drawn

    first, again, other = noise(0), noise(0), noise(1)
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert len({tuple(numbers.tolist()) for numbers in first + other}) == 4
