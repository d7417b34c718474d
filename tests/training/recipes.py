"""Base recipes of the tests, as dicts and as TOML."""

import json
from pathlib import Path

from dkic.training.mse_recipe import mse_recipe

GOOD = {
    "preset": "tiny",
    "batch": 2,
    "crop": 64,
    "weights": {"mse": 0.002, "lpips": 1.0, "gan": 0.15},
    "rate": {"target": 0.15, "lambda_alpha": 2.0, "lambda_beta": 0.0625},
    "learning_rate": {"values": [1e-3, 1e-4], "epochs": [3]},
    "stages": [{"epochs": 2, "lambda_factor": 2}, {"epochs": 3, "gan": True}],
}
VARIABLE = GOOD | {
    "preset": "small",
    "rate": {"weight": [3, 0.3]},
    "weights": {"mse": [0.001, 0.01], "lpips": 1, "gan": [0.1, 0.2]},
}
LAMBDA = 0.0067


def mse(**values: object):
    """A recipe with a few steps for rate and MSE."""
    return mse_recipe("tiny", **{"lambda_": LAMBDA, "steps": 6, "batch": 2, "crop": 64} | values)


def write_recipe(path: Path, values: dict) -> Path:
    """Writes a recipe as a TOML file; values of None are omitted."""
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in values.items() if value is not None))
    return path


def toml(value: object) -> str:
    """Formats a number, string, list or dict as inline TOML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(v)}" for key, v in value.items() if v is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)
