"""Codecs compared: what they make of pictures, in numbers and to look at."""
