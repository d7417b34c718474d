"""What encoder and decoder must agree on bit for bit: quantisation, integer frequency tables, exact networks."""
