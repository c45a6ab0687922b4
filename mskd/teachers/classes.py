"""How a teacher's classes are the study's organs."""

from __future__ import annotations

from mskd.config.study import Study
from mskd.errors import ConfigError


def organ_channels(study: Study, teacher: str, names: list[str]) -> list[list[int]]:
    """Return, for each organ that a teacher owns, the channels of its classes.

    Args:
        study: The study.
        teacher: Which.
        names: What its channels are called, in order.

    Raises:
        ConfigError: If `classes` names a class that the teacher does not have.
    """
    section = study.teachers[teacher]
    channels: dict[str, list[int]] = {organ: [] for organ in study.teacher_organs(teacher)}
    unknown = []
    for label, organ in section.classes.items():
        if label in names:
            channels[organ].append(names.index(str(label)))
        elif isinstance(label, int) and 0 <= label < len(names):
            channels[organ].append(label)
        else:
            unknown.append(str(label))
    if unknown:
        same = {name: organ for name in names for organ in study.organs if name == organ}
        shown = same or {names[-1]: study.organs[0]}
        raise ConfigError(
            f"teachers.{teacher}.classes: not among the classes of {section.path}: {', '.join(unknown)}\n"
            f"  its classes:        {', '.join(f'{i}: {name}' for i, name in enumerate(names))}\n"
            f"  the study's organs: {', '.join(study.organs)}\n"
            "  write, for example:\n"
            f"    teachers:\n      {teacher}:\n        classes: {{"
            + ", ".join(f"{name}: {organ}" for name, organ in shown.items())
            + "}"
        )
    return [channels[organ] for organ in study.teacher_organs(teacher)]
