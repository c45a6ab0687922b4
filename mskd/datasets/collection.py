"""Collects the cases of a dataset and every fault of its files, so that one run names them all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from mskd.console import printable
from mskd.datasets.case import LabelFile, LabelGrid, RawCase, Split, check_case_name, natural_key
from mskd.errors import ConfigError, DataError

WHOLE_DATASET = "(all)"
"""Stands for the case in errors that concern a dataset as a whole."""

UNLABELLED = "error (default), skip or keep images that have no label"
"""Description of the option `unlabelled`, which every adapter that pairs files shares."""

_SHOWN = 20


class ListingError(DataError):
    """A dataset whose files do not fit together.

    Attributes:
        problems: One error per fault.
        cases: The cases without a fault, in natural order.
    """

    def __init__(self, problems: Sequence[DataError], cases: Sequence[RawCase] = ()) -> None:
        self.problems, self.cases = tuple(problems), tuple(cases)
        first = self.problems[0]
        super().__init__(case=first.case, file=first.file, expected=first.expected, found=first.found, fix=first.fix)
        shown = [str(problem) for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            shown.append(f"… and {len(self.problems) - _SHOWN} more faults")
        self.args = ("\n".join(shown),)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self.problems, self.cases))


class CaseCollection:
    """The cases of one dataset while an adapter goes through its files."""

    def __init__(self, root: Path, options: Mapping[str, str]) -> None:
        self.root = root
        self.unlabelled = choice(options, "unlabelled", ("error", "skip", "keep"), "error")
        self._cases: dict[str, RawCase] = {}
        self._problems: list[DataError] = []

    def fault(
        self, *, case: str, file: object, expected: str, found: str, fix: str, code: str = "listing.layout"
    ) -> None:
        """Note a fault; `finish` raises it."""
        self._problems.append(
            DataError(
                case=printable(case),
                file=printable(str(file)),
                expected=printable(expected),
                found=printable(found),
                fix=fix,
                code=code,
            )
        )

    def add(self, name: str, image: Path, labels: Sequence[LabelFile] = (), native_split: Split | None = None) -> None:
        """Add a case, unless its name is refused or taken."""
        try:
            check_case_name(name, image)
        except DataError as error:
            self._problems.append(error)
            return
        if name in self._cases:
            self.fault(
                case=name,
                file=image,
                expected="one image per case name",
                found=f"also {self._cases[name].image}",
                fix="remove one of the two, or give them different names with adapter 'table'",
                code="listing.twice",
            )
            return
        self._cases[name] = RawCase(name, image, tuple(labels), native_split)

    def add_unlabelled(self, name: str, image: Path, expected_label: object, native_split: Split | None = None) -> None:
        """Treat an image without label as the option `unlabelled` says."""
        if self.unlabelled == "keep":
            self.add(name, image, (), native_split)
        elif self.unlabelled == "error":
            self.fault(
                case=name,
                file=image,
                expected=f"a label {expected_label}",
                found="no such file",
                fix="restore the label, or set the dataset's option 'unlabelled' to 'skip' (leave such "
                "images out) or 'keep' (list them as unlabelled)",
                code="listing.missing_label",
            )

    def add_pairs(
        self,
        images: Mapping[str, Path],
        labels: Mapping[str, Path],
        *,
        expected_label: Callable[[str], object],
        expected_image: Callable[[str], object],
        native_split: Split | None = None,
        rename: Callable[[str], str] = str,
        grid: LabelGrid = "scan",
    ) -> None:
        """Add images and labels that share a key; an image or a label alone is a fault.

        Args:
            images: Image files by key.
            labels: Label files by key.
            expected_label: Where the label of a key should lie, for messages.
            expected_image: Where the image of a key should lie, for messages.
            native_split: The split that the layout states for these cases.
            rename: Turns a key into the case's name.
            grid: How the labels lie on their scans.
        """
        for key, image in images.items():
            if key in labels:
                self.add(rename(key), image, (LabelFile(labels[key], grid=grid),), native_split)
            else:
                self.add_unlabelled(rename(key), image, expected_label(key), native_split)
        for key in labels.keys() - images.keys():
            self.label_alone(rename(key), labels[key], expected_image(key))

    def add_listed(
        self, name: str, image: Path, label: Path, listed_in: Path, native_split: Split | None = None
    ) -> None:
        """Add a case whose files a list names; those that are missing are faults."""
        if image.is_file() and label.is_file():
            self.add(name, image, (LabelFile(label),), native_split)
        elif image.is_file():
            self.add_unlabelled(name, image, label, native_split)
        elif label.is_file():
            self.label_alone(name, label, image)
        else:
            self.fault(
                case=name,
                file=image,
                expected=f"the image and the label that {listed_in} names",
                found="neither file",
                fix="restore them, or remove the entry",
                code="listing.missing_files",
            )

    def label_alone(self, name: str, label: Path, expected_image: object) -> None:
        """Note a label that has no image."""
        self.fault(
            case=name,
            file=label,
            expected=f"an image {expected_image}",
            found="no such file",
            fix="restore the image, or remove the label",
            code="listing.missing_image",
        )

    def finish(self, expected: str = "at least one image with its label") -> list[RawCase]:
        """Return the cases in natural order.

        Args:
            expected: What the folder should hold, for the message when it holds no case.

        Raises:
            ListingError: A file is missing, too many, or badly named; names all of them.
        """
        cases = sorted(self._cases.values(), key=lambda case: natural_key(case.name))
        if not cases and not self._problems:
            self.fault(
                case=WHOLE_DATASET,
                file=self.root,
                expected=expected,
                found="no case",
                fix="check the dataset's path and adapter, and that the download was unpacked",
                code="listing.empty",
            )
        if self._problems:
            self._problems.sort(key=lambda problem: (problem.case == WHOLE_DATASET, problem.case, problem.file))
            raise ListingError(self._problems, cases)
        return cases


def choice(options: Mapping[str, str], key: str, allowed: Collection[str], default: str) -> str:
    """Return an option's value.

    Raises:
        ConfigError: The value is not one of those allowed.
    """
    value = options.get(key, default)
    if value not in allowed:
        raise ConfigError(f"dataset option {key}: {value!r} is not one of {', '.join(allowed)}")
    return value


def required(options: Mapping[str, str], key: str, example: str) -> str:
    """Return an option that has no default.

    Raises:
        ConfigError: The option is missing or empty.
    """
    value = options.get(key, "")
    if not value:
        raise ConfigError(f"dataset option {key} is missing; write for example\n  options: {{{key}: {example}}}")
    return value
