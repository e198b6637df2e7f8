"""Files on disk: written completely or not at all, checked when they are read."""
