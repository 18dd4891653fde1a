"""Where people see a search: MLflow, pictures, tables. Only here MLflow is imported."""
