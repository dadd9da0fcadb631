"""One self-contained page of finished sweeps: HTML and Markdown, without network, server, torch or Lightning."""

from lightning_mm.report.page import write_bundle, write_report

__all__ = ["write_bundle", "write_report"]
