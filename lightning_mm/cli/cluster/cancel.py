"""``lightning-mm cancel STUDY|RUN``: end the queued and running jobs of a study or a run."""

from __future__ import annotations

from pathlib import Path

from lightning_mm.cli.errors import Parser


def run_cancel(args: list[str]) -> None:
    """Cancel jobs; what is finished stays."""
    parser = Parser(
        "lightning-mm cancel",
        description="End the queued and running jobs of a study, or of a submitted fit or sweep. What is finished "
        "stays; `lightning-mm resubmit` goes on from there.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "study",
        type=Path,
        metavar="STUDY",
        help="the study's YAML file, the folder of its runs, or that of a submitted fit or sweep",
    )
    options = parser.parse_args(args)

    from lightning_mm.cli.cluster.run import cancel_run, is_run

    if is_run(options.study):
        cancel_run(options.study)
        return

    from lightning_mm.cluster.graph.folder import JobsFolder
    from lightning_mm.cluster.graph.jobs import ask_jobs
    from lightning_mm.cluster.graph.status import open_study
    from lightning_mm.cluster.schedulers import scheduler_of
    from lightning_mm.errors import LightningMMError

    folder = JobsFolder(open_study(options.study).out)
    jobs = ask_jobs(folder, folder.read_ledger(), scheduler_of)
    for name, why in jobs.silent.items():
        raise LightningMMError(f"{why}; the study was submitted to {name}")
    live = jobs.live()
    for name, ids in live.items():
        scheduler_of(name).cancel(ids)
    ids = [one for own in live.values() for one in own]
    print(f"cancelled: {', '.join(ids)}" if ids else "nothing is queued or running")
