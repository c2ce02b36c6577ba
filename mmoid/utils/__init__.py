"""Progress display, atomic files."""
