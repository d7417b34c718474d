"""Evaluation of codecs: measurements, metrics, figures and reports."""
