"""`python -m dynamics`."""

from dynamics.cli import main

main()
