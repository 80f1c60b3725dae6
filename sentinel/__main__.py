"""`python -m sentinel`: the same as `sentinel`."""

from sentinel.cli import main

main()
