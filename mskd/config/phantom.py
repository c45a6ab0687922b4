"""Configuration of synthetic datasets: the scanner, the population, and the layout on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import field_validator, model_validator

from mskd.config.faults import Fault, FaultsError
from mskd.config.section import Section, key

Phase = Literal["unenhanced", "arterial", "portal_venous", "nephrographic"]
Layout = Literal["msd", "kits", "lits", "btcv"]
PhantomOrgan = Literal[
    "spleen",
    "right_kidney",
    "left_kidney",
    "kidney",
    "gallbladder",
    "liver",
    "stomach",
    "aorta",
    "ivc",
    "pancreas",
]

_AXIS_PAIRS = ({"R", "L"}, {"A", "P"}, {"S", "I"})


class Scanner(Section):
    """A CT scanner and its protocol: everything that makes one hospital's scans differ from another's."""

    phase: Phase = key("portal_venous", "Contrast phase of the scans.")
    spacing_mm: tuple[float, float, float] = key(
        (2.5, 2.5, 4.0),
        "Voxel spacing along the patient's right-left, anterior-posterior, superior-inferior axes.",
        unit="mm",
    )
    slice_thickness_mm: float = key(
        4.0, "Thickness over which a slice averages; may exceed the slice spacing.", unit="mm", gt=0
    )
    fov_mm: tuple[float, float, float] = key(
        (400.0, 340.0, 340.0),
        "Extent of the reconstructed volume (right-left, anterior-posterior, length).",
        unit="mm",
    )
    fov_circle: bool = key(
        False,
        "Blank what lies outside the circle whose diameter is the wider in-plane extent (scanner's gantry).",
    )
    noise_hu: float = key(12.0, "Standard deviation of the noise in soft tissue.", unit="HU", ge=0)
    noise_correlation_mm: float = key(
        1.5, "Correlation length (Gaussian sigma) of the noise; 0 for white noise.", unit="mm", ge=0
    )
    blur_mm: float = key(
        1.5, "Blur of the reconstruction kernel in the slice (full width at half maximum).", unit="mm", ge=0
    )
    hu_slope: float = key(1.0, "Tilt of the intensity scale: measured = slope * HU + offset.", unit="HU/HU", gt=0)
    hu_offset: float = key(0.0, "Offset of the intensity scale.", unit="HU")
    padding_hu: int = key(-1024, "Value outside the field of view and lowest value stored.", unit="HU", ge=-32768)
    jitter: float = key(
        0.5,
        "How much noise, contrast and the position in the field of view vary from scan to scan, 0 for not at all.",
        unit="fraction",
        ge=0,
        le=2,
    )
    orientation: str = key(
        "",
        "Axis codes of the stored array, such as RAS, LPS or LAS; empty for the usual one of the layout.",
        example="LPS",
    )

    @field_validator("orientation")
    @classmethod
    def _axis_codes(cls, value: str) -> str:
        code = value.upper()
        if code and (len(code) != 3 or any(len(pair & set(code)) != 1 for pair in _AXIS_PAIRS)):
            raise FaultsError(
                Fault("", value, "axis codes: write one letter of each of R/L, A/P, S/I, such as LPS", "LPS")
            )
        return code

    @field_validator("spacing_mm", "fov_mm")
    @classmethod
    def _positive(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) <= 0:
            raise FaultsError(
                Fault("", value, "three numbers, which must be positive (mm)", [abs(mm) or 2.5 for mm in value])
            )
        return value

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along the patient's axes."""
        counts = [max(round(extent / step), 1) for extent, step in zip(self.fov_mm, self.spacing_mm, strict=True)]
        return counts[0], counts[1], counts[2]


class PhantomAtlas(Section):
    """A label map of the user's, optionally with its CT, of which a population of deformed copies is made."""

    labels: Path = key(Path(), "NIfTI file of the label map.", example="labels.nii.gz")
    ct: Path | None = key(
        None, "NIfTI file of the CT on which the labels were drawn; without it HU come by tissue.", example="ct.nii.gz"
    )
    label_map: dict[int, str] = key(
        dict,
        "Tissue or organ of each value of the file; values left out become soft tissue.",
        example={6: "liver", 9: "bone"},
    )


class PhantomDataset(Section):
    """A synthetic dataset: a population, the scanner that sees it, and the public layout it is written in."""

    layout: Layout = key("msd", "Public layout to write: msd, kits, lits or btcv.")
    task: str = key(
        "Task03_Liver",
        "Task name in the msd layout; the case names begin with the part after '_'.",
        pattern=r"^[A-Za-z0-9]+(_[A-Za-z0-9]+)*$",
    )
    organs: list[PhantomOrgan] = key(
        lambda: ["liver"],
        "Organs in the label files, values 1, 2, … in this order; btcv keeps its own values, and an empty list "
        "there means all of them.",
    )
    n_train: int = key(8, "Number of training cases.", unit="cases", ge=0)
    n_val: int = key(2, "Number of validation cases.", unit="cases", ge=0)
    n_test: int = key(2, "Number of test cases.", unit="cases", ge=0)
    seed: int = key(0, "Seed of the population; datasets of one seed but another layout or task differ.", ge=0)
    scale: float = key(
        1.0,
        "Size of the patients, 1.0 for human adults; for quick runs take a coarser spacing instead.",
        unit="fraction",
        gt=0.1,
        le=3,
    )
    deformation: float = key(
        1.0,
        "Strength of the random deformation, and of the variation in size and position.",
        unit="fraction",
        ge=0,
        le=2,
    )
    distractors: bool = key(True, "Put structures into the scans that look like organs but are none.")
    scanner: Scanner = key(Scanner, "Scanner and protocol of this dataset.")
    atlas: PhantomAtlas | None = key(
        None,
        "Deform this label map (and CT) instead of drawing anatomies from code.",
        example={"labels": "labels.nii.gz", "label_map": {6: "liver", 9: "bone"}},
    )

    @model_validator(mode="after")
    def _organs_fit_layout(self) -> Self:
        if not self.organs and self.layout != "btcv":
            allowed = f"at least one organ in the layout {self.layout}"
            raise FaultsError(Fault("organs", [], allowed, {"organs": ["liver"]}))
        if len(set(self.organs)) != len(self.organs):
            distinct = list(dict.fromkeys(self.organs))
            raise FaultsError(Fault("organs", self.organs, "each organ once", {"organs": distinct}))
        if "kidney" in self.organs and ({"left_kidney", "right_kidney"} & set(self.organs)):
            better = [organ for organ in self.organs if organ not in ("left_kidney", "right_kidney")]
            allowed = "kidney (both), or left_kidney and right_kidney"
            raise FaultsError(Fault("organs", self.organs, allowed, {"organs": better}))
        return self
