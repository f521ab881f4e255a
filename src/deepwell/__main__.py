"""`python -m deepwell` is the `deepwell` command."""

from deepwell.cli import main

main()
