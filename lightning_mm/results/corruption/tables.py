"""Results on damaged inputs as Markdown: every severity, and from which one on to declare a modality absent."""

from __future__ import annotations

import math

from lightning_mm.results.corruption.result import CLEAN, LEFT_OUT, CorruptionResult
from lightning_mm.results.texts import NO_SHARES, markdown_text, with_spread


def is_percent(result: CorruptionResult, metric: str) -> bool:
    """Whether a metric is shown in percent: accuracies and overlaps are; errors and correlations are not."""
    values = [row.value for row in result.rows if row.metric == metric and math.isfinite(row.value)]
    return result.direction(metric) == "max" and metric not in NO_SHARES and all(abs(value) <= 1 for value in values)


def markdown(result: CorruptionResult, metric: str | None = None) -> str:
    """Write two tables: what each method returns on each damage, and from which severity on leaving out pays.

    Args:
        result: The rows.
        metric: What to show; the primary one by default.

    Raises:
        LightningMMError: If there are no rows of the metric.
    """
    metric = result.require_metric(metric)
    percent, methods = is_percent(result, metric), result.methods
    counts = sorted({row.n for row in result.rows if row.metric == metric})
    seeds = {row.seed for row in result.rows}
    samples = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    spread = f", mean ± standard deviation over {len(seeds)} seeds" if len(seeds) > 1 else ""
    better = "higher" if result.direction(metric) == "max" else "lower"
    lines = [
        f"{metric}{' in %' if percent else ''} ({better} is better), n = {samples}{spread}. One modality is damaged, "
        "all others are clean. **Bold**: better if the damaged modality is declared absent (the row `left out`).",
        "",
        f"| damaged | severity | {' | '.join(map(markdown_text, methods))} |",
        f"|---|---|{'---|' * len(methods)}",
    ]

    def line(title: str, severity: str, modality: str, corruption: str, grade: int) -> str:
        cells = []
        for method in methods:
            text = with_spread(result.figure(method, modality, corruption, grade, metric), percent, intervals=True)
            pays = bool(grade) and result.pays(method, modality, corruption, grade, metric)
            cells.append(f"**{text}**" if pays else text)
        return f"| {title} | {severity} | {' | '.join(cells)} |"

    lines.append(line("nothing", "", "", CLEAN, 0))
    for modality in dict.fromkeys(name for name, _ in result.damages):
        lines.append(line(f"{markdown_text(modality)}: left out", "", modality, LEFT_OUT, 0))
        for corruption in (kind for name, kind in result.damages if name == modality):
            title = f"{markdown_text(modality)}: {_plain(corruption)}"
            lines += [line(title, str(grade), modality, corruption, grade) for grade in result.severities]
    lines += [
        "",
        "Declare a damaged modality absent from this severity on:",
        "",
        f"| damaged | {' | '.join(map(markdown_text, methods))} |",
        f"|---|{'---|' * len(methods)}",
    ]
    for modality, corruption in result.damages:
        found = [result.pays_from(method, modality, corruption, metric) for method in methods]
        cells = " | ".join("never" if one is None else str(one) for one in found)
        lines.append(f"| {markdown_text(modality)}: {_plain(corruption)} | {cells} |")
    return "\n".join(lines)


def _plain(corruption: str) -> str:
    return markdown_text(corruption.replace("_", " "))
