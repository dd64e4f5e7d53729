"""Targets: directories where segments lie. One contract, one file for each kind, one wrapper to build others on.

Whoever wants one of these names its module: ``from pinstripe.targets.posix import open_target``.
"""
