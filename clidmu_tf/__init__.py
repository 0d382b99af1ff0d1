"""Learning with wrong labels, without a clean one (CLID-MU) in Keras 3."""
