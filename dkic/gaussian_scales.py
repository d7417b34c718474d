"""Standard deviations of dkic's Gaussian frequency tables: SCALE_COUNT values, equally spaced in their logarithm."""

SCALE_FIRST, SCALE_LAST, SCALE_COUNT = 0.11, 256.0, 64
