"""Errors a user can act on: one sentence that names the culprit and the way out."""

import contextlib
import sys
from collections.abc import Callable, Iterator


class UserError(Exception):
    """Bad data or a failed run. The command line prints the message alone and exits with 1."""

    exit_code = 1


class UsageError(UserError):
    """A wrong option, config key or path in the call itself. The command line exits with 2."""

    exit_code = 2


def reason(error: BaseException) -> str:
    """The first line of what an error says, at most 200 characters, else its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextlib.contextmanager
def naming(place: object) -> Iterator[None]:
    """Puts the file or thing they are about in front of a `UserError`'s words."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"{place}: {error}") from error


def exit_on_user_error(program: Callable[[], object]) -> None:
    """Runs a program; a `UserError` becomes one line on standard error and its exit code."""
    try:
        program()
    except UserError as error:
        print(f"bioclip2: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
