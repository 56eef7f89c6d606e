"""Progress of long work: a bar on a terminal; in a pipe or a file a line now and then, without control codes.

    with counted("training", len(nets), "nets") as show:
        show(done)                          # how many are done
    trainer.add_callback(Training("student"))

What this file does not know: what the work is.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from limbeck.commands.console import console, say

SHARE, SECONDS = 0.1, 10.0
"""How much of the way, and how much time, lie between two lines at least."""


@contextmanager
def counted(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yields a function that shows how many of `total` are done; a bar vanishes where the block ends.

    what: the first word of the line or bar. unit: what is counted, in the plural.
    """
    if not console.is_terminal:
        lines = Lines(what, total, unit)
        yield lines.show
        return
    with _bar(what, unit) as bar:
        task = bar.add_task("", total=total, note="")
        yield lambda done: bar.update(task, completed=done)


def printed(what: str, unit: str) -> Callable[[int, int], None]:
    """A function of (how many are done, how many there are) that prints lines; the first call begins."""
    begun: list[Lines] = []

    def show(done: int, total: int) -> None:
        if not begun:
            begun.append(Lines(what, total, unit, done))
        begun[0].show(done)

    return show


class Lines:
    """Progress as lines: the next one comes after a tenth of the way and ten seconds, whichever is later.

    what, unit: as for `counted`. begun: how many were done at the start. clock: seconds, from any start.
    """

    def __init__(
        self, what: str, total: int, unit: str, begun: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.what, self.total, self.unit, self.begun, self.clock = what, total, unit, begun, clock
        self.started = self.last = clock()
        self.shown = begun

    def show(self, done: int, note: str = "") -> None:
        """Prints a line where one is due: how many are done, the note, the time, and how much is left, about."""
        now = self.clock()
        if done >= self.total or done - self.shown < SHARE * self.total or now - self.last < SECONDS:
            return
        elapsed = now - self.started
        left = elapsed / (done - self.begun) * (self.total - done)
        counts = f"{done:,} of {self.total:,} {self.unit}"
        times = f"{_clock_time(elapsed)} elapsed, about {_clock_time(left)} left"
        say(f"{self.what}: {', '.join(part for part in (counts, note, times) if part)}")
        self.shown, self.last = done, now


class Training(TrainerCallback):
    """Progress of training in steps, in the place of Trainer's own bar."""

    def __init__(self, what: str):
        self.what, self.note = what, ""
        self.bar: Bar | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Starts where training does: also in the middle, after resuming."""
        self.lines = Lines(self.what, state.max_steps, "steps", state.global_step)
        if console.is_terminal:
            self.bar = _bar(self.what, "steps")
            self.task = self.bar.add_task("", total=state.max_steps, completed=state.global_step, note="")
            self.bar.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Moves the bar, or prints a line."""
        if self.bar is None:
            self.lines.show(state.global_step, self.note)
        else:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Takes the latest losses, for the bar or the next line."""
        shown = [
            f"{k.removeprefix('eval_')} {v:.4g}" for k, v in (logs or {}).items() if k in ("loss", "eval_accuracy")
        ]
        if shown:
            self.note = ", ".join(shown)
            if self.bar is not None:
                self.bar.update(self.task, note=self.note)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Clears the bar."""
        if self.bar is not None:
            self.bar.stop()


def _bar(what: str, unit: str) -> Bar:
    columns = (TextColumn(escape(what)), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    note, times = TextColumn("{task.fields[note]}"), (TimeElapsedColumn(), TimeRemainingColumn())
    return Bar(*columns, note, *times, console=console, transient=True)


def _clock_time(seconds: float) -> str:
    """Hours, minutes and seconds, as 0:01:05."""
    return str(timedelta(seconds=round(seconds)))
