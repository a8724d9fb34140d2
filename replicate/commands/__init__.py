"""The commands: each selects runs and calls the module that does the work. Their docstrings are the help.

Modules are imported by the command that needs them, so that `--help` and `status` answer at once, without torch.
"""
