"""A search told to people: pictures, pages, tables. The same pieces serve MLflow and a file of its own."""
