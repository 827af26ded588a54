"""graphopt compiles a language-model checkpoint into a plan and runs it."""

__version__ = "0.1.0"
