"""`python -m convive.scenarios` is the command `convive`."""

from convive.scenarios import main

main()
