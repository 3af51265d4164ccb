"""The line that shows the progress of loading on a terminal."""

import io

from robobrain_ros.cli.progress import ProgressPrinter


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_line_of_the_progress_is_ended_once() -> None:
    terminal = Terminal()
    printer = ProgressPrinter(terminal)
    printer.finish()
    assert terminal.getvalue() == ""
    printer.update("Loading: 1 s.")
    printer.update("Loading: 2 s.")
    printer.finish()
    printer.finish()
    first, second = terminal.getvalue().removesuffix("\n").split("\r")[1:]
    assert (first.strip(), second.strip()) == ("Loading: 1 s.", "Loading: 2 s.")
    assert terminal.getvalue().count("\n") == 1


def test_a_log_has_whole_lines() -> None:
    log = io.StringIO()
    printer = ProgressPrinter(log)
    printer.update("Loading: 1 s.")
    printer.update("Loading: 2 s.")
    printer.update("Warming up.")
    printer.finish()
    assert log.getvalue().splitlines() == ["  Loading: 1 s.", "  Warming up."]
