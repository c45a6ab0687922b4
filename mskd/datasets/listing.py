"""Lists the cases of a dataset through the adapter of its layout; one file per adapter, found by its name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

from mskd.datasets import adapters
from mskd.datasets.case import RawCase
from mskd.datasets.collection import WHOLE_DATASET
from mskd.errors import ConfigError, DataError


class Adapter(Protocol):
    """Lists the cases of a dataset laid out in one particular way, in natural order."""

    def __call__(self, root: Path, options: Mapping[str, str]) -> list[RawCase]:
        """Return the cases below a root.

        Args:
            root: Folder of the dataset (for some adapters a file).
            options: The dataset's options, those that the adapter's `OPTIONS` describe.

        Raises:
            DataError: Files are missing, too many or badly named; mostly a `ListingError` that names all.
            ConfigError: An option cannot be used.
        """
        ...


@dataclass(frozen=True)
class AdapterFacts:
    """What an adapter says of itself.

    Attributes:
        name: Name in the configuration.
        title: The dataset or layout in a few words.
        layout: The files that it expects, one per line.
        licence: Licence of the public dataset, empty for a layout that any data may have.
        non_commercial: Whether that licence excludes commercial use, or does not clearly allow it.
        options: Description of each option by name.
        example: Its section of a study file in YAML, without the key `adapter`.
        case_names: Regular expression that the names of its cases match, empty where data of any name has this layout.
        labels: Meaning of the values in its label files, empty where it differs or lies in files of its own.
        text: What its module says of it.
    """

    name: str
    title: str
    layout: str
    licence: str
    non_commercial: bool
    options: Mapping[str, str]
    example: str
    case_names: str
    labels: Mapping[int, str]
    text: str


def adapter_names() -> list[str]:
    """Return the names of all adapters without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(adapters.__path__))


def adapter_facts(adapter: str) -> AdapterFacts:
    """Return what an adapter says of itself.

    Raises:
        ConfigError: There is no such adapter.
    """
    module = _load(adapter)
    return AdapterFacts(
        name=adapter,
        title=module.TITLE,
        layout=module.LAYOUT,
        licence=module.LICENCE,
        non_commercial=module.NON_COMMERCIAL,
        options=dict(module.OPTIONS),
        example=module.EXAMPLE,
        case_names=module.CASE_NAMES,
        labels=dict(module.LABELS),
        text=(module.__doc__ or "").strip(),
    )


def find_cases(adapter: str, root: Path, options: Mapping[str, str] | None = None) -> list[RawCase]:
    """Return the cases of a dataset in natural order; no image is opened.

    Args:
        adapter: Name of the layout, one of `adapter_names()`.
        root: Folder of the dataset.
        options: The adapter's options.

    Raises:
        ConfigError: There is no such adapter or option.
        DataError: The folder or its files are not as the layout says.
    """
    options = options or {}
    module = _load(adapter)
    unknown = sorted(options.keys() - module.OPTIONS.keys())
    if unknown:
        allowed = "\n".join(f"  {name}: {text}" for name, text in module.OPTIONS.items()) or "  (none)"
        raise ConfigError(f"adapter {adapter} has no option {', '.join(unknown)}; allowed are\n{allowed}")
    try:
        return cast(Adapter, module.find_cases)(root, options)
    except OSError as error:
        raise DataError(
            case=WHOLE_DATASET,
            file=error.filename or root,
            expected="a file or folder that can be read",
            found=(error.strerror or type(error).__name__).lower(),
            fix="mend the permissions, or the disk",
        ) from error


def _load(adapter: str) -> ModuleType:
    """Return an adapter's module."""
    names = adapter_names()
    if adapter not in names:
        close = difflib.get_close_matches(adapter, names, n=1)
        hint = f"; did you mean\n  adapter: {close[0]}" if close else ""
        raise ConfigError(f"adapter {adapter!r} does not exist; there are {', '.join(names)}{hint}")
    return importlib.import_module(f"{adapters.__name__}.{adapter}")
