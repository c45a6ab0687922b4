"""Individual nets: the N teachers one after another, merged; organ probabilities, background = 1 − max."""

from __future__ import annotations

from mskd.methods.base import MethodContext
from mskd.networks.merged import MergedTeachers
from mskd.networks.unet import UNet

TITLE = "individual nets"
TRAINS = False
NEEDS = ["teachers"]


def assemble(context: MethodContext, teachers: dict[str, UNet]) -> MergedTeachers:
    """Return the teachers as one network that needs a forward pass of each.

    Args:
        context: The study.
        teachers: Trained networks by name.
    """
    organs = {name: [1 + organ for organ in context.owned[name]] for name in teachers}
    return MergedTeachers(teachers, organs, context.channels)
