"""`python -m steerlens` is the command line."""

from steerlens.cli import app

app(prog_name="steerlens")
