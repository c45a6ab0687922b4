"""What goes wrong when a teacher is asked about a case says which case that was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mskd.cases import Case
from mskd.errors import DataError, MskdError


@contextmanager
def about(case: Case, teacher: str) -> Iterator[None]:
    """Name the case in every error of the block that does not yet.

    Raises:
        DataError: Instead of another MskdError.
    """
    try:
        yield
    except DataError:
        raise
    except MskdError as error:
        said, _, way_out = str(error).partition("\n  way out:")
        raise DataError(
            case=case.id,
            file=case.image,
            expected=f"scores of this scan from teacher {teacher}",
            found=said.replace("\n", "\n          "),
            fix=way_out.strip() or f"correct the teacher, or leave this dataset out of `teachers.{teacher}.datasets`",
        ) from error
