"""Bit-exact parts of encoder and decoder: quantization and integer frequency tables."""
