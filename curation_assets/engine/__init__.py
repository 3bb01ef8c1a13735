"""Engines: where work runs, never what it is."""
