"""How a loader's process begins: signals of a job are for its parent, which needs it to finish a batch."""

from __future__ import annotations

import os
import signal
import threading

from lightning.fabric.utilities.seed import pl_worker_init_function

from lightning_mm.signals import WARNING


def begin_loader_process(number: int) -> None:
    """Prepare a worker of a ``DataLoader``; its parent alone may end it.

    A queue sends SIGTERM and SIGUSR2 to all processes of a job. If a worker ended then, its parent would not get the
    batch after which it wants to save. PyTorch ends the worker when the parent has ended.

    Args:
        number: Of the worker; see ``worker_init_fn`` of ``torch.utils.data.DataLoader``.
    """
    if os.environ.get("PL_SEED_WORKERS", "0") not in ("", "0"):
        pl_worker_init_function(number)  # what Lightning does where a loader has no function of its own
    if not hasattr(signal, "sigwaitinfo"):  # macOS, Windows: the one who has sent a signal is not known
        return
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, WARNING})

    def wait_for_parent() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait_for_parent, daemon=True).start()
