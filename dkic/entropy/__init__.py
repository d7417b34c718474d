"""What encoder and decoder agree on bit for bit: quantisation, integer frequency tables."""
