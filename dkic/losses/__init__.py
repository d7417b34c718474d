"""Training losses of PO-DKIC, equations 1 to 5 of the paper."""
