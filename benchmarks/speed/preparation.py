"""Preparing a scan: read, reorient, resample to the study spacing, clip, crop, store, labels included."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.speed import nnunet
from benchmarks.speed.data import HU_CLIP, LABELS, SCAN, VALUES, read, true_labels, write_scan
from benchmarks.speed.options import Options
from benchmarks.speed.pairing import Answer, Check, Pair
from benchmarks.speed.sides import Work

Array = npt.NDArray[Any]
REFERENCE, LABEL_REFERENCE = "cubic_spline.npy", "label_reference.npy"
# Mean Dice that ours and theirs must reach, by --quick: in coarse scans more of an organ's voxels lie on its border.
_DICE = {False: (0.995, 0.98), True: (0.965, 0.965)}


def spacing_mm(options: Options) -> tuple[float, float, float]:
    """Return the study spacing; it divides the synthetic scan's extent, so that both libraries choose one grid."""
    return (2.0, 2.0, 3.0) if options.quick else (1.5, 1.5, 2.0)


def pairs(options: Options) -> list[Pair]:
    """Return the row."""
    shape = "128×128×64" if options.quick else "512×512×200"
    return [
        Pair(
            "preparation_nnunet",
            f"preparing a scan with labels ({shape} → {', '.join(f'{s:g}' for s in spacing_mm(options))} mm, stored)",
            *("ours", "nnunet", "nnU-Net v2's preprocessor", ("nnunetv2",), 1 / 3),
            partial(_check, *_DICE[options.quick]),
            note="nnU-Net clips before it resamples and stores float32; ours clips afterwards and stores int16 HU, "
            "the body's mask besides.",
        )
    ]


def set_up(folder: Path, options: Options) -> None:
    """Write the scan, what a cubic spline makes of it, and which organ lies at each point of the study grid."""
    from scipy import ndimage

    from mskd.geometry import Geometry

    write_scan(folder, options)
    image, affine = read(folder, SCAN)
    geometry = Geometry.of_raw(image.shape, affine, spacing_mm(options))
    canonical = geometry.to_canonical(image).astype(np.float32)
    where = np.meshgrid(*(geometry.study_positions_in_raw(axis) for axis in range(3)), indexing="ij", sparse=True)
    filtered = ndimage.spline_filter(canonical, order=3, mode="mirror", output=np.float32)
    resampled = np.empty(geometry.shape, np.float32)
    for z in range(geometry.shape[2]):  # plane by plane, for memory
        plane = np.broadcast_arrays(where[0][:, :, 0], where[1][:, :, 0], where[2][:, :, z])
        resampled[:, :, z] = ndimage.map_coordinates(filtered, plane, order=3, mode="mirror", prefilter=False)
    np.save(folder / REFERENCE, resampled)
    places = [geometry.study_positions_in_raw(axis) for axis in range(3)]
    if options.scan is None:  # whose axes are canonical
        found = true_labels(folder, options, places)
    else:
        found = _interpolated(geometry.to_canonical(read(folder, LABELS)[0]), places)
    np.save(folder / LABEL_REFERENCE, found)


def _interpolated(labels: npt.NDArray[np.uint8], places: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.uint8]:
    """Return the organ whose mask, interpolated linearly, is more than a half."""
    from scipy import ndimage

    where = np.meshgrid(*places, indexing="ij", sparse=True)
    shape = tuple(len(axis) for axis in places)
    best, found = np.full(shape, 0.5, np.float32), np.zeros(shape, np.uint8)
    for value in VALUES.values():
        mask = (labels == value).astype(np.float32)
        for z in range(shape[2]):
            plane = np.broadcast_arrays(where[0][:, :, 0], where[1][:, :, 0], where[2][:, :, z])
            share = ndimage.map_coordinates(mask, plane, order=1, mode="nearest")
            found[:, :, z][share > best[:, :, z]] = value
            best[:, :, z] = np.maximum(share, best[:, :, z])
    return found


