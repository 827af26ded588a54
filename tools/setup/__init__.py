"""Set-up of a checkout: make an environment, install the PyTorch this machine needs and graphopt.

Standard library only, since nothing is installed yet. `make setup` calls tools/bootstrap.py, which
starts this package.
"""
