"""The truth of a search: what was proposed, what became of it, who goes on; and where that is kept."""
