"""The training loop: the same for teachers and students, for one process and for several that share each step.

Several processes (mskd/processes.py) draw the same samples, take the same steps and choose the same weights as one;
only sums of floating point numbers are ordered differently. So either may go on with the other's checkpoint.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, SequentialSampler, Subset

from mskd import processes
from mskd.config.training import Training
from mskd.console import log, progress
from mskd.errors import ConfigError, MskdError
from mskd.storage import remove_unfinished
from mskd.training.cases import read_with_one_thread
from mskd.training.checkpoints import load_checkpoint, optimiser_tensors, restore_optimiser, save_checkpoint
from mskd.training.journal import Journal
from mskd.training.optimisation import MovingAverage, build_optimiser, learning_rate
from mskd.training.patches import Batch, PatchDataset, collate

CHECKPOINT = "checkpoint.safetensors"
GO_ON = "run the same command to go on"
Loss = Callable[[Batch, int], dict[str, Tensor]]
Validate = Callable[[], dict[str, float]]


class InterruptedTraining(MskdError):  # noqa: N818 - nothing is wrong
    """Training was told to stop; its checkpoint is written."""


@dataclass
class Trainee:
    """What is trained.

    Attributes:
        title: Name in logs and plots.
        network: Becomes the model.
        auxiliary: Learns along and is thrown away (projections of features); may be empty.
        loss: Batch and step → weighted terms; their sum is minimised.
        validate: Scores the network as it is, alike in every process: "val_dice" and more; {} if there are no
            validation cases.
    """

    title: str
    network: nn.Module
    auxiliary: nn.Module
    loss: Loss
    validate: Validate


def train(
    trainee: Trainee,
    patches: PatchDataset,
    settings: Training,
    *,
    folder: Path,
    device: torch.device,
    resume_key: str,
) -> dict[str, float]:
    """Train, or go on where a checkpoint of the same training stands; the trainee ends with the chosen weights.

    Args:
        trainee: Network, loss and validation.
        patches: Sample i is a pure function of seed and i.
        settings: Optimisation keys.
        folder: Journal, plot and checkpoint go here.
        device: Where to compute.
        resume_key: A checkpoint with another key, or of a later step than the last, is not used.

    A checkpoint is written before each validation, and at the last step too: a signal during a validation loses
    nothing, and a finished training goes on where `steps` is raised later.

    Returns:
        The last validation scores of the chosen weights, and "step" at which they were reached.

    Raises:
        InterruptedTraining: After SIGTERM, SIGUSR1 or Ctrl-C in any process, once the checkpoint is written.
        ConfigError: If the processes cannot share a step's patches evenly.
        MskdError: If the loss is not finite.
    """
    if settings.batch_size % processes.world():
        raise ConfigError(
            f"{trainee.title}: {processes.world()} processes cannot share the {settings.batch_size} patches of a step "
            "evenly\n  way out: as many processes (GPUs) as a divisor of training.batch_size"
        )
    network, auxiliary = trainee.network.to(device), trainee.auxiliary.to(device)
    learning = nn.ModuleDict({"network": network, "auxiliary": auxiliary})
    optimiser = build_optimiser(learning.parameters(), settings)
    average = MovingAverage(network, settings.ema_decay) if settings.ema_decay else None
    best: dict[str, Tensor] = {}
    scores: dict[str, float] = {"val_dice": -1.0, "step": 0}
    first = 0
    if processes.is_first():
        remove_unfinished(folder / CHECKPOINT)
    if stored := load_checkpoint(folder / CHECKPOINT, resume_key, settings.steps):
        groups, state = stored
        network.load_state_dict(groups["network"])
        auxiliary.load_state_dict(groups.get("auxiliary", {}))
        restore_optimiser(optimiser, groups.get("optimiser", {}))
        if average:
            average.weights = {k: v.to(device) for k, v in groups["average"].items()}
        best, scores, first = groups.get("best", {}), state["scores"], int(state["step"])
        log(f"{trainee.title}: resuming after step {first}")
    _check_all_resume(processes.gather([first]), folder / CHECKPOINT)
    journal = Journal(folder, first_step=first) if processes.is_first() else None

    def checkpoint(step: int) -> None:
        if not processes.is_first():
            return
        groups = {"network": network.state_dict(), "auxiliary": auxiliary.state_dict(), "best": best}
        groups["optimiser"] = optimiser_tensors(optimiser)
        if average:
            groups["average"] = average.weights
        save_checkpoint(folder / CHECKPOINT, groups, {"step": step, "scores": scores, "resume_key": resume_key})

    def validate(step: int) -> None:
        nonlocal best, scores
        chosen = average.weights if average else network.state_dict()
        found = _validate_with(network, chosen, trainee.validate)
        if found and journal:
            journal.add(step, **found)
        if settings.keep == "last" or not found or found["val_dice"] > scores["val_dice"]:
            best = {k: v.detach().cpu().clone() for k, v in chosen.items()}
            scores = {**found, "step": step}
        if journal:
            journal.plot(trainee.title)

    def due(done: int) -> bool:
        return done % settings.validate_every == 0 or done == settings.steps

    started = time.monotonic()
    with _stop_requested() as stop, progress(trainee.title, settings.steps, done=first) as advance:
        if first and due(first):  # which its checkpoint was written before
            with stop.at_once(f"{trainee.title}: stopped after step {first}", last=first == settings.steps):
                validate(first)
        for step, batch in enumerate(_batches(patches, settings, first), start=first):
            lr = learning_rate(step, settings)
            for group in optimiser.param_groups:
                group["lr"] = lr
            terms = _step(trainee, learning, optimiser, batch.to(device), step, settings, device)
            done = step + 1
            if average:
                average.update(network, done)
            if done % settings.log_every == 0 or done == settings.steps:
                values = processes.mean({name: float(value.detach()) for name, value in terms.items()})
                _check_finite(values, trainee.title, step)
                if journal:
                    journal.add(done, **values, learning_rate=lr, time_s=round(time.monotonic() - started, 3))
            # asked once: a signal between checkpoint and exit would lose the steps since
            stopping = processes.anywhere(stop.noted) and done < settings.steps
            if stopping or due(done) or done % settings.checkpoint_every == 0:
                checkpoint(done)
            if stopping:
                if journal:
                    journal.close()
                processes.anywhere(True)  # none ends before the checkpoint is written: torchrun would end the others
                raise InterruptedTraining(f"{trainee.title}: stopped after step {done}; {GO_ON}")
            if due(done):
                with stop.at_once(f"{trainee.title}: stopped after step {done}", last=done == settings.steps):
                    validate(done)
            advance(1, f"loss {values['loss']:.3f}" if done % settings.log_every == 0 else "")
    if journal:
        journal.close()
    if not best:
        raise MskdError(f"{trainee.title}: the checkpoint holds no weights to keep; delete {folder} and train again")
    network.load_state_dict(best)
    return scores


def _step(
    trainee: Trainee,
    learning: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    step: int,
    settings: Training,
    device: torch.device,
) -> dict[str, Tensor]:
    trainee.network.train()
    optimiser.zero_grad(set_to_none=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.mixed_precision and device.type == "cuda"):
        terms = trainee.loss(batch, step)
    total = torch.stack(list(terms.values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    processes.average_gradients(learning.parameters())
    if settings.gradient_clip:
        nn.utils.clip_grad_norm_(learning.parameters(), settings.gradient_clip)
    optimiser.step()
    return {"loss": total, **{f"loss_{name}": value for name, value in terms.items()}}


def _batches(patches: PatchDataset, settings: Training, first: int) -> Iterator[Batch]:
    rest = Subset(patches, processes.share(range(first * settings.batch_size, settings.steps * settings.batch_size)))
    loader: DataLoader[Any] = DataLoader(
        rest,
        batch_size=settings.batch_size // processes.world(),
        sampler=SequentialSampler(rest),
        num_workers=settings.workers,
        worker_init_fn=read_with_one_thread,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=settings.workers > 0,
    )
    yield from loader


def _validate_with(network: nn.Module, weights: dict[str, Tensor], validate: Validate) -> dict[str, float]:
    """Validate with other weights in place, then put the network's own back."""
    own = {k: v.detach().clone() for k, v in network.state_dict().items()}
    network.load_state_dict(weights)
    network.eval()
    try:
        return validate()
    finally:
        network.load_state_dict(own)


