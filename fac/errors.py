"""The errors a person should read as one sentence.

FacError
├── InputError         what was given is wrong: a file, an argument, a mismatch   (exit 2)
│   ├── BadRow         one row of a file, with its line
│   ├── RunNotFound    an id or name that names no finished run
│   ├── DamagedRun     a run that no longer has the bytes it was written with
│   ├── Refused        a person asked for what their role does not allow
│   └── SchemaTooNew   a workspace written by a newer version
├── ServiceError       something outside failed: an index, a hub, a server        (exit 3)
├── BadReply           a model answered, but not with what was asked              (exit 3)
├── GateFailed         a check ran and the answer is no                           (exit 1)
│   └── BudgetReached  a spend cap stopped the run; what was paid for is kept
└── Cancelled          a person asked to stop; what is finished is kept           (exit 130)
    └── Interrupted    this process has to end; another one goes on

Each message says what, which value, and what to do next. What a disk refuses may meet whatever
reads or writes: `disk_room` has the sentences for it, `plainly` stands around a command or a page
and has one for all else that the system or Arrow raises.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[..., None]
"""Called with (what is done, all there is, a note); may raise Cancelled."""


class FacError(Exception):
    """Anything a page or the command line shows as a sentence rather than a traceback."""

    exit_code = 2


class InputError(FacError):
    """What was given cannot be used; nothing already stored was changed."""


class BadRow(InputError):
    """One row of an input file cannot become a sample."""

    def __init__(self, line: int, reason: str):
        self.line = line  # 1-based line (or row) in the file
        self.reason = reason  # Why, in words a person can act on
        super().__init__(f"line {line}: {reason}")


class RunNotFound(InputError):
    """A name or id for which no finished run exists."""

    def __init__(self, name: str, finished: list[str]):
        near = ", ".join(finished[:5]) or "none yet"
        super().__init__(
            f"Nothing finished is called {name!r}. Known: {near}. "
            f"Add data with `fac ingest` or measure it with `fac measure`."
        )


class DamagedRun(InputError):
    """A run that no longer has the bytes it was written with; none of it is used."""


class Refused(InputError):
    """What somebody asked for takes another role than theirs."""


class SchemaTooNew(InputError):
    """The workspace was written by a version that knows more than this one."""


class ServiceError(FacError):
    """A package index, a model hub or a server did not do its part."""

    exit_code = 3


class BadReply(FacError):
    """A language model's reply does not have the form that was asked for."""

    exit_code = 3


class GateFailed(FacError):
    """A gate such as `fac check` was asked and the answer is no."""

    exit_code = 1


class BudgetReached(GateFailed):
    """The next question could cost more than is left; every reply paid for is kept."""


class Cancelled(FacError):
    """Work stopped on request between two units; finished units are kept."""

    exit_code = 130


class Interrupted(Cancelled):
    """This process has to end while nobody wants the work to; another one goes on with it."""


def first_line(error: object) -> str:
    """An error's first line, to stand inside a sentence of ours; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


REFUSALS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), ""),  # see disk_full
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM),
        "give the user that runs this program the right to read and write it",
    ),
    errno.EROFS: "its disk is mounted to be read only; mount it to be written, or choose another",
    errno.EIO: "its disk does not answer as it should; look at the disk before anything else, then "
    "run `fac doctor`",
    errno.EFBIG: "no larger file is allowed there; choose another disk, or raise the limit with "
    "`ulimit -f`",
    **dict.fromkeys(
        (errno.EMFILE, errno.ENFILE), "close other programs, or raise the limit with `ulimit -n`"
    ),
}
"""What a disk or its system refuses, and what to do about each."""


@contextmanager
def disk_room(what: str) -> Iterator[None]:
    """Turns what a disk refuses, room for one, into one sentence naming `what` was read or
    written. Other errors of the system pass: they are about a name."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise InputError(disk_sentence(error, what)) from error


@contextmanager
def plainly() -> Iterator[None]:
    """Around a command or a page: an error of the system or of Arrow becomes one of ours, a
    ServiceError where a connection failed."""
    try:
        yield
    except FacError:
        raise
    except OSError as error:
        connection = isinstance(error, ConnectionError | TimeoutError)
        kind = ServiceError if connection and error.errno != errno.EPIPE else InputError
        raise kind(disk_sentence(error)) from error
    except Exception as error:
        from pyarrow import ArrowException

        if isinstance(error, ArrowException):
            raise InputError(
                f"A table could not be read or written ({first_line(error)}): run `fac doctor`, "
                f"which names a damaged run; if it names none, this is a bug."
            ) from error
        raise


def disk_sentence(error: OSError, what: str = "") -> str:
    """One sentence for an error of the system: about the file that it names, or about `what`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(what or str(error.filename or "a file"))
    where = " ".join(dict.fromkeys(str(each) for each in (what, error.filename or "") if each))
    about = os.strerror(error.errno) if error.errno else first_line(error)
    advice = REFUSALS.get(error.errno or 0, "check the name, then try again")
    return f"{where or 'The system refused'}: {about}; {advice}."


def disk_full(what: str) -> str:
    """The sentence for a full disk, where something else than an OSError tells of it."""
    return (
        f"The disk is full, {what} could not be written and nothing stored was changed: "
        f"free some space, then start it again."
    )
