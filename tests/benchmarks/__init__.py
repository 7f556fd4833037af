"""A package, lest one of this name that a peer installs be taken for it."""
