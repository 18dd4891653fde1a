"""The dry run: what a space holds, what its networks cost, and what a search of it will take."""
