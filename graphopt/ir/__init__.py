"""The language: types with symbolic dimensions, operators, graphs, their text form and their meaning."""
