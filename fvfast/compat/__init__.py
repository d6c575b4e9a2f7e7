"""Other libraries' interfaces on this engine, for scripts that were written for them."""
