"""The errors that a user can meet; each says what was found, what was expected, and the way out."""

from __future__ import annotations


class MskdError(Exception):
    """Base of every error that mskd raises on purpose; the CLI prints it without a traceback."""


class ConfigError(MskdError):
    """A study file, or an option, that cannot be used as written."""


class DataError(MskdError):
    """An input file that cannot be used: names case, file, expected, found, and the way out.

    Attributes:
        code: What is wrong, one of `mskd.checks.codes.CODES`; empty where nothing needs to know.
    """

    def __init__(self, *, case: str, file: object, expected: str, found: str, fix: str, code: str = "") -> None:
        self.case, self.file, self.expected, self.found, self.fix = case, str(file), expected, found, fix
        self.code = code
        super().__init__(f"case {case}: {file}\n  expected: {expected}\n  found:    {found}\n  way out:  {fix}")

    def __reduce__(self) -> tuple[object, ...]:
        names = ("case", "file", "expected", "found", "fix", "code")
        fields = {name: getattr(self, name) for name in names}
        return (_restore_data_error, (type(self), fields))


class MissingArtefactError(DataError):
    """Something that an earlier stage makes is not there, or is not what its manifest says."""


def _restore_data_error(kind: type[DataError], fields: dict[str, str]) -> DataError:
    return kind(**fields)
