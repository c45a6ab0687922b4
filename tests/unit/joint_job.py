"""What test_processes.py lets torchrun start: stages in several processes, and processes that are disturbed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mskd import processes
from mskd.cli import main
from mskd.config.loading import load_study
from mskd.errors import DataError
from mskd.stages import train_teacher as stage
from mskd.stages.cache_targets import cache_targets
from mskd.stages.predict import predict
from mskd.stages.train_student import train_student
from mskd.training.loop import Loss
from mskd.training.patches import Batch

CPU, RUN = torch.device("cpu"), "fold0-seed0"


def everything(study_file: str, output: str) -> None:
    """Exchange all that can be exchanged, cache, train a student, predict: one after the other, to start only once."""
    study = load_study(Path(study_file))
    with processes.joined(CPU):
        exchange(Path(output))
        for teacher in study.teachers:
            for dataset in study.datasets:
                cache_targets(study, teacher, RUN, dataset, "b00", CPU)
        processes.anywhere(False)  # jobs of their own would begin after the end of these
        train_student(study, "mskd", RUN, CPU)
        processes.anywhere(False)
        for dataset in study.datasets:
            predict(study, "mskd", RUN, dataset, "b00", CPU)


def exchange(output: Path) -> None:
    """Average gradients that are there in every process, in one, in none, and so on; write what each has then."""
    rank = processes.rank()
    both, one, none, fixed = (nn.Parameter(torch.zeros(2, 3, 1, 2, 2)) for _ in range(4))
    fixed.requires_grad_(False)
    both.grad = torch.arange(24.0).view(2, 3, 1, 2, 2).to(memory_format=torch.channels_last_3d) * (1 + 2 * rank)
    if rank == 1:
        one.grad = torch.full_like(one, 5.0)
    processes.average_gradients([both, one, none, fixed])
    assert one.grad is not None
    found = {
        "both": both.grad.flatten().tolist(),
        "layout_kept": both.grad.is_contiguous(memory_format=torch.channels_last_3d),
        "one": one.grad.flatten().tolist(),
        "none": none.grad,
        "fixed": fixed.grad,
        "flags": [processes.anywhere(rank == 1), processes.anywhere(False)],
        "dealt": processes.gather([(rank, item) for item in processes.share("abcde")]),
        "first": processes.as_first("first" if rank == 0 else "other"),
        "means": processes.mean({"loss": float(rank), "other": 3.0}),
    }
    (output / f"{rank}.json").write_text(json.dumps(found))


def disturbed(how: str, rank: str, step: str, *command: str) -> None:
    """Run a command of mskd; in one of the processes something happens in a step of a teacher's training."""
    stage._loss = with_fault(stage._loss, how, int(rank), int(step))
    sys.argv = ["mskd", *command]
    main()


def with_fault(made: Callable[..., Loss], how: str, rank: int, step: int) -> Callable[..., Loss]:
    """Return what makes a loss with an error in it, or a signal to its own process."""

    def make(*arguments: Any) -> Loss:
        loss = made(*arguments)

        def disturbed_loss(batch: Batch, now: int) -> dict[str, Tensor]:
            if processes.rank() == rank and now == step:
                if how == "error":
                    raise DataError(case="liver/1", file="f", expected="a whole store", found="half", fix="mend it")
                os.kill(os.getpid(), signal.Signals[how])
            return loss(batch, now)

        return disturbed_loss

    return make


if __name__ == "__main__":
    {"everything": everything, "disturbed": disturbed}[sys.argv[1]](*sys.argv[2:])
