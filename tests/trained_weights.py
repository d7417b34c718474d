"""Trained weights of the preset `tiny`, qualities 1, 3 and 5: a model of several networks, of which kind none ships."""

from pathlib import Path

THREE_QUALITIES = Path(__file__).parent / "weights"
