"""Bit-exact parts of encoder and decoder: quantization of the latent and integer frequency tables."""
