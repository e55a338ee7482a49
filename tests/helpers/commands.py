"""`bioclip2` without the seconds that a new process takes."""

import contextlib
import io
import subprocess
from unittest import mock

from click.testing import CliRunner, Result

from bioclip2_jax import cli
from bioclip2_jax.errors import UserError


def bioclip2(*arguments: object) -> subprocess.CompletedProcess:
    """Runs the whole program, from its arguments to its exit code, in this process."""
    argv = ["bioclip2", *map(str, arguments)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch("sys.argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


def call(*arguments: str) -> Result:
    """Runs one command; an error of ours is its `exception`."""
    return CliRunner().invoke(cli.cli, arguments)


def said(result: Result) -> str:
    """The one sentence of an error of ours."""
    assert isinstance(result.exception, UserError), result.exception
    return str(result.exception)
