"""Codes of few bits for margins and features, each with the largest error that it can make.

Margins. With τ_c the largest temperature that students may use and L = 2^bits levels, spacing "probability" codes
u = σ(m / τ_c) as q = round(u (L − 1)): at τ_c no probability is wrong by more than 1 / (2 (L − 1)). The first and the
last code stand for everything that is saturated; they are read as the mean u of what they stand for in the body, which
keeps the sum of all probabilities; read as 0 and 1 they would make a student surer than its teacher. Spacing "margin"
codes m itself, evenly within ±clip. For every other temperature `probability_bound` gives the exact largest error.

Features. Per channel a scale s = REACH · rms(f) / (2^(bits − 1) − 1), or less where max|f| is smaller;
q = round(f / s), cut at ±(2^(bits − 1) − 1). A few far values are cut rather than all others blurred; the largest
error, half a step or what was cut of the largest value, is stated per channel.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

SATURATED = 2.0**-12
REACH = 4.0
FloatArray = npt.NDArray[np.floating[Any]]
CodeArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class MarginCode:
    """How margins become codes.

    Attributes:
        bits: 2, 4, 8 or 16.
        spacing: "probability": even in σ(m / temperature); "margin": even in m.
        temperature: τ_c of spacing "probability".
        clip: Largest |m| of spacing "margin".
        ends: u for which the first and the last code of spacing "probability" stand.
    """

    bits: int
    spacing: Literal["probability", "margin"] = "probability"
    temperature: float = 1.0
    clip: float = 8.0
    ends: tuple[float, float] = (SATURATED, 1 - SATURATED)

    @property
    def levels(self) -> int:
        """Number of codes."""
        return 1 << self.bits

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the codes; four bits lie in bytes, whose zeros above cost nothing once compressed."""
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16)

    def encode(self, margins: FloatArray) -> CodeArray:
        """Return the codes of margins of any shape; not a number is refused.

        Raises:
            ValueError: If a margin is not a number.
        """
        level = self._level(margins)
        if np.isnan(level).any():
            raise ValueError("margins hold NaN")
        codes: CodeArray = np.rint(level * np.float32(self.levels - 1)).astype(self.dtype)
        return codes

    def decode(self, codes: CodeArray) -> npt.NDArray[np.float32]:
        """Return the margins that codes stand for."""
        return self.margins.take(codes)  # indexing takes three times as long

    @cached_property
    def margins(self) -> npt.NDArray[np.float32]:
        """Margin of every code."""
        level = np.arange(self.levels) / (self.levels - 1)
        if self.spacing == "probability":
            least = 0.25 / (self.levels - 1)
            level[0], level[-1] = min(self.ends[0], 1.9 * least), max(self.ends[1], 1 - 1.9 * least)
            level = np.clip(level, min(SATURATED, least), 1 - min(SATURATED, least))
        return self._margin(level)

    def fitted(self, margins: FloatArray, body: npt.NDArray[np.bool_]) -> MarginCode:
        """Return the code whose ends stand for the means of what they hold in a body.

        Args:
            margins: (K, X, Y, Z).
            body: (X, Y, Z).
        """
        if self.spacing != "probability":
            return self
        level = self._level(margins[:, body])
        codes = np.rint(level * np.float32(self.levels - 1))
        means = [
            float(level[codes == code].mean(dtype=np.float64)) if (codes == code).any() else default
            for code, default in zip((0, self.levels - 1), self.ends, strict=True)
        ]
        return replace(self, ends=(float(f"{means[0]:.4g}"), float(f"{means[1]:.7g}")))

    def _level(self, margins: FloatArray) -> npt.NDArray[np.float32]:
        values = margins.astype(np.float32)
        if self.spacing == "margin":
            return np.asarray(np.clip(values / np.float32(2 * self.clip) + np.float32(0.5), 0, 1))
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(-values / np.float32(self.temperature))))

    def _margin(self, level: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        if self.spacing == "margin":
            return ((level - 0.5) * 2 * self.clip).astype(np.float32)
        return (self.temperature * (np.log(level) - np.log1p(-level))).astype(np.float32)

    def probability_bound(self, temperature: float) -> float:
        """Return the largest |σ(m / τ) − σ(m̂ / τ)| over all margins m, m̂ what is read back; exact, not an estimate."""
        edges = self._margin((np.arange(self.levels - 1) + 0.5) / (self.levels - 1)).astype(np.float64)
        low, high = np.concatenate(([-np.inf], edges)), np.concatenate((edges, [np.inf]))
        read = _sigmoid(self.margins.astype(np.float64) / temperature)
        error = np.maximum(_sigmoid(high / temperature) - read, read - _sigmoid(low / temperature))
        return float(error.max()) + ROUNDING

    def to_json(self) -> dict[str, Any]:
        """Return what a store's attributes hold."""
        return {"kind": "margin_code", **asdict(self)}


@dataclass(frozen=True)
class FeatureCode:
    """How the channels of a feature become codes.

    Attributes:
        bits: 4 or 8 bits per value.
        scale: Value of one step per channel; 0 for a channel that is zero everywhere.
        peak: Largest |f| per channel.
    """

    bits: int
    scale: tuple[float, ...]
    peak: tuple[float, ...]

    @classmethod
    def of(cls, features: FloatArray, bits: int) -> FeatureCode:
        """Return the code for features (C, x, y, z)."""
        flat = np.abs(features.reshape(features.shape[0], -1)).astype(np.float32)
        peak = flat.max(axis=1, initial=0.0)
        known = np.count_nonzero(flat, axis=1).clip(1)
        reach = REACH * np.sqrt(np.square(flat, dtype=np.float64).sum(1) / known)
        scale = np.minimum(peak, reach).astype(np.float32) / np.float32(cls.top(bits))
        # the shortest decimals that read back as the same float32
        return cls(bits, tuple(float(str(s)) for s in scale), tuple(float(str(p)) for p in peak))

    @staticmethod
    def top(bits: int) -> int:
        """Return the largest code."""
        return int(2 ** (bits - 1) - 1)

    def encode(self, features: FloatArray) -> npt.NDArray[np.int8]:
        """Return the codes of features (C, x, y, z).

        Raises:
            ValueError: If a feature is not finite.
        """
        if not np.isfinite(features).all():
            raise ValueError("features are not finite")
        scale = np.asarray(self.scale, np.float32).reshape(-1, 1, 1, 1)
        step = np.where(scale > 0, scale, 1)
        return np.clip(np.rint(features / step), -self.top(self.bits), self.top(self.bits)).astype(np.int8)

    def decode(self, codes: CodeArray) -> npt.NDArray[np.float32]:
        """Return the features (C, x, y, z) that codes stand for."""
        return codes.astype(np.float32) * np.asarray(self.scale, np.float32).reshape(-1, 1, 1, 1)

    def bound(self) -> list[float]:
        """Return the largest error per channel: half a step, or what is cut of the largest value."""
        top = self.top(self.bits)
        errors = (max(0.5 * s, p - top * s) for s, p in zip(self.scale, self.peak, strict=True))
        return [float(f"{1.001 * (error + 1e-5 * peak):.4g}") for error, peak in zip(errors, self.peak, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Return what a store's attributes hold."""
        return {"kind": "feature_code", "bits": self.bits, "scale": list(self.scale), "peak": list(self.peak)}


ROUNDING = 1e-6  # float32 arithmetic of encoding and reading


def code_from_json(data: dict[str, Any] | None) -> MarginCode | FeatureCode | None:
    """Return the code that a store's attributes describe; None for values that are stored as they are.

    Raises:
        ValueError: If this version knows no such code.
    """
    if data is None:
        return None
    if data["kind"] == "margin_code":
        ends = (float(data["ends"][0]), float(data["ends"][1]))
        return MarginCode(int(data["bits"]), data["spacing"], float(data["temperature"]), float(data["clip"]), ends)
    if data["kind"] == "feature_code":
        scale, peak = (tuple(float(v) for v in data[name]) for name in ("scale", "peak"))
        return FeatureCode(int(data["bits"]), scale, peak)
    raise ValueError(f"unknown code {data['kind']!r}")


def _sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))
