"""`python -m dynamics`."""

from dynamics.cli.main import main

if __name__ == "__main__":
    main()
