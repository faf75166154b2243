"""`python -m perenne.cli`."""

from perenne.cli import main

main()
