"""`python -m pinstripe`."""

from .cli import main

main()
