"""Losses of PO-DKIC's training, equations 1 to 5 of the paper."""
