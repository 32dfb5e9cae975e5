"""The compiled forms of responders; see `responders.compiling`."""
