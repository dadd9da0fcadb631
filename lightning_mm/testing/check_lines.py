"""The properties that :func:`lightning_mm.testing.check` looks at, one function each.

A function returns what it compared, in words, or raises :class:`Wrong`.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path as FolderPath
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mm.adapters.saving.folder import load_adapter, save_adapter
from lightning_mm.export import write_export
from lightning_mm.testing.check_runs import Outputs, Subject, Wrong, all_same, collected, first_apart, seeded
from lightning_mm.testing.invariance import output_tensors

THREADS = 4
CALLS = 3
"""Calls of each thread."""
SHOWN = 4
"""Names that a line lists."""


def starts_as_the_base(subject: Subject) -> str:
    """A fresh adapter changes nothing; a trained one changes the outputs of incomplete combinations."""
    with subject.adapter.disabled():
        baseline = subject.run(subject.masks)
    fresh = subject.run(subject.masks)
    _close(
        subject, fresh, baseline, "the outputs of the base with filled inputs",
        "the layers or kinds change outputs before they are trained; report this with the network",
    )  # fmt: skip
    randomise(subject)
    if all_same(subject.run(subject.masks), baseline):
        raise Wrong(
            "other outputs once the adapter has learned something",
            "the same",
            "no adapted layer has an effect on what the network returns; choose others with `targets`",
        )
    return "fresh: the outputs of the base with filled inputs; with random values others"


def randomise(subject: Subject) -> None:
    """Give the adapter random values, as after training."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in subject.adapter.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.add_(0.02 * noise.to(parameter))


@dataclass(frozen=True)
class Before:
    """Two calls of the network before it was adapted.

    Args:
        outputs: The outputs of the first call.
        again: The outputs of the second call, on the same inputs and with the same weights and buffers.
        changed: Weights and buffers that a call changed.
    """

    outputs: Outputs
    again: Outputs
    changed: list[str]

    @property
    def steady(self) -> bool:
        """Whether both calls are the same; if not, nothing can be compared."""
        return not self.changed and all_same(self.outputs, self.again)


def base_unchanged(subject: Subject, before: Before) -> str:
    """Weights, buffers and the full combination stay as they are, and the hooks can be removed."""
    base, adapter = subject.base, subject.adapter
    expected, again = before.outputs, before.again
    if before.changed:
        raise Wrong(
            "weights and buffers that stay as they are in eval mode",
            f"{_listed(before.changed)}, which a call of the network changes",
            "change it only if self.training, or keep it out of what the network computes",
        )
    if not all_same(again, expected):
        raise Wrong(
            "the same outputs of the network itself in two calls on the same inputs",
            f"a difference of {subject.apart(again, expected):.2g} of the largest output",
            "the network keeps something from one call for the next one, or is random in eval mode; remove that",
        )
    with_hooks = subject.run(subject.full)
    if not all_same(with_hooks, expected):
        raise Wrong(
            "bit-identical outputs of the full combination",
            f"a difference of {subject.apart(with_hooks, expected):.2g} of the largest output",
            "leave out with `exclude` the layers whose outputs the network compares or stores; report this",
        )
    weights = {key: value.clone() for key, value in adapter.state_dict().items()}
    adapter.train()
    own = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(own, lr=0.01)
    try:
        total_of(collected(subject.forward(subject.masks))).backward()
        optimizer.step()
        optimizer.zero_grad()
        adapter.eval()
        with torch.no_grad():
            subject.forward(subject.masks)
        touched = subject.state.changed()
    finally:
        adapter.eval()
        subject.state.restore()
        adapter.load_state_dict(weights)
    if touched:
        raise Wrong(
            "a base whose weights and buffers stay as they are in a training step",
            f"{_listed(touched)} changed",
            "the network changes it in training mode of one of its parts; do so only if the part is not frozen",
        )
    hooks = _hooks(base)
    adapter.detach()
    left = hooks - _hooks(base)
    removed = subject.bare(subject.full)
    subject.state.restore()
    adapter.attach(base)
    if not left or not all_same(removed, expected):
        raise Wrong("the base itself once the hooks are removed", "something else", "report this, with the network")
    return f"bit-identical with all modalities, after a training step, and once the {left} hooks are removed"


