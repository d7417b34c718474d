"""Codecs compared: what they make of images, in numbers and to look at."""
