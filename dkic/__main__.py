"""`python -m dkic` is `dkic`."""

from dkic.cli import main

main()
