"""The processes of one job: one per GPU, started by torchrun, that share its work; without torchrun this one alone.

torchrun tells each process its rank by environment variables; `joined` lets them find each other. Work is dealt out
like cards: process r of n takes items r, r + n, r + 2 n, … (`share`), and `gather` puts results back in order. The
first process alone writes what is not a case of its own: journal, checkpoint, model, manifest.

A training step averages gradients by one all-reduce after the backward pass, and every process then takes the same
optimiser step. DistributedDataParallel would start to send while the backward pass still runs; but it wants one call of
one module per step, where methods here tap activations, run two networks and their averages, or project features by
modules of their own, and its answers to that (wrapping, unused parameters found or declared) are more code than this
and wrong more quietly. What it would save is small: a U-Net's gradient is some 100 MB, a step some seconds of 3-D
convolutions. It is right because losses are means over samples of what each sample gives alone, every process has as
many samples as the others, and no layer mixes samples (instance norm).

Small things (flags, scores) go through the CPU by gloo, also beside NCCL: no GPU has to wait for them, and gloo notices
at once when another process is gone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn, TypeVar

from mskd.errors import MskdError

if TYPE_CHECKING:  # torch takes seconds to import, and the command line asks here who it is
    import torch
    from torch import nn

T = TypeVar("T")
# One process may have a day's work more to do than the others: it alone caches what a job before did not.
PATIENCE = timedelta(days=1)
GRACE_S = 15.0  # torchrun needs a moment, on a busy machine some, to see who failed first and to end the others


class LostProcessError(MskdError):
    """Another process of this job has ended; what it says is the cause."""


def launched() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def world() -> int:
    """Return the number of processes, on all nodes together."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ["RANK"]) if launched() else 0


def local_rank() -> int:
    """Return the number of this process on its node, from 0: its GPU."""
    return int(os.environ["LOCAL_RANK"]) if launched() else 0


def local_world() -> int:
    """Return the number of processes on this node."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if launched() else 1


def is_first() -> bool:
    """Return whether this is the process that writes and speaks for all."""
    return rank() == 0


def start(processes: int) -> None:
    """Become torchrun with so many processes that run this command; return where one is enough, or they run already.

    Args:
        processes: Processes on this node; 0 and 1 mean this one.
    """
    if processes <= 1 or launched():
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {
        "OMP_NUM_THREADS": "1",  # what torchrun sets too, with a banner; torch itself has the configuration's threads
        # Slurm signals every process of a job: without this SIGUSR1 would end torchrun, and leave its processes behind
        "PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
        **os.environ,
    }
    sys.stdout.flush()
    os.execve(sys.executable, [*command, "-m", "--", "mskd", *sys.argv[1:]], environment)


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Find the other processes, and leave together with them; after an error each leaves by itself.

    Args:
        device: Where this process computes.
    """
    if world() == 1:
        yield
        return
    import torch
    from torch import distributed

    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    yield
    anywhere(False)
    distributed.destroy_process_group()


def share(items: Sequence[T]) -> Sequence[T]:
    """Return this process's items."""
    return items[rank() :: world()]


def gather(mine: Iterable[T]) -> list[T]:
    """Return what all processes made of what was shared, in its order.

    Args:
        mine: One result for every item of `share`.
    """
    results = list(mine)
    if world() == 1:
        return results
    from torch import distributed

    of_all: list[list[T]] = [[] for _ in range(world())]
    with _together():
        distributed.all_gather_object(of_all, results)
    return [of_all[i % world()][i // world()] for i in range(sum(map(len, of_all)))]


def as_first(found: T) -> T:
    """Return what the first process found, so that all decide alike: a shared disk shows its files when it likes."""
    return gather([found])[0]


def mean(values: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of every value over the processes."""
    of_all = gather([dict(values)])
    return {name: sum(one[name] for one in of_all) / len(of_all) for name in values}


def anywhere(flag: bool) -> bool:
    """Return whether a flag is set in any process."""
    return _anywhere([flag])[0]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their means over the processes.

    A parameter that only other processes' samples have reached gets its gradient from them; one that none has reached
    keeps none, so that the optimiser leaves it alone, as with one process.

    Args:
        parameters: The same in every process, in the same order.
    """
    if world() == 1:
        return
    import torch
    from torch import distributed

    learning = [p for p in parameters if p.requires_grad]
    reached = _anywhere([p.grad is not None for p in learning])
    gradients = []
    for parameter, counts in zip(learning, reached, strict=True):
        if counts:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    with _together():
        distributed.all_reduce(flat)
    flat /= world()
    for gradient, average in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(average.view(gradient.shape))


def end_after(error: Exception) -> NoReturn:
    """Say what went wrong and end this process with 1, so that the log of a job ends with the cause.

    torchrun reports the process that ended first, and ends the others. So those that only lost another process wait,
    and so do all but the first, which then is the only one to report what all have met.

    Args:
        error: What ended the work; it is being handled.
    """
    if world() > 1 and (isinstance(error, LostProcessError) or not is_first()):
        time.sleep(GRACE_S)
    print(f"error: {error}", file=sys.stderr, flush=True)
    record(error.with_traceback(None))
    sys.exit(1)


def record(error: Exception) -> None:
    """Tell torchrun, where it started this process, what ended it; torchrun's report repeats it.

    Args:
        error: It is being handled.
    """
    if launched():
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)


def _anywhere(flags: list[bool]) -> list[bool]:
    if world() == 1:
        return flags
    import torch
    from torch import distributed

    said = torch.tensor(flags, dtype=torch.uint8)
    with _together():
        distributed.all_reduce(said, distributed.ReduceOp.MAX)
    return [bool(flag) for flag in said.tolist()]


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo knows no narrower one
        raise LostProcessError(
            f"process {rank()} of {world()} lost the others; what one of them says above is the cause\n  found: {error}"
        ) from error
