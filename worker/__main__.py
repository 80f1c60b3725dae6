"""`python -m worker`: the same as `sentinel worker`."""

import sys

from sentinel.cli import main

main(["worker", *sys.argv[1:]])
