"""What docs/build.py makes pages of: one module for each kind of table or picture."""
