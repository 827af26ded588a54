"""One command a table: each prints its table and writes every sample as JSON."""
