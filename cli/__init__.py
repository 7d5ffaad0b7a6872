"""The command line, installed as `mlxrlhf_cli`: no package may claim the bare module name `cli`."""
