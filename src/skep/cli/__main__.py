"""`python -m skep.cli`."""

from skep.cli.main import main

main()
