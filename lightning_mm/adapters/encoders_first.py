"""Run a network in two steps, for adapters that need the outputs of all encoders at once.

An encoder of an absent modality may run before that of a present one. So the network first runs up to its last encoder,
and then as a whole, where encoders return what they returned before. Nothing needs to be known of the network, and no
encoder runs twice; what comes before or between the encoders does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from torch import nn

from lightning_mm.adapters.call import AdapterCall, Current
from lightning_mm.adapters.network.encoded import Encoded, EncodersDone
from lightning_mm.adapters.network.inputs import Call
from lightning_mm.adapters.tracing import tracing

_FIRST: ContextVar[bool] = ContextVar("lightning_mm_first_step", default=False)


def will_run_again() -> bool:
    """Return whether a module that runs now does so again in the second step, for those who record outputs."""
    return _FIRST.get()


@contextmanager
def _repeated(value: bool) -> Iterator[None]:
    token = None if tracing() else _FIRST.set(value)
    try:
        yield
    finally:
        if token is not None:
            _FIRST.reset(token)


def first_step(expected: int, call: AdapterCall, sure: bool) -> Encoded | None:
    """Return what a first step collects; None if nothing needs it.

    Args:
        expected: Number of encoders whose outputs others need.
        call: The running call.
        sure: Whether the call has one even if no sample is known to lack a modality.
    """
    if not expected or call.available is None or (call.codes is None and not sure):
        return None
    return Encoded(call.available, expected)


def run_encoders(call: AdapterCall, forward: Callable[..., Any], given: Call) -> None:
    """Run the first step of a call, if it has one.

    Args:
        call: The running call.
        forward: The ``forward`` of the network.
        given: Its arguments.
    """
    if call.encoded is None:
        return
    with suppress(EncodersDone), _repeated(True):
        forward(*given[0], **given[1])
    call.encoded.collecting = False
    call.entered.clear()  # by modules around the last encoder
    call.merged.clear()


class OtherForward:
    """A replacement for the ``forward`` of a module; an object, so that it survives deepcopy and pickle.

    Args:
        module: The module.
        current: Access to the running call of the adapter.
    """

    def __init__(self, module: nn.Module, current: Current) -> None:
        self.module, self.current = module, current
        self.__signature__ = inspect.signature(module.forward)
        self.own = vars(module).get("forward")  # set on the object
        module.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run(*args, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        if self.own is not None:
            return self.own(*args, **kwargs)
        return type(self.module).forward(self.module, *args, **kwargs)

    def remove(self) -> None:
        """Restore the ``forward`` of the module."""
        vars(self.module).pop("forward", None)
        if self.own is not None:
            self.module.forward = self.own


class TwoStepForward(OtherForward):
    """A replacement for the ``forward`` of the network; both steps get what all hooks have made of its arguments."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.current.situation.call
        if call is not None:
            run_encoders(call, self._run, (args, kwargs))
        return self._run(*args, **kwargs)


class EncodedForward(OtherForward):
    """A replacement for the ``forward`` of an encoder, which runs in the first step only.

    Args:
        encoder: The encoder.
        name: Its name in the network.
        current: Access to the running call of the adapter.
    """

    def __init__(self, encoder: nn.Module, name: str, current: Current) -> None:
        super().__init__(encoder, current)
        self.name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.current.situation.call
        encoded = None if call is None else call.encoded
        if encoded is not None and not encoded.collecting:
            for output in encoded.take(self.name):
                return output
        if encoded is None or not encoded.collecting:
            return self._run(*args, **kwargs)
        with _repeated(False):
            output = self._run(*args, **kwargs)
        encoded.keep(self.name, output)
        return output
