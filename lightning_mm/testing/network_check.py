"""Check in at most a minute that a network of anybody can be adapted, with any weights.

Shapes: B samples, M modalities.
"""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lightning_mm.adapters import SSF, Adapter, Basis, Kind, OneHot, build_adapter
from lightning_mm.adapters.left_out import listed
from lightning_mm.adapters.network.example import Example, example_of
from lightning_mm.adapters.network.inputs import Call, locate_inputs
from lightning_mm.errors import LightningMMError, shown
from lightning_mm.export.exporting import quiet as plain_attention
from lightning_mm.export.index import ANY
from lightning_mm.missing import Fill, Zeros
from lightning_mm.modalities import Modalities
from lightning_mm.testing import check_lines as lines
from lightning_mm.testing.check_costs import Folding, count, slowdown
from lightning_mm.testing.check_lines import Before
from lightning_mm.testing.check_poison import absent_inputs_have_no_effect
from lightning_mm.testing.check_result import CheckLine, CheckResult, KindCheck
from lightning_mm.testing.check_runs import MOST_COMBINATIONS, State, Subject, Wrong, aliases_of, bare

FEWEST, MOST = 4, 8
"""Samples of the batch that is looked at."""
ADAPTS = "can be adapted"
STARTS = "starts as the base"
UNCHANGED = "base unchanged"
GRADIENT = "gradient only in the adapter"
ABSENT = "absent inputs have no effect"
MIXED = "mixed batch equals one by one"
FOLDED = "folded networks agree"
EXPORTED = "exported program agrees"
ALL_EXPORTED = "exported for all combinations"
TIMES_ONE = 4
"""Time that exporting the program for all combinations takes at most, relative to that of one."""
SAVED = "saved and loaded"
THREADS = "threads do not meet"
LEFT_OUT = "layers left out"


def check(
    network: nn.Module,
    example: Call,
    *,
    modalities: Modalities | Sequence[str],
    kinds: Kind | Sequence[Kind] = SSF(),
    basis: Basis | None = None,
    fill: Fill | None = Zeros(),
    inputs: Mapping[str, str] | None = None,
    targets: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    encoders: Mapping[str, str] | None = None,
    grouped: bool = False,
    tolerance: float | None = None,
    export: bool = True,
    seconds: float = 60.0,
) -> CheckResult:
    """Check that a network can be adapted and that all the promises of an adapter hold for it.

    The weights may be random. A copy of the network is looked at, in which weights that are all zero get small random
    values, as they hide what comes before them; the network itself is not changed.

    Args:
        network: Any network.
        example: ``(args, kwargs)`` of a typical call, batch first; up to eight samples of it are used.
        modalities: Names in order.
        kinds: One kind or several, each checked by itself.
        basis: How availability picks rows from the banks; default ``OneHot()``.
        fill: See :func:`~lightning_mm.adapters.adapt`, as all that follow.
        inputs: Modality to the parameter that holds it.
        targets: Names or patterns of layers to adapt.
        exclude: Names or patterns of layers to leave out.
        encoders: Modality to the name of its encoder.
        grouped: Whether the network runs once per combination in a batch.
        tolerance: The largest difference by rounding, relative to the largest output; default 1e-3 for float32.
        export: Whether programs of torch.export are made and compared too, which takes the longest.
        seconds: The time that the check may take; what is left after it is not checked, and its line says so.

    Returns:
        ``.ok``, ``.lines`` with ``name``, ``ok`` and ``why``, and ``.print()`` for the table.

    Raises:
        LightningMMError: If the modalities are no proper names, or the network cannot be copied.

    Example:
        >>> class Sum(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.rgb, self.depth = nn.Linear(3, 4), nn.Linear(1, 4)
        ...     def forward(self, rgb, depth):
        ...         return self.rgb(rgb) + self.depth(depth)
        >>> result = check(Sum(), ((torch.randn(4, 3), torch.randn(4, 1)), {}), modalities=["rgb", "depth"])
        >>> result.ok, result.failed
        (True, ())
    """
    names = modalities if isinstance(modalities, Modalities) else Modalities(modalities)
    chosen = [kinds] if isinstance(kinds, Kind) else list(kinds)
    if not chosen:
        raise LightningMMError("kinds must hold at least one kind such as SSF(), got none")
    if not seconds > 0:
        raise LightningMMError(f"seconds must be more than 0, got {seconds}")
    settings: dict[str, Any] = {
        "basis": basis, "fill": fill, "inputs": inputs, "targets": targets, "exclude": exclude,
        "encoders": encoders, "grouped": grouped,
    }  # fmt: skip
    found = [
        KindCheckRun(network, example, names, kind, settings, tolerance, export, seconds / len(chosen))
        for kind in chosen
    ]
    with plain_attention(), without_log():
        checks = tuple(one.result() for one in found)
    return CheckResult(
        type(network).__name__,
        tuple(names),
        sum(parameter.numel() for parameter in network.parameters()),
        next((one.operations for one in found if one.operations is not None), None),
        checks,
    )


