"""The language: types with symbolic dimensions, operators, graphs, their text and meaning."""
