"""The `dkic` command for tests: in this process, which is fast, or in a new one."""

import contextlib
import io
import os
import subprocess
import sys
from typing import NamedTuple
from unittest import mock

from dkic import cli


class Result(NamedTuple):
    status: int
    out: str
    err: str


def dkic(*arguments: object) -> Result:
    """Output and exit status of `dkic arguments`; an exception that would print a traceback is raised."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with mock.patch.object(sys, "argv", ["dkic", *map(str, arguments)]):
            try:
                cli.main()
                status = 0
            except SystemExit as end:
                status = end.code or 0
    return Result(status, out.getvalue(), err.getvalue())


def dkic_process(*arguments: object, **environment: str) -> Result:
    """The same in a fresh process."""
    command = [sys.executable, "-m", "dkic", *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    return Result(done.returncode, done.stdout, done.stderr)