class KindCheckRun:
    """The check of one kind; arguments as in :func:`check`."""

    def __init__(
        self,
        network: nn.Module,
        example: Call,
        modalities: Modalities,
        kind: Kind,
        settings: Mapping[str, Any],
        tolerance: float | None,
        export: bool,
        seconds: float,
    ) -> None:
        self.original, self.given, self.modalities, self.kind = network, example, modalities, kind
        self.settings, self.tolerance, self.export, self.seconds = dict(settings), tolerance, export, seconds
        self.lines: list[CheckLine] = []
        self.operations: int | None = None
        self.before: Before | None = None
        self.started = time.perf_counter()

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return time.perf_counter() - self.started > self.seconds

    def result(self) -> KindCheck:
        """Check everything."""
        self.started = time.perf_counter()
        basis = type(self.settings["basis"] or OneHot()).__name__
        left_out: dict[str, str] = {}
        folding: Folding | None = None
        slower: float | None = None
        subject = self._adapted()
        if subject is not None:
            adapter = subject.adapter
            left_out = adapter.left_out
            folding = self._properties(subject)
            slower = None if self.late else self._try(lambda: slowdown(subject))
            self._costs(folding, slower)
            reasons = f"{len(left_out)}: {_short(left_out)}" if left_out else "none with weights"
            self.lines.append(CheckLine(LEFT_OUT, None, reasons))
        took = time.perf_counter() - self.started
        costs = () if folding is None else folding.costs()
        return KindCheck(type(self.kind).__name__, basis, tuple(self.lines), costs, left_out, slower, took)

    def _adapted(self) -> Subject | None:
        """Adapt a copy of the network; None if that fails."""
        made: list[Subject] = []

        def build() -> str:
            network = _copied(self.original)
            paths = locate_inputs(network, self.modalities, self.settings["inputs"], self.given)
            example = example_of(network, self.given, paths, self.settings["fill"] is not None)
            incomplete = min(len(self.modalities.sampled(MOST)), MOST)
            batch = example.of(min(max(FEWEST, incomplete, example.size), MOST))
            state = State(network)
            first = bare(network, batch.call)
            changed = state.changed()
            state.restore()
            self.before = Before(first, bare(network, batch.call), changed)
            state.restore()
            self.operations = count(network, batch.of(1).call)
            state.restore()
            adapter, said = self._build(network, batch)
            state.restore()
            adapter.attach(network)
            adapter.eval()
            masks = self.modalities.masks(self.modalities.sampled(MOST)).to(adapter.device)
            mixed = masks[torch.arange(batch.size) % len(masks)]
            aliases = aliases_of(network, self.given, paths)
            made.append(Subject(network, adapter, batch, mixed, aliases, state, self.tolerance))
            layers = f"{type(self.kind).__name__} on {len(adapter.sites)} layers"
            return "; ".join(
                [layers, f"at most {adapter.parameters_per_combination():,} parameters per combination", *said]
            )

        self._line(ADAPTS, build)
        return made[0] if made else None

    def _build(self, network: nn.Module, batch: Example) -> tuple[Adapter, list[str]]:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            adapter = build_adapter(network, self.modalities, self.kind, example=batch.call, **self.settings)
        return adapter, [str(one.message) for one in said if "left out of the adapter" not in str(one.message)]

    def _properties(self, subject: Subject) -> Folding:
        """Check one property after another; what needs the longest comes last."""
        before = self.before
        assert before is not None
        incomplete = [one for one in self.modalities.sampled(MOST_COMBINATIONS) if one != self.modalities.full]
        folding = Folding(subject, [*incomplete, self.modalities.full], lambda: self.late)
        self._line(UNCHANGED, lambda: lines.base_unchanged(subject, before))
        self._line(STARTS, lambda: lines.starts_as_the_base(subject))
        self._line(ABSENT, lambda: absent_inputs_have_no_effect(subject))
        self._line(GRADIENT, lambda: lines.gradient_only_in_adapters(subject))
        self._line(MIXED, lambda: lines.mixed_equals_one_by_one(subject))
        self._line(SAVED, lambda: lines.saved_and_loaded(subject))
        self._line(THREADS, lambda: lines.threads_do_not_meet(subject))
        if folding.possible:
            self._line(FOLDED, folding.check)
        else:
            self.lines.append(CheckLine(FOLDED, None, f"{type(self.kind).__name__} acts by hooks only"))
        if self.export:
            self._programs(subject, incomplete[0])
        return folding

    def _programs(self, subject: Subject, combination: str) -> None:
        """Export the program of one combination, and, if there is time, the one for all."""
        grouped, start = self.settings["grouped"], time.perf_counter()
        if self.lines[-1].ok:
            self._line(EXPORTED, lambda: lines.exported_program_agrees(subject, combination))
        else:
            self.lines.append(CheckLine(EXPORTED, None, f"not checked: it needs {FOLDED!r}"))
        took = time.perf_counter() - start
        if grouped or ANY in self.modalities:
            why = "grouped=True cannot be exported" if grouped else f"a modality is called {ANY!r}"
            self.lines.append(CheckLine(ALL_EXPORTED, None, why))
        elif time.perf_counter() - self.started + TIMES_ONE * took > self.seconds and not self.late:
            why = f"not checked: it may take longer than what is left of the {self.seconds:g} s, give more"
            self.lines.append(CheckLine(ALL_EXPORTED, None, why))
        else:
            self._line(ALL_EXPORTED, lambda: lines.exported_program_agrees(subject, None))

    def _costs(self, folding: Folding, slower: float | None) -> None:
        total = sum(parameter.numel() for parameter in self.original.parameters())
        for one in folding.costs():
            words = [f"{one.parameters:,} parameters ({one.parameters / max(total, 1):.2%})"]
            if one.operations is not None and self.operations:
                words.append(f"folded {one.operations / self.operations:.0%} of the operations of the base")
            self.lines.append(CheckLine(f"cost of {one.combination}", None, "; ".join(words)))
        if slower is not None:
            why = f"{slower:.1f} times that of the base, for a mixed batch of {folding.subject.example.size} here"
            self.lines.append(CheckLine("time of a call with hooks", None, why))

    def _line(self, name: str, run: Callable[[], str]) -> None:
        """Add the line of a property."""
        if self.before is not None and not self.before.steady and name != UNCHANGED:
            self.lines.append(CheckLine(name, None, f"not checked: no two calls can be compared, see {UNCHANGED!r}"))
            return
        if self.late:
            self.lines.append(CheckLine(name, None, f"not checked: the {self.seconds:g} s are over, give more"))
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                line = CheckLine(name, True, run())
            except (Wrong, LightningMMError, AssertionError) as error:
                line = CheckLine(name, False, str(error))
            except Exception as error:  # of any library
                line = CheckLine(
                    name,
                    False,
                    f"expected that it runs; got {type(error).__name__}: {_first_line(error)}; call the network on "
                    "`example` by itself, and if it runs there, report this",
                )
        self.lines.append(line)

    def _try(self, run: Callable[[], float]) -> float | None:
        try:
            return run()
        except Exception:  # of any library; the line of the property has said why
            return None


@contextmanager
def without_log() -> Iterator[None]:
    """Keep the log of adapters quiet: the table says what matters."""
    log = logging.getLogger("lightning_mm.adapters")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _copied(network: nn.Module) -> nn.Module:
    """Copy a network, with small random values for weights that are all zero.

    Raises:
        LightningMMError: If it cannot be copied.
    """
    try:
        copied = copy.deepcopy(network)
    except Exception as error:
        raise LightningMMError(
            f"{type(network).__name__} cannot be copied ({type(error).__name__}: {_first_line(error)}), which folding "
            "and export need too; store no outputs of a call on the network"
        ) from error
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in copied.parameters():
            if parameter.is_floating_point() and not bool(parameter.any()):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))
    return copied


def _short(reasons: Mapping[str, str]) -> str:
    """List the reasons, each with some of the layers."""
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(reason, []).append(name)
    few: dict[str, str] = {}
    for reason, names in groups.items():
        more = f" and {len(names) - lines.SHOWN} more" if len(names) > lines.SHOWN else ""
        few[", ".join(names[: lines.SHOWN]) + more] = reason
    return listed(few)


def _first_line(error: Exception) -> str:
    return shown((str(error).strip().splitlines() or [""])[0])
