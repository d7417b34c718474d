"""Checked settings, whose errors name every key that is wrong."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from dkic.errors import DkicError

T = TypeVar("T", bound="StrictModel")


class StrictModel(BaseModel):
    """Settings that take no unknown key, and no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def of(cls: type[T], values: Any, names: Mapping[str, str] | None = None) -> T:
        """From what a file holds, or `to_dict` gave.

        Args:
            values: by key.
            names: what to call a (dotted) key in an error, where the user knows it by another name.

        Raises:
            DkicError: every key that is unknown or missing, and every value that can't be, by name.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise DkicError("; ".join(_sentence(e, names or {}) for e in error.errors())) from None

    def to_dict(self) -> dict[str, Any]:
        """By key, as plain numbers, text, lists and dicts."""
        return self.model_dump()


def _sentence(error: Any, names: Mapping[str, str]) -> str:
    """Of one of pydantic's errors: the key, and what is wrong with it."""
    key = ".".join(map(str, error["loc"]))
    key = names.get(key, key)
    if error["type"] in ("extra_forbidden", "missing"):
        return f"{key}: {'missing' if error['type'] == 'missing' else 'unknown key'}"
    text = error["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("should", "must")
    if isinstance(error["input"], dict) and error["type"] == "value_error":  # of keys that do not go together
        return f"{key}: {text}" if key else text
    return f"{key}: {text}, not {error['input']!r:.60}"
