"""``python -m multidelete``: the command line."""

from multidelete.cli.app import main

main()