def gradient_only_in_adapters(subject: Subject) -> str:
    """The base gets no gradient, the adapter does."""
    base, adapter = subject.base, subject.adapter
    own = {name: one for name, one in adapter.named_parameters() if one.requires_grad}
    for one in (*base.parameters(), *own.values()):
        one.grad = None
    adapter.train()
    try:
        with seeded():
            outputs = collected(subject.forward(subject.masks))
        total = total_of(outputs)
        if not total.requires_grad:
            raise Wrong(
                "outputs that the adapter gets a gradient from",
                "outputs without any",
                "the network detaches them or runs in torch.no_grad(); remove that",
            )
        total.backward()
    finally:
        adapter.eval()
        subject.state.restore()
    wrong = [name for name, one in base.named_parameters() if one.grad is not None or one.requires_grad]
    idle = [name for name, one in own.items() if one.grad is None or not bool((one.grad != 0).any())]
    for one in (*base.parameters(), *own.values()):
        one.grad = None
    if wrong:
        raise Wrong(
            "no gradient in the base",
            f"one in {_listed(wrong)}",
            "the network itself sets requires_grad in its forward; remove that",
        )
    if len(idle) == len(own):
        raise Wrong("a gradient in the adapter", "none, in no layer", "the outputs do not depend on the adapted layers")
    more = f"; {len(idle)} get none, as the outputs do not depend on them: {_listed(idle)}" if idle else ""
    return f"{len(own) - len(idle)} of {len(own)} parameters of the adapter get one, those of the base none{more}"


def mixed_equals_one_by_one(subject: Subject) -> str:
    """A batch of mixed combinations gives each sample what it gets alone."""
    size = subject.example.size
    mixed = subject.run(subject.masks)
    try:
        alone = [subject.run(subject.masks[row : row + 1], subject.rows(torch.tensor([row]))) for row in range(size)]
    except Exception as error:  # of any library
        raise Wrong(
            "what each sample gets alone",
            f"{type(error).__name__} for a single sample ({str(error).strip().partition(chr(10))[0]})",
            "the network must run on any number of samples; a norm that needs the statistics of a batch does not",
        ) from error
    rows = [name for name, one in mixed.items() if one.ndim and len(one) == size and _one_row(alone, name)]
    if not rows:
        raise Wrong(
            f"outputs with one row for each of {size} samples",
            f"shapes {[tuple(one.shape) for one in mixed.values()][:SHOWN]}",
            "return outputs batch first",
        )
    together = {name: mixed[name] for name in rows}
    apart = subject.apart({name: torch.cat([one[name] for one in alone]) for name in rows}, together)
    if apart <= subject.tolerance(together):
        return f"largest difference {apart:.1g} of the largest output, {size} samples"
    where, way = "", "adapt it with grouped=True, or leave out a layer that mixes samples"
    with torch.no_grad():
        layer = first_apart(
            subject.base,
            lambda: subject.run(subject.full),
            lambda: subject.run(subject.full[:1], subject.rows(torch.tensor([0]))),
            lambda one, other: _rows_agree(one, other, size),
        )
    if layer is not None:
        kind = type(subject.base.get_submodule(layer)).__name__
        where = f", with all modalities too, first in the output of layer {layer!r} ({kind})"
        way = (
            "this layer mixes the samples of a batch in eval mode (batch statistics, attention over samples); use "
            "running statistics, or a norm of each sample such as GroupNorm"
        )
    raise Wrong("what each sample gets alone", f"a difference of {apart:.2g} of the largest output{where}", way)


