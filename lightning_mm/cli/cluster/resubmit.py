"""``lightning-mm resubmit STUDY``: queue what is open in a submitted study."""

from __future__ import annotations

from pathlib import Path

from lightning_mm.cli.errors import Parser


def run_resubmit(args: list[str]) -> None:
    """Queue cells that are neither finished nor queued."""
    parser = Parser(
        "lightning-mm resubmit",
        description="Queue again what failed, was cancelled or was not run in a submitted study, and what needs it. "
        "What is finished, queued or running stays. The study is the one that was submitted: for changes in its files "
        "use `submit`. Options replace those of the submission, such as --time for cells that need more of it.",
        allow_abbrev=False,
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="the study's YAML file, or the folder of its runs")
    parser.add_argument("--dry_run", action="store_true", help="show the jobs and their scripts, queue nothing")
    parser.add_argument("--again", action="store_true", help="delete and repeat finished runs whose settings changed")
    for name in ("time", "mem", "partition", "account", "qos", "constraint", "nodelist", "exclude"):
        parser.add_argument(f"--{name}", help="as for `submit`; by default as it was submitted")
    for name in ("cpus_per_task", "array_limit", "max_requeues", "jobs"):
        parser.add_argument(f"--{name}", type=int, help="as for `submit`; by default as it was submitted")
    options = vars(parser.parse_args(args))

    from lightning_mm.cli.cluster.study import queue, show
    from lightning_mm.cluster.graph.folder import JobsFolder
    from lightning_mm.cluster.graph.prepare import prepare
    from lightning_mm.cluster.graph.status import open_study
    from lightning_mm.cluster.schedulers import scheduler_of
    from lightning_mm.schemas.base import check
    from lightning_mm.schemas.job_settings import JobSettings

    study = open_study(options["study"])
    folder = JobsFolder(study.out)
    ledger = folder.read_ledger()
    given = {name: options[name] for name in JobSettings.model_fields if options.get(name) is not None}
    content = {**ledger.settings.model_dump(), **given}
    settings = check(JobSettings, content, "the options", "see `lightning-mm resubmit --help`")
    if options["dry_run"]:
        show(study, settings, ledger.command)
        return
    scheduler = ledger.submissions[-1].scheduler if ledger.submissions else "slurm"
    queue(prepare(study, ledger.command, settings, scheduler_of, options["again"]), scheduler)
