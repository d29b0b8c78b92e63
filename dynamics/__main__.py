"""`python -m dynamics`."""

from dynamics.cli.main import main

main()
