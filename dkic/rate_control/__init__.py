"""`dkic measure`, what pictures cost at every level, and `dkic compress --target-bpp`, several brought to a rate together."""
