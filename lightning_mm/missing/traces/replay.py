"""Runs a network over a stream whose modalities come and go.

Shapes: B samples in a frame (1 for one stream), T frames, M modalities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from lightning_mm.errors import LightningMMError
from lightning_mm.missing.traces.trace import AvailabilityTrace
from lightning_mm.tree import batch_size


def replay(network: Callable[..., Any], frames: Iterable[Mapping[str, Any]], trace: AvailabilityTrace) -> Iterator[Any]:
    """Run a network frame by frame with the modalities that a trace leaves it; nothing is rebuilt in between.

    Each frame is one call with a row of ``available``, so that the output is that of the frame's fixed combination,
    whatever came before. What is called decides how: :class:`~lightning_mm.export.Runtime` picks the program of the
    combination, an adapted network the rows of its adapter.

    Args:
        network: Called as ``network(inputs, available)``, with ``available`` of ``Bool[B, M]``: a ``Runtime`` or a task
            as it is, other networks in a function, such as ``lambda inputs, available: adapted(**inputs,
            available=available)``.
        frames: Modality to its input, batch first; one that is absent by the trace may hold anything, be None or be
            left out, if the network takes that.
        trace: As many frames.

    Yields:
        The output of each frame; None for a frame that has no modality at all, in which the network is not called.

    Raises:
        LightningMMError: If there are more or fewer frames than in the trace, or a frame lacks a modality that it
            has by the trace.

    Example:
        >>> import torch
        >>> trace = AvailabilityTrace(torch.tensor([[True, True], [False, True], [False, False]]), ["a", "b"])
        >>> frames = [{"a": torch.ones(1), "b": torch.ones(1)}, {"b": torch.ones(1)}, {}]
        >>> def count(inputs, available):
        ...     return available.sum(1).tolist()
        >>> list(replay(count, frames, trace))
        [[2], [1], None]
    """
    number = -1
    for number, frame in enumerate(frames):
        if number == len(trace):
            raise LightningMMError(f"replay: the stream has more frames than the trace, which ends after {len(trace)}")
        row = trace.available[number]
        if not row.any():
            yield None
            continue
        inputs = {name: frame.get(name) for name in trace.modalities}
        lacking = [name for name, there in zip(trace.modalities, row.tolist()) if there and inputs[name] is None]
        if lacking:
            raise LightningMMError(
                f"replay: by the trace frame {number} has {trace.modalities.name(row)!r}, but it holds no "
                f"{lacking[0]!r}"
            )
        size = batch_size([inputs[name] for name, there in zip(trace.modalities, row.tolist()) if there])
        yield network(inputs, available=row.expand(1 if size is None else size, -1))
    if number + 1 < len(trace):
        raise LightningMMError(f"replay: the stream ends after {number + 1} frames, the trace has {len(trace)}")
