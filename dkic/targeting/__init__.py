"""`dkic compress --target-bpp`: several pictures brought to a rate together."""
