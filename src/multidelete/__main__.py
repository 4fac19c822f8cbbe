"""``python -m multidelete``: the command line."""

from multidelete.cli import main

main()