def _check_all_resume(steps: list[int], checkpoint: Path) -> None:
    if len(set(steps)) > 1:
        raise MskdError(
            f"processes would go on after different steps ({', '.join(map(str, steps))}): they do not see the same "
            f"{checkpoint}\n  way out: put `results` on a disk that all nodes share, and run the same command again"
        )


def _check_finite(values: dict[str, float], title: str, step: int) -> None:
    bad = {name: value for name, value in values.items() if value != value or abs(value) == float("inf")}
    if bad:
        raise MskdError(f"{title}: loss is not finite at step {step}: {bad}\n  way out: lower training.learning_rate")


class _Stop:
    """Whether this process was told to stop."""

    def __init__(self) -> None:
        self.noted = False
        self._said = ""

    def note(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; a second Ctrl-C ends the process where it is."""
        if self.noted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.noted = True
        if self._said:
            raise InterruptedTraining(f"{self._said}; {GO_ON}")

    @contextmanager
    def at_once(self, said: str, *, last: bool) -> Iterator[None]:
        """Let a signal end the training here, where a checkpoint stands; several processes would wait for one.

        One that came before ends it too, unless this is the last step.
        """
        self._said = said if processes.world() == 1 else ""
        try:
            if self.noted and self._said and not last:  # while the checkpoint was being written
                raise InterruptedTraining(f"{said}; {GO_ON}")
            yield
        finally:
            self._said = ""


@contextmanager
def _stop_requested() -> Iterator[_Stop]:
    """Note SIGTERM, SIGUSR1 and Ctrl-C, so that a job that is preempted or interrupted leaves a checkpoint."""
    stop = _Stop()
    old = {n: signal.signal(n, stop.note) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
