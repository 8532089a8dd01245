"""The parts of `fitting.fit_readout`."""
