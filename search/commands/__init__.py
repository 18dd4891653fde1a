"""The commands of `archsearch`, a file for each or for those that belong together; `search.cli` makes them one."""
