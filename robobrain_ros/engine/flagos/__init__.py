"""FlagOS: which of FlagGems' operators an embedded engine uses."""
