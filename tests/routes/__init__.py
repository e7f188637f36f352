"""Routes: several relays as one client. The simulation of `test_simulation` has its machinery in `simulation`."""
