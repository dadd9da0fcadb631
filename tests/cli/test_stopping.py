"""Signals: the first one ends a command in order, the second at once; handlers of a caller stay."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from lightning_mm.cli import main
from lightning_mm.cli.stopping import LAUNCHER, SIGNALS, Stop
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
        assert stop.code == 128 + number
        assert handlers() == before
        assert LAUNCHER not in os.environ


def test_while_a_batch_is_trained_it_is_passed_to_lightnings_handler_once() -> None:
    for number in SIGNALS:
        told: list[int] = []
        with Stop() as stop:
            stop.deferring = True

            def lightnings(one: int, frame: FrameType | None, stop: Stop = stop, told: list[int] = told) -> None:
                told.append(one)
                stop(one, frame)  # it calls the handler that was there, too

            signal.signal(signal.SIGTERM, lightnings)
            os.kill(os.getpid(), number)
            signal.signal(signal.SIGTERM, stop)
        assert told == [signal.SIGTERM]
        assert stop.received == number
        assert stop.message() == f"stopped by {signal.Signals(number).name}"


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
