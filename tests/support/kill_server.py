"""A process that has imported everything and forks a child per command, which gets a signal at a named point.

``python -m tests.support.kill_server`` reads one JSON object a line and answers with one: ``{"run": "main" or
"save" or "study", "args": [...], "folder": ..., "log": ..., "point": ..., "signals": [...], "limit": ..., "ranks": ...,
"to": ...}`` gives ``{"code": ..., "left": [...]}``, with several ranks the list of their codes. A fork takes no time
where starting Python and importing torch takes seconds.

A point is ``module:name:count``: the signals are sent before the count-th call of that function; or
``replace:file:count``, before the count-th renaming to a file of that name. With a limit no file may grow beyond that
many bytes, as on a full disk.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ENDS_WITHIN = 10.0
"""Seconds that the processes of a killed command have to end: loaders look for their parent every 5 seconds."""


def serve() -> None:
    """Answer until the input ends."""
    warm_up()
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def warm_up() -> None:
    """Import what commands import, and start no thread."""
    for name in (
        "matplotlib.pyplot",
        "rich.table",
        "torch.export",
        "torch._dynamo",
        "lightning_mm.cli.lightning.run",
        "tests.support.cli_network",
        "tests.support.studies",
    ):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


def answer(task: dict[str, Any]) -> dict[str, Any]:
    """Run one command in a forked child, or one in each rank; exit codes, and what processes they have left."""
    ranks = task.get("ranks", 1)
    Path(task["log"]).write_bytes(b"")
    port = free_port() if ranks > 1 else 0
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            if ranks > 1:
                os.environ.update(rank_environment(rank, ranks, port))
            if task.get("to", 0) not in (rank, -1):
                task["point"] = ""
            os._exit(in_child(task))
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    end = time.monotonic() + ENDS_WITHIN
    while (left := [one for child in children for one in living(child)]) and time.monotonic() < end:
        time.sleep(0.02)
    return {"code": codes[0] if ranks == 1 else codes, "left": left}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def rank_environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What ``torchrun`` tells a rank."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    return {**{key: str(value) for key, value in numbers.items()}, **place, "TORCHELASTIC_RUN_ID": "kills"}


def in_child(task: dict[str, Any]) -> int:
    """Run one command; what it prints goes to its log."""
    log = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(task["folder"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if task.get("limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (task["limit"], resource.RLIM_INFINITY))
    try:
        if task.get("point"):
            arm(task["point"], [signal.Signals[name] for name in task["signals"]])
        code = RUNS[task["run"]](task["args"])
    except BaseException:
        traceback.print_exc()
        code = 77
    sys.stdout.flush()
    sys.stderr.flush()
    from multiprocessing.util import _exit_function

    _exit_function()  # what the interpreter does at its end: a fork ends without it
    return code


def arm(point: str, signals: Sequence[signal.Signals]) -> None:
    """Send signals to this process before a call."""
    where, name, count = point.rsplit(":", 2)
    process, calls = os.getpid(), 0

    def strike() -> None:
        nonlocal calls
        calls += 1
        if calls == int(count) and os.getpid() == process:
            for one in signals:
                os.kill(process, one)

    if where == "replace":
        rename = os.replace

        def replace(source: Any, target: Any) -> None:
            if Path(target).name == name:
                strike()
            rename(source, target)

        os.replace = replace  # type: ignore[assignment]
        return
    owner: Any = importlib.import_module(where)
    *classes, last = name.split(".")
    for one in classes:
        owner = getattr(owner, one)
    call: Callable[..., Any] = getattr(owner, last)

    @functools.wraps(call)  # Lightning looks at what a hook takes
    def struck(*arguments: Any, **settings: Any) -> Any:
        strike()
        return call(*arguments, **settings)

    setattr(owner, last, struck)


def run_main(args: list[str]) -> int:
    from lightning_mm.cli import main

    return main(args)


def run_save(args: list[str]) -> int:
    """Save an adapter whose weights all have one value."""
    import torch

    from lightning_mm.adapters import SSF, adapt
    from lightning_mm.cli.stopping import Stop
    from lightning_mm.errors import Stopped

    folder, value = args
    network, modalities, example = saved_network()
    adapted = adapt(network, modalities, SSF(), example=example)
    with torch.no_grad():
        for parameter in adapted.adapter.parameters():
            parameter.fill_(float(value))
    stop = Stop()
    try:
        with stop:
            adapted.save(folder)
    except Stopped:
        return stop.code
    return 0


def saved_network() -> tuple[Any, ...]:
    """Network, modalities and example of :func:`run_save`."""
    import torch

    from tests.support.cli_network import TinyNetwork

    torch.manual_seed(0)
    inputs = {"rgb": torch.ones(2, 3, 4, 4), "depth": torch.ones(2, 1, 4, 4)}
    return TinyNetwork({"rgb": 3, "depth": 1}, 2).eval(), ["rgb", "depth"], ((inputs,), {})


def run_study_of_fakes(args: list[str]) -> int:
    """Run a study in worker processes, whose steps only write files."""
    from lightning_mm.cli.stopping import Stop
    from lightning_mm.compare import collect, processes, read_study, run_study, write
    from lightning_mm.errors import Stopped
    from tests.support.studies import fake

    stop, study = Stop(), read_study(args[0])
    try:
        with stop:
            with processes(fake, 2) as executor:
                facts, choices = run_study(study, executor, str)
            write(study, facts, choices, collect(study, facts, choices))
    except Stopped:
        return stop.code
    return 0


RUNS: dict[str, Callable[[list[str]], int]] = {"main": run_main, "save": run_save, "study": run_study_of_fakes}


def living(group: int) -> list[str]:
    """Commands of the processes of a group that have not ended."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, _, of_group = (place / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(of_group) == group and state != "Z":
                found.append((place / "cmdline").read_text().replace("\0", " ").strip())
        except (OSError, ValueError):
            continue
    return found


if __name__ == "__main__":
    serve()
