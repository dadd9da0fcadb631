"""Where a training is when it is saved, written as Lightning reads it."""

from __future__ import annotations

from typing import Any, Literal

Position = Literal["before a batch", "in validation", "before an epoch"]


def rewrite(checkpoint: dict[str, Any], position: Position) -> None:
    """Change the progress in a checkpoint, in place, so that Lightning resumes exactly there.

    Args:
        checkpoint: As the trainer makes it at that position.
        position: Before a batch: after everything that belongs to the one before. In validation: at its start, so that
            the whole of it runs. Before an epoch: as in the checkpoint that is written at the end of one.
    """
    progress = checkpoint["loops"]["fit_loop"]
    batches = progress["epoch_loop.batch_progress"]
    if position == "before a batch":
        for counts in (batches["total"], batches["current"]):
            counts["ready"] = counts["completed"]
        batches["is_last_batch"] = False
    elif position == "in validation":
        validated = progress["epoch_loop.val_loop.batch_progress"]
        nothing = dict.fromkeys(validated["current"], 0)
        validated.update(total={**nothing, "ready": 1, "started": 1}, current=nothing, is_last_batch=False)
    else:
        epochs = progress["epoch_progress"]
        for counts in (epochs["total"], epochs["current"]):
            counts["ready"] -= 1
            counts["completed"] -= 1
        checkpoint["epoch"] -= 1
