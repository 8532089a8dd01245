"""What the worker processes of tests run: they can import this folder's modules, and no test module."""


def known_and_bits(engine, pixels):
    """Return what an engine has compiled already, and its bits."""
    return list(engine._compiled), engine.bits(pixels)
