"""Commands for people who work on graphopt. Not part of the installed package."""
