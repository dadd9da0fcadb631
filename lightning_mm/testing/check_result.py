"""The result of a check of a network: one line per property, as data and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WORDS = {True: "yes", False: "no", None: "-"}
"""How a line is answered in the table."""
STYLES = {True: "green", False: "bold red", None: "dim"}


@dataclass(frozen=True)
class CheckLine:
    """One property of an adapted network.

    Args:
        name: The property.
        ok: Whether it holds; None if the line only informs, or could not be checked.
        why: What was compared; for a failure what was expected, what came, and the way out.
    """

    name: str
    ok: bool | None
    why: str


@dataclass(frozen=True)
class CombinationCost:
    """What one combination costs.

    Args:
        combination: Its name.
        parameters: Parameters of the adapter that it uses.
        operations: Floating-point operations of its folded network for one sample, as
            :mod:`torch.utils.flop_counter` counts them; None if it cannot be folded.
    """

    combination: str
    parameters: int
    operations: int | None


@dataclass(frozen=True)
class KindCheck:
    """The check of one kind of adapter.

    Args:
        kind: Name of its class.
        basis: Name of the class of the basis.
        lines: The properties, in the order in which they were checked.
        costs: The combinations, as far as they were looked at.
        left_out: Layers with weights that are not adapted, by name, with the reason.
        slowdown: Time of a call with hooks, relative to that of the base alone; None if it was not measured.
        seconds: What the check took.
    """

    kind: str
    basis: str
    lines: tuple[CheckLine, ...]
    costs: tuple[CombinationCost, ...]
    left_out: Mapping[str, str]
    slowdown: float | None
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether no line failed."""
        return all(line.ok is not False for line in self.lines)


@dataclass(frozen=True)
class CheckResult:
    """The result of :func:`lightning_mm.testing.check`.

    Args:
        network: Name of the class of the network.
        modalities: Names in order.
        parameters: Number of parameters of the network.
        operations: Its operations for one sample; None if they cannot be counted.
        kinds: The check of each kind.
    """

    network: str
    modalities: tuple[str, ...]
    parameters: int
    operations: int | None
    kinds: tuple[KindCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether no line failed."""
        return all(kind.ok for kind in self.kinds)

    @property
    def lines(self) -> tuple[CheckLine, ...]:
        """The lines of all kinds."""
        return tuple(line for kind in self.kinds for line in kind.lines)

    @property
    def failed(self) -> tuple[CheckLine, ...]:
        """The lines that failed."""
        return tuple(line for line in self.lines if line.ok is False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything in plain types, with ``ok`` of each kind and of all."""
        kinds = [{"ok": kind.ok, **asdict(kind)} for kind in self.kinds]
        return {"ok": self.ok, **asdict(self), "kinds": kinds}

    def print(self, console: Console | None = None) -> None:
        """Print one table for each kind, with the answers yes, no or - (not a question, or not checked)."""
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = console or Console()
        for kind in self.kinds:
            title = f"{self.network} ({self.parameters:,} parameters): {kind.kind}, {kind.basis}"
            caption = Text(f"{kind.seconds:.0f} s; -: no question, or not checked")
            table = Table(title=Text(title, style="bold"), caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
            table.add_column("", max_width=max(16, console.width // 3))
            table.add_column("", no_wrap=True)
            table.add_column("why")
            for line in kind.lines:
                # Text, not str: brackets of a message are no markup
                table.add_row(Text(line.name), Text(WORDS[line.ok], style=STYLES[line.ok]), Text(line.why))
            console.print(table)
