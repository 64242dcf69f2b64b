"""What the commands show: messages and progress on standard error, so that standard output holds results alone."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

messages = Console(stderr=True, highlight=False, soft_wrap=True)

# Without a terminal, a line of progress is written this often.
SECONDS_BETWEEN_LINES = 10.0


def say(message: str) -> None:
    """A message for the user, on standard error; markup in it means nothing."""
    messages.print(message, markup=False)


class Meter:
    """Progress of long work: a bar with rate and time left on a terminal, otherwise a line now and then.

    Args:
        name: what is being done.
        total: number of images, None as long as it is not known; may be set later.
        done: images done before, which do not count for the rate.
        verbose: False shows nothing.
    """

    def __init__(self, name: str, total: int | None, *, done: int = 0, verbose: bool = True) -> None:
        self.name, self.total, self.done = name, total, done
        self._new = 0
        self._verbose = verbose
        self._note = ""
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Meter:
        self._start = self._last_line = time.monotonic()
        if self._verbose and messages.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=messages,
                transient=True,
                redirect_stdout=False,  # results are not for the terminal that shows the bar
            )
            self._task = self._bar.add_task(self.name, total=self.total, completed=self.done, note="")
            self._bar.start()
        return self

    def note(self, note: str) -> None:
        """Something to show beside the progress, such as the loss."""
        self._note = note

    def advance(self, images: int) -> None:
        """More images are done."""
        self.done += images
        self._new += images
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, total=self.total, note=self._line())
        elif self._verbose and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            if self.total is None:
                say(f"{self.name} {self.done}  {self._line()}")
            else:
                left = (self.total - self.done) / max(self.rate, 1e-9)
                say(f"{self.name} {self.done}/{self.total}  {self._line()}  {_duration(left)} left")

    def skip(self, images: int) -> None:
        """More images turn out to be done before; they do not count for the rate."""
        self.done += images

    @property
    def rate(self) -> float:
        """Images a second since the start."""
        return self._new / max(time.monotonic() - self._start, 1e-9)

    def _line(self) -> str:
        return f"{self._note}  {self.rate:.1f} images/s".strip()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