def _ours(folder: Path, options: Options) -> Work:
    from mskd.config.model import Preprocessing
    from mskd.preparation import prepare_arrays
    from mskd.prepared import PreparedCase, write_prepared
    from mskd.scans import read_labels, read_scan

    settings = Preprocessing(spacing_mm=spacing_mm(options), hu_clip=HU_CLIP)
    target = folder / "ours.zarr"

    def run() -> None:
        image, affine = read_scan(folder / SCAN, "scan")
        labels = read_labels(folder / LABELS, "scan", {value: value for value in VALUES.values()}, image.shape)
        write_prepared(target, prepare_arrays(image, affine, labels, None, settings), key="speed", attributes={})

    def answer(_: None) -> Answer:
        case = PreparedCase(target, "scan")
        start, shape = case.geometry.crop_start, case.geometry.shape
        box = tuple(slice(s, s + n) for s, n in zip(start, shape, strict=True))
        labels = np.zeros(case.geometry.full_shape, np.uint8)
        labels[box] = case.read("labels")
        # beyond the crop nothing is stored; it is compared inside
        return {**_error(folder, case.read("image").astype(np.float32), box), **_overlap(folder, labels)}

    return Work(run, answer)


def _nnunet(folder: Path, options: Options) -> Work:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    shape = tuple(int(n) for n in np.load(folder / REFERENCE, mmap_mode="r").shape)
    plans, configuration = nnunet.managers(options, spacing_mm(options), shape)
    target = folder / "nnunet"

    def run() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        preprocessor = DefaultPreprocessor(verbose=False)
        files = [str(folder / SCAN)], str(folder / LABELS)
        preprocessor.run_case_save(str(target / "scan"), *files, plans, configuration, nnunet.dataset_json())

    def answer(_: None) -> Answer:
        data, labels, *_rest = nnUNetDatasetBlosc2(str(target)).load_case("scan")
        low, high = HU_CLIP
        image = np.asarray(data[0]).transpose(2, 1, 0) * (high - low) / 2 + (high + low) / 2
        box = tuple(slice(0, n) for n in image.shape)
        return {**_error(folder, image, box), **_overlap(folder, np.asarray(labels[0]).transpose(2, 1, 0).clip(0))}

    return Work(run, answer)


def _error(folder: Path, image: Array, box: tuple[slice, ...]) -> Answer:
    """Return the RMS difference from the cubic spline in percent of the clip range."""
    reference = np.clip(np.load(folder / REFERENCE)[box], *HU_CLIP)
    rms = float(np.sqrt(np.mean((reference - np.clip(image, *HU_CLIP)) ** 2)))
    return {"rms_percent": 100 * rms / (HU_CLIP[1] - HU_CLIP[0])}


def _overlap(folder: Path, labels: Array) -> Answer:
    """Return the mean Dice over organs with the anatomy (of a scan of one's own: linear interpolation)."""
    reference, dice = np.load(folder / LABEL_REFERENCE), []
    if reference.shape != labels.shape:
        raise ValueError(f"grids differ: {labels.shape} and {reference.shape}")
    for value in VALUES.values():
        one, other = labels == value, reference == value
        if one.any() or other.any():
            dice.append(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))
    return {"dice": float(np.mean(dice))}


def _check(our_dice: float, their_dice: float, ours: Answer, theirs: Answer) -> list[Check]:
    # of theirs the limits are wider: it clips first, which rounds edges of bone and skin
    labels = "labels against the anatomy at the grid's points, mean Dice over organs"
    return [
        Check("our image against a cubic spline, RMS (% of the clip range)", ours["rms_percent"], 1),
        Check(f"our {labels}", ours["dice"], our_dice, ">="),
        Check("their image against a cubic spline, RMS (% of the clip range)", theirs["rms_percent"], 5),
        Check(f"their {labels}", theirs["dice"], their_dice, ">="),
    ]


SIDES = {"ours": _ours, "nnunet": _nnunet}
