"""Base class of validated settings, whose errors name every invalid key."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from dkic.errors import DkicError

T = TypeVar("T", bound="StrictModel")


class StrictModel(BaseModel):
    """Settings without unknown keys, type coercion or values that are not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def of(cls: type[T], values: Any, names: Mapping[str, str] | None = None) -> T:
        """Validates settings from a file or from `to_dict`.

        Args:
            values: mapping from keys to values.
            names: names of (dotted) keys in error messages, such as command-line options.

        Raises:
            DkicError: keys are unknown or missing, or values are invalid; the message names all of them.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise DkicError("; ".join(_sentence(e, names or {}) for e in error.errors())) from None

    def to_dict(self) -> dict[str, Any]:
        """The settings as numbers, strings, lists and dicts."""
        return self.model_dump()


def _sentence(error: Any, names: Mapping[str, str]) -> str:
    """Formats an error of pydantic: the key and what is wrong."""
    key = ".".join(map(str, error["loc"]))
    key = names.get(key, key)
    if error["type"] in ("extra_forbidden", "missing"):
        return f"{key}: {'missing' if error['type'] == 'missing' else 'unknown key'}"
    text = error["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("should", "must")
    if isinstance(error["input"], dict) and error["type"] == "value_error":  # keys that exclude each other
        return f"{key}: {text}" if key else text
    return f"{key}: {text}, not {error['input']!r:.60}"
