"""`python -m jnn`, the same as the command `jnn`."""

from jnn.cli import command

command()
