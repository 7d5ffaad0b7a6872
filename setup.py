"""Finds the packages; all the rest stands in pyproject.toml.

`cli` is installed as mlxrlhf_cli, for no package may claim the bare name `cli`, and weights/demo as mlxrlhf.shipped.
pyproject.toml can search for packages or name them, not both; hatchling's editable installs refuse such a mapping.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["mlxrlhf", "mlxrlhf.*"]), "mlxrlhf.shipped", "mlxrlhf_cli"])
