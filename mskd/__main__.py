"""`python -m mskd` is the command `mskd`."""

from mskd.cli import main

main()
