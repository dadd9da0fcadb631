"""Signals: the first one ends a command in order, the second at once; handlers of a caller stay."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from lightning_mm.cli import main
from lightning_mm.cli.stopping import LAUNCHER, SCHEDULED, SIGNALS, Stop
from lightning_mm.errors import Stopped

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")


@pytest.fixture(autouse=True)
def as_in_a_terminal() -> Iterator[None]:
    """The tests themselves may run where a signal is ignored: a shell's background job."""
    own = [
        signal.signal(one, signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL) for one in SIGNALS
    ]
    yield
    for one, handler in zip(SIGNALS, own):
        signal.signal(one, handler)


def handlers() -> list[object]:
    return [signal.getsignal(one) for one in SIGNALS]


def test_the_first_signal_is_raised_and_handlers_are_put_back() -> None:
    before = handlers()
    for number in SIGNALS:
        stop = Stop()
        with stop:
            assert handlers() == [stop] * len(SIGNALS)
            assert os.environ[LAUNCHER] == str(os.getpid())
        with pytest.raises(Stopped, match=str(int(number))), stop:
            os.kill(os.getpid(), number)
        assert stop.received == number
        assert stop.code == (75 if number == signal.SIGUSR2 else 128 + number)
        assert handlers() == before
        assert LAUNCHER not in os.environ


def test_a_training_is_told_and_a_stronger_signal_takes_the_place_of_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SCHEDULED, "7")
    with Stop() as stop:
        stop.deferring = True
        for number in (signal.SIGUSR2, signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2):
            os.kill(os.getpid(), number)
        assert stop.received == signal.SIGTERM
        assert stop.message() == "stopped by SIGTERM"
        assert stop.code == 143


def test_what_srun_sends_to_a_command_that_has_saved_changes_nothing() -> None:
    with Stop() as stop:
        stop.deferring = True
        os.kill(os.getpid(), signal.SIGUSR2)
        stop.ending()
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.code == 75
    stop.gave_up = True
    assert stop.code == 76


def test_a_command_that_cannot_go_on_later_does_not_listen_to_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    with Stop() as stop:
        stop.continues = False
        os.kill(os.getpid(), signal.SIGUSR2)
        assert stop.received is None
    assert capfd.readouterr().err == "lightning-mm: SIGUSR2: this command cannot be continued later, so it goes on\n"


def test_handlers_of_a_caller_stay() -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
        assert told == [signal.SIGTERM]
        assert stop.received is None
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_says_so_in_one_line(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        try:
            os.kill(os.getpid(), number)
        finally:
            raise RuntimeError("an error while it stops")

    monkeypatch.setattr("lightning_mm.cli.dispatch._dispatch", stopped)
    assert main(["fit"]) == 128 + number
    assert capsys.readouterr().err == f"lightning-mm: stopped by {number.name}\n"
