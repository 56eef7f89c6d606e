"""How a command ends where it is interrupted (Ctrl-C) or told to end (SIGTERM): cleanly, and with what to do next.

    with stops_as_interrupts():               # cli.main: either signal raises Stopped, a KeyboardInterrupt
        with finishes_step() as told:         # distill: the first one lets the step end, and is raised after the block
            ...                               # told() is True from then on

What this file does not know: what is trained. It imports nothing heavy.
"""

import os
import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SAME_COMMAND = ("label", "tune", "paper")
"""Commands that resume what was interrupted where they are repeated."""


class Stopped(KeyboardInterrupt):
    """A signal that ends the command; `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 + the number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


class _Handler:
    """Raises Stopped for a signal; the first one waits where a step is to be finished."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.finishing = False
        self.received: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a forked worker ends as it would have
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self.finishing and self.received is None:
            self.received = number
            told = b"\nStopping after this step and its checkpoint; a second signal stops at once.\n"
            os.write(2, told)  # print is not safe here
        else:
            raise Stopped(number)


_handler: _Handler | None = None


@contextmanager
def stops_as_interrupts() -> Iterator[None]:
    """Both signals raise Stopped while the block runs; in a thread that is not the main one, nothing changes."""
    global _handler
    new, before, outer = _Handler(), {}, _handler
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as of `nohup` and of shells' background jobs
                before[number] = signal.signal(number, new)
    except ValueError:  # signals are the main thread's
        yield
        return
    _handler = new
    try:
        yield
    finally:
        _handler = outer
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def finishes_step() -> Iterator[Callable[[], bool]]:
    """Yields whether a signal has come; it is raised as Stopped when the block ends, and a second one at once."""
    handler = _handler or _Handler()
    handler.finishing, handler.received = True, None
    try:
        yield lambda: handler.received is not None
    finally:
        handler.finishing = False
    if handler.received is not None:
        raise Stopped(handler.received)


def next_step(command: str, words: Sequence[str]) -> str:
    """What a user may do after `limbeck command words` was stopped, in words."""
    if command == "distill":
        kept = [word for word in words if word not in ("--resume", "--overwrite")]
        return f"To resume:\n  {shlex.join(['limbeck', command, *kept, '--resume'])}"
    if command in SAME_COMMAND:
        return f"The same command resumes:\n  {shlex.join(['limbeck', command, *words])}"
    return "Nothing was left half-written; the same command begins again."
