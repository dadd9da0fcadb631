"""Find by trial the modules that get the same input in several combinations: encoders, and what comes before a fusion.

A few samples run through all combinations (at most :data:`TRIALS`). A module is chosen if its inputs repeat and equal
inputs have equal outputs. Then the same samples run again with the outputs of these modules reused; the sweep only
reuses them if outputs and statistics of the task are the same, bit for bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as of_all_modules

from lightning_mm.adapters.absent_rows import AbsentRows
from lightning_mm.adapters.encoders_first import OtherForward
from lightning_mm.adapters.hooks import EntryHook, SiteHook
from lightning_mm.sweep.reuse import Memory, Replacement, comparable, replaced_forwards
from lightning_mm.sweep.undisturbed import undisturbed
from lightning_mm.tree import leaves_of, tensors_of

TRIALS = 24
"""The most combinations that are tried."""
SAMPLES = 2
"""The number of samples that are tried."""


@dataclass(frozen=True)
class Repeated:
    """The modules that run once for several combinations.

    Args:
        modules: Name in the task to module.
        reason: Why there is none.
    """

    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    reason: str = ""

    def record(self) -> list[str] | str:
        """What the record of the sweep says."""
        return list(self.modules) or f"none: {self.reason}"


def find_repeated(task: nn.Module, combinations: Sequence[str], evaluate: Callable[[str], Any], most: int) -> Repeated:
    """Find the modules of a task that may run once for several combinations.

    Args:
        task: The task, in eval mode and without gradients; buffers and the global random state are restored.
        combinations: Those that will be swept.
        evaluate: Runs the task on the samples of the trial for one combination, and returns all that counts: outputs
            and statistics.
        most: The most calls that are kept of a module, see :class:`Memory`.
    """
    tried = _spread(combinations, TRIALS)
    candidates = _candidates(task)
    if not candidates:
        return Repeated(reason="no module could run alone, since it is compiled, adapted, or has hooks inside")
    records: dict[nn.Module, Recording] = {}

    def record(module: nn.Module) -> Recording:
        return records.setdefault(module, Recording(module))

    try:
        with undisturbed(task) as buffers:
            with replaced_forwards(candidates.values(), record):
                slow = [_digest(evaluate(combination)) for combination in tried]
            changed = [
                name
                for name, buffer in task.named_buffers()
                if name in buffers and not torch.equal(buffer, buffers[name])
            ]
        if changed:
            return Repeated(reason=f"buffer {changed[0]!r} changes when the task runs")
        chosen = _outermost({name: one for name, one in candidates.items() if records[one].repeats()})
        if not chosen:
            return Repeated(reason="no module gets the same input in several combinations")
        with undisturbed(task), Memory(most).used_by(chosen.values()):
            fast = [_digest(evaluate(combination)) for combination in tried]
        if fast != slow:
            at = next(name for name, one, other in zip(tried, slow, fast) if one != other)
            return Repeated(reason=f"outputs of {at!r} differ if those of {', '.join(chosen)} are reused")
    except Exception as error:  # what does not run on a few samples may run on a batch
        return Repeated(
            reason=f"{type(task).__name__} does not run on {SAMPLES} samples ({type(error).__name__}: {error})"
        )
    return Repeated(chosen)


def _spread(combinations: Sequence[str], most: int) -> list[str]:
    """Choose up to ``most`` combinations, evenly and with the first and the last one."""
    last = len(combinations) - 1
    if last < most:
        return list(combinations)
    return [combinations[round(place * last / (most - 1))] for place in range(most)]


def _candidates(task: nn.Module) -> dict[str, nn.Module]:
    """Find the modules that have weights, and of which nothing but their arguments is known to change the output."""
    if of_all_modules._global_forward_hooks or of_all_modules._global_forward_pre_hooks:
        return {}
    found: dict[str, nn.Module] = {}
    compiled: tuple[str, ...] = ()
    for name, module in task.named_modules():
        if _is_compiled(module):
            compiled = (*compiled, f"{name}." if name else "")
        elif (
            name
            and not f"{name}.".startswith(compiled)
            and isinstance(vars(module).get("forward"), (OtherForward, type(None)))  # what else is unknown
            and type(module).forward is not nn.Module.forward  # containers
            and next(module.parameters(), None) is not None
            and not any(_is_compiled(inner) for inner in module.modules())
            and not any(_is_hooked(inner, inner is module) for inner in module.modules())
        ):
            found[name] = module
    return found


def _is_compiled(module: nn.Module) -> bool:
    is_script = isinstance(module, torch.jit.ScriptModule)
    return is_script or hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _is_hooked(module: nn.Module, itself: bool) -> bool:
    """Return whether an adapter modulates a module, or it has other hooks; those of the candidate itself always run."""
    for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values()):
        if isinstance(hook, (EntryHook, SiteHook)):
            if hook.current.situation.enabled:
                return True
        elif not itself and not isinstance(getattr(hook, "__self__", None), AbsentRows):
            return True
    return False


class Recording(Replacement):
    """Notes the inputs and outputs of a module, each as a few numbers."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.calls: list[tuple[Hashable, Hashable] | None] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not comparable(leaves_of((args, kwargs))):
            self.calls.append(None)
            return self.forward(*args, **kwargs)
        before = _summed((args, kwargs))
        output = self.forward(*args, **kwargs)
        fits = comparable(leaves_of(output)) and _summed((args, kwargs)) == before  # it may change its inputs in place
        self.calls.append((before, _summed(output)) if fits else None)
        return output

    def repeats(self) -> bool:
        """Return whether a third of the calls or more had the inputs of an earlier call, and its outputs."""
        calls = [call for call in self.calls if call is not None]
        inputs = {given for given, _ in calls}
        repeats = len(inputs) < len(calls) and 3 * len(inputs) <= 2 * len(calls)
        return repeats and len(calls) == len(self.calls) and len(set(calls)) == len(inputs)


def _summed(nest: Any) -> Hashable:
    """Describe a nest by its plain values and two sums of each tensor: NaN makes it differ from all others."""
    return tuple((path, _sums(leaf) if isinstance(leaf, Tensor) else leaf) for path, leaf in leaves_of(nest))


def _sums(tensor: Tensor) -> Hashable:
    values = tensor.reshape(-1).to(torch.complex128 if tensor.is_complex() else torch.float64)
    return tensor.dtype, tensor.shape, *torch.stack([values.sum(), values.dot(values)]).tolist()


def _digest(nest: Any) -> list[Hashable]:
    return [
        (leaf.dtype, leaf.shape, hashlib.blake2b(_bytes(leaf), digest_size=16).digest()) for leaf in tensors_of(nest)
    ]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _outermost(found: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Leave out modules inside others."""
    chosen: dict[str, nn.Module] = {}
    inside: set[nn.Module] = set()
    for name, module in found.items():  # outer modules come first
        if module not in inside:
            chosen[name] = module
            inside.update(module.modules())
    return chosen
