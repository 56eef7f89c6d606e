"""How a command ends where it is interrupted (Ctrl-C) or told to end (SIGTERM): cleanly, and with what to do next.

    with stops_as_interrupts():               # cli.main: either signal raises Stopped, a KeyboardInterrupt
        with finishes_step() as is_told:      # distill: the first one lets the step end, and is raised after the block
            ...                               # is_told() is True from then on

What this file does not know: what is trained. It imports nothing heavy.
"""

import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SAME_COMMAND = ("label", "tune", "paper")
"""Commands that resume when they are repeated after an interruption."""


PATIENCE, AGAIN = 10.0, 0.05
"""Seconds that a signal waits for an import at most, and after which it looks again."""
_CAN_WAIT = hasattr(signal, "setitimer")


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
    """Raises Stopped for a signal; the first one waits where a step is to be finished, or a module is being imported.

    Within an import it would be lost, or leave half a module behind that later fails in other words.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.finishing = False
        self.received: int | None = None
        self.waiting: int | None = None  # a signal that came within an import
        self.until = 0.0
        self.raised: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a forked worker ends as it would have
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self.finishing and self.received is None:
            self.received = number
            message = b"\nStopping after this step and its checkpoint; a second signal stops at once.\n"
            os.write(2, message)  # print is not safe here
        elif self.waiting is None and _CAN_WAIT and _imports(frame):
            self.waiting, self.until = number, time.monotonic() + PATIENCE
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
        else:
            self.raised = number
            raise Stopped(number)

    def again(self, _: int, frame: FrameType | None) -> None:
        """Called by a timer for the signal that waits."""
        if self.waiting is None:
            return
        if _imports(frame) and time.monotonic() < self.until:
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
            return
        number, self.waiting = self.waiting, None
        if self.finishing:
            self(number, None)
        else:
            self.raised = number
            raise Stopped(number)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported where a signal came."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


_handler: _Handler | None = None


@contextmanager
def stops_as_interrupts() -> Iterator[None]:
    """Both signals raise Stopped while the block runs; in a thread that is not the main one, nothing changes.

    One that was lost inside a library is raised when the block ends.
    """
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
    if _CAN_WAIT:
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, new.again)
    try:
        yield
    except Exception as error:
        if new.raised is None:
            raise
        raise Stopped(new.raised) from error  # what a library made of it
    finally:
        _handler = outer
        if _CAN_WAIT:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    lost = new.raised or new.waiting
    if lost is not None:  # within a library that goes on whatever comes
        raise Stopped(lost)


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
        others = [word for word in words if word not in ("--resume", "--overwrite")]
        return f"To resume:\n  {shlex.join(['limbeck', command, *others, '--resume'])}"
    if command in SAME_COMMAND:
        return f"The same command resumes:\n  {shlex.join(['limbeck', command, *words])}"
    return (
        f"Nothing was left half-written; the same command begins again:\n  {shlex.join(['limbeck', command, *words])}"
    )
