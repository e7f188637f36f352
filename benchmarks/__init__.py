"""How fast smtplite is, beside others: see `benchmarks.__main__` for the command."""
