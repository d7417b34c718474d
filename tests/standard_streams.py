"""Fixtures for tests of standard input, standard output and other streams; a pipe holds 64 KiB."""

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def stdin() -> Iterator[Callable[[bytes], None]]:
    """Puts bytes into a pipe that is standard input."""
    with contextlib.ExitStack() as restored:

        def put(data: bytes) -> None:
            read, write = os.pipe()
            with open(write, "wb") as file:
                file.write(data)
            replace(restored, read)

        yield put


def replace(restored: contextlib.ExitStack, descriptor: int) -> None:
    """Makes an open file the standard input, until `restored` is closed."""
    saved = os.dup(0)
    restored.callback(os.close, saved)
    restored.callback(os.dup2, saved, 0)
    os.dup2(descriptor, 0)
    os.close(descriptor)
