"""Stage: train one teacher on the labels of its own dataset."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mskd import processes
from mskd.cases import seed_of_run
from mskd.config.study import Study
from mskd.console import log
from mskd.device import set_up, stable_seed
from mskd.layout import Layout
from mskd.leaves import resumed_leaves, stage_code, teacher_leaves
from mskd.manifest import Manifest
from mskd.methods.base import segmentation_terms
from mskd.model_card import training_data
from mskd.models import save_model, stored_weights, update_card
from mskd.networks.unet import UNet
from mskd.provenance import content_key
from mskd.stages.inputs import cases_of, learned_cases, prepared_cases, require_cases
from mskd.stages.training_inputs import patches, training_cases, validator
from mskd.training.loop import Loss, Trainee, train
from mskd.training.patches import Batch, PatchNeeds

STAGE = "train_teacher"
IGNORE = 255


def train_teacher(study: Study, teacher: str, run: str, device: torch.device) -> None:
    """Train a teacher, unless its model stands under the same key; several processes may train it together."""
    layout = Layout(study.root)
    folder = layout.teacher(teacher, run)
    dataset, training = study.teacher_dataset(teacher), study.teacher_training(teacher)
    learn, manifest = prepared_cases(study, learned_cases(study, teacher, run))
    check, checked = prepared_cases(study, cases_of(study, [dataset], run, ["val"]))
    require_cases(learn, manifest, dataset)
    prepared = manifest.entries | checked.entries
    inputs = {
        split: {case.id: [prepared[case.id]["image"], prepared[case.id]["labels"]] for case in cases}
        for split, cases in (("train", learn), ("val", check))
    }
    leaves, identity = teacher_leaves(study, teacher), {"code": stage_code(STAGE), "run": run, "inputs": inputs}
    key = content_key(leaves=leaves, **identity)
    organs = study.teacher_organs(teacher)
    kept, data = study.evaluation.largest_component, training_data(study, [*learn, *check], organs)
    weights = processes.as_first(stored_weights(folder, key))
    if weights is None:
        set_up(device, training.threads)
        seed = stable_seed("teacher", teacher, run)
        torch.manual_seed(seed)
        network = UNet(study.network, 1 + len(organs))
        channels = {organ: i for i, organ in enumerate(organs, start=1)}
        trainee = Trainee(
            title=f"teacher {teacher} {run}",
            network=network,
            auxiliary=nn.ModuleDict(),
            loss=_loss(network, study, teacher),
            validate=validator(study, network, check, training, channels, device),
        )
        sampler = patches(study, training_cases(study, learn, training), training, seed=seed, needs=PatchNeeds())
        going_on = content_key(leaves=resumed_leaves(leaves, training), **identity)
        scores = train(trainee, sampler, training, folder=folder, device=device, resume_key=going_on)
        log(f"teacher {teacher} {run}: {scores}")
    if not processes.is_first():
        return
    if weights is not None:
        update_card(folder, largest_component=kept, data=data)
    else:
        weights = save_model(
            folder,
            network,
            labels=channels,
            preprocessing=study.preprocessing,
            window=study.window,
            overlap=study.inference.overlap,
            stride=study.network.coarsest_stride,
            key=key,
            provenance={
                "study": study.study,
                "teacher": teacher,
                "run": run,
                "seed": seed_of_run(run),
                "validation": scores,
                "inputs": inputs,
                "training": training.model_dump(mode="json"),
                "data": data,
                "code": stage_code(STAGE),
            },
            largest_component=kept,
        )
    Manifest(STAGE, {teacher: {"key": key, "weights": weights}}).write(layout.manifest(STAGE, teacher, run))


def _loss(network: UNet, study: Study, teacher: str) -> Loss:
    """Supervision on the teacher's organs, its channels in place of the study's values."""
    table = torch.zeros(256, dtype=torch.uint8)
    table[IGNORE] = IGNORE
    values = [study.label_values[organ] for organ in study.teacher_organs(teacher)]
    for channel, value in enumerate(values, start=1):
        table[value] = channel
    columns = [value - 1 for value in values]
    training = study.teacher_training(teacher)

    def loss(batch: Batch, step: int) -> dict[str, Tensor]:
        labels = table.to(batch.labels.device)[batch.labels.long()]
        return segmentation_terms(network, batch, labels, batch.labelled[:, columns], training)

    return loss
