"""The images and qualities of these tests."""

from dkic.coding.operating_points import SeparateNetworks

SIZES = {"a.png": (48, 64, 150), "b.png": (90, 70, 0), "c.png": (64, 64, 60)}  # height, width, top
GAINS = {1: 1, 2: 10, 5: 30}  # quality, gain
POINTS = SeparateNetworks(list(GAINS)).all()