def exported_program_agrees(subject: Subject, combination: str | None) -> str:
    """The program of torch.export of one combination, or of all for None, agrees with the network on random data."""
    chosen = [] if combination is None else [combination]
    tolerance = subject.tolerance(subject.run(subject.masks))
    with tempfile.TemporaryDirectory() as folder:
        index = write_export(
            subject.base, subject.adapter, subject.call(subject.full), FolderPath(folder) / "exported",
            combinations=chosen, formats=["torch"], mixed=combination is None, tolerance=tolerance,
        )  # fmt: skip
    subject.state.restore()
    what = "rows of any combination" if combination is None else combination
    return f"{what}: largest difference {index.largest_difference():.1g}"


def saved_and_loaded(subject: Subject) -> str:
    """A saved adapter, loaded onto the base again, gives the same bits."""
    expected = subject.run(subject.masks)
    with tempfile.TemporaryDirectory() as folder:
        mine = subject.adapter
        save_adapter(mine, subject.base, folder)
        mine.detach()
        try:
            subject.adapter = load_adapter(folder, subject.base).eval()
            subject.adapter.attach(subject.base)
            try:
                found = subject.run(subject.masks)
            finally:
                subject.adapter.detach()
        finally:
            subject.adapter = mine
            mine.attach(subject.base)
        size = sum(file.stat().st_size for file in FolderPath(folder).iterdir())
    if not all_same(found, expected):
        raise Wrong(
            "the same bits from the adapter once it is loaded",
            f"a difference of {subject.apart(found, expected):.2g} of the largest output",
            "store every argument of your kind, basis or fill as an attribute of the same name",
        )
    return f"the same bits, {size / 1000:.0f} kB"


def threads_do_not_meet(subject: Subject) -> str:
    """Threads with masks of their own get what they get alone."""
    masks = [subject.masks.roll(number, 0) for number in range(THREADS)]
    expected = [subject.run(mask) for mask in masks]
    wrong: list[str] = []
    ready = threading.Barrier(THREADS)

    def work(number: int) -> None:
        ready.wait()
        for _ in range(CALLS):
            try:
                with torch.no_grad():
                    found = collected(subject.forward(masks[number]))
                apart = subject.apart(found, expected[number])
                if not apart <= subject.tolerance(found):
                    wrong.append(f"a difference of {apart:.2g} of the largest output")
            except Exception as error:
                wrong.append(f"{type(error).__name__}: {error}")

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # they take turns often
    try:
        workers = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(before)
        subject.state.restore()
    if wrong:
        raise Wrong(
            f"{THREADS} threads that get what they get alone",
            f"{wrong[0]} ({len(wrong)} of {THREADS * CALLS} calls)",
            "the network keeps something of a call on itself; call it from one thread, or keep that in local variables",
        )
    return f"{THREADS} threads with masks of their own, {THREADS * CALLS} calls"


def total_of(outputs: Outputs) -> Tensor:
    """Sum outputs with random weights, as the plain sum of a softmax has no gradient."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        (one * torch.randn(one.shape, generator=generator).to(one)).mean().real.double()
        for one in outputs.values()
        if one.requires_grad
    ]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def _close(subject: Subject, found: Outputs, expected: Outputs, what: str, way: str) -> None:
    apart = subject.apart(found, expected)
    if not apart <= subject.tolerance(expected):
        raise Wrong(what, f"a difference of {apart:.2g} of the largest output", way)


def _one_row(alone: list[Outputs], name: str) -> bool:
    return all(name in one and one[name].ndim > 0 and len(one[name]) == 1 for one in alone)


def _rows_agree(batch: Any, alone: Any, size: int) -> bool:
    """Return whether the first row of the output of a layer for a batch is that of the sample alone."""
    for (_, many), (_, one) in zip(output_tensors(batch), output_tensors(alone)):
        if not (one.ndim and one.is_floating_point() and many.shape == (size * len(one), *one.shape[1:])):
            continue
        apart = (many[: len(one)] - one).abs().max() / one.abs().max().clamp(min=1e-12)
        if not apart <= 1e-2:
            return False
    return True


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


def _hooks(network: nn.Module) -> int:
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in network.modules())
