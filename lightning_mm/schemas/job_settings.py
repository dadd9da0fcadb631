"""What a job asks for and how its command is started: the keys of a profile, most of them options of ``submit`` too."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from lightning_mm.schemas.base import Count, Positive, Schema


def _one_line(value: Any) -> Any:
    if isinstance(value, str) and (not value.strip() or not value.isprintable()):
        raise ValueError("text of one line, with something in it")
    return value


def _is_name(value: Any) -> Any:
    if not isinstance(value, str) or not value.isascii() or not value.isidentifier():
        raise ValueError("the name of a variable, such as NCCL_DEBUG")
    return value


def _is_option(value: Any) -> Any:
    if not isinstance(value, str) or value.startswith("-") or not value.replace("-", "").replace("_", "").isalnum():
        raise ValueError("the long name of an option without dashes in front, such as mail-type")
    return value


Line = Annotated[str, BeforeValidator(_one_line)]
Variable = Annotated[str, BeforeValidator(_is_name)]
Option = Annotated[str, BeforeValidator(_is_option)]


class JobSettings(Schema):
    """All of it. The texts below are the help of the options."""

    # lax: a profile is read as it was written, so that 01:00:00 stays a text
    model_config = ConfigDict(strict=False)

    nodes: Positive = Field(1, description="nodes")
    gpus_per_node: Count = Field(0, description="GPUs of a node; one process each; without any, CPUs are used")
    tasks_per_node: Positive | None = Field(None, description="processes on a node; by default one per GPU, or one")
    cpus_per_task: Positive | None = Field(None, description="CPU cores of a process, its loaders' workers included")
    mem: Line | None = Field(None, description="memory of a node, such as 64G")
    time: Line | None = Field(None, description="time limit, as sbatch takes it: minutes, H:MM:SS or D-HH:MM:SS")
    partition: Line | None = Field(None, description="partition")
    account: Line | None = Field(None, description="account")
    qos: Line | None = Field(None, description="quality of service")
    constraint: Line | None = Field(None, description="features that nodes must have")
    nodelist: Line | None = Field(None, description="nodes to use")
    exclude: Line | None = Field(None, description="nodes not to use")
    reservation: Line | None = Field(None, description="reservation")
    name: Line | None = Field(None, description="name of the job; by default that of the run folder")
    array_limit: Positive | None = Field(None, description="tasks of an array that may run at the same time")
    gres: Line | None = Field(
        None, description="kind of GPU for clusters that want --gres: gpu:a100 asks for --gres=gpu:a100:GPUS"
    )
    max_requeues: Count = Field(20, description="how often a job that needs more time is queued again")
    warn_before: Positive = Field(120, description="seconds before the time limit at which a training saves and stops")
    signal: Literal["USR1", "USR2"] = Field(
        "USR2", description="signal with which Slurm warns the script, which sends USR2 to the command"
    )
    jobs: Positive = Field(1, description="jobs that may run at the same time on this machine, with `submit local`")
    command: Line | None = Field(
        None, description="how the program is started in a job, such as `lightning-mm` inside a container"
    )
    sbatch: dict[Option, Line] = Field(default_factory=dict)
    """Further options of ``sbatch``, such as ``mail-type: END``."""
    srun: dict[Option, Line] = Field(default_factory=dict)
    """Options of ``srun``, such as ``container-image: image.sqsh``."""
    modules: list[Line] = Field(default_factory=list)
    """Modules to load."""
    environment: dict[Variable, str] = Field(default_factory=dict)
    """Variables to export."""
    setup: list[Line] = Field(default_factory=list)
    """Lines of bash that run before the command, such as ``source ~/venv/bin/activate``."""

    @property
    def tasks(self) -> int:
        """Processes on a node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def ranks(self) -> int:
        """Processes of the whole job."""
        return self.nodes * self.tasks


OPTIONS = tuple(name for name, field in JobSettings.model_fields.items() if field.description)
"""The keys that are options of ``submit`` too."""
