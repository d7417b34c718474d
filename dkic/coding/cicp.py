"""Coding-independent code points (CICP): numbers for an image's primaries and transfer curve, as PNG and AVIF carry them.

Source: ITU-T H.273 (2024), tables 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from dkic.coding.color_profile import SRGB_CURVE, SRGB_PRIMARIES, Curve, Primaries, make_profile

_C = (0.310, 0.316)
_PRIMARIES = {
    1: SRGB_PRIMARIES,  # BT.709
    4: Primaries((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C),  # BT.470 M
    5: Primaries((0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),  # BT.601, 625 lines
    6: Primaries((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),  # BT.601, 525 lines
    7: Primaries((0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),  # SMPTE 240M
    8: Primaries((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),  # film
    9: Primaries((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    11: Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),  # DCI-P3
    12: Primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # Display P3
    22: Primaries((0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),  # EBU 3213
}
# BT.601's, BT.709's and BT.2020's curves describe cameras; images that carry them are displayed with sRGB's, as browsers do.
_CURVES = {
    1: SRGB_CURVE,
    4: Curve(2.2),
    5: Curve(2.8),
    6: SRGB_CURVE,
    8: Curve(1.0),
    13: SRGB_CURVE,
    14: SRGB_CURVE,
    15: SRGB_CURVE,
}
HDR = {16: "PQ", 18: "HLG"}
UNSPECIFIED = 2


@dataclass(frozen=True)
class Cicp:
    """primaries, transfer: code points of H.273; matrix: 0 for RGB, as PNG has it; full_range: values use 0 to 255."""

    primaries: int
    transfer: int
    matrix: int = 0
    full_range: bool = True

    @property
    def is_specified(self) -> bool:
        """Whether both code points are specified."""
        return UNSPECIFIED not in (self.primaries, self.transfer)

    def profile(self, grayscale: bool) -> bytes | None:
        """An ICC profile of these colors; None for sRGB and for unspecified colors.

        Raises ValueError, which says why, where no profile of 8-bit colors is faithful to them.
        """
        if self.transfer in HDR:
            raise ValueError(f"its colors are HDR ({HDR[self.transfer]})")
        primaries = SRGB_PRIMARIES if self.primaries == UNSPECIFIED else _PRIMARIES.get(self.primaries)
        curve = SRGB_CURVE if self.transfer == UNSPECIFIED else _CURVES.get(self.transfer)
        if primaries is None or curve is None or self.matrix != 0 or not self.full_range:
            numbers = f"{self.primaries}/{self.transfer}/{self.matrix}/{int(self.full_range)}"
            raise ValueError(f"its color description (cICP {numbers}) is not one that dkic can turn into an ICC profile")
        if curve == SRGB_CURVE and (grayscale or primaries == SRGB_PRIMARIES):
            return None
        return make_profile(curve, None if grayscale else primaries)
