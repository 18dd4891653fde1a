"""A model written for use outside of this project, checked before anything is written.

Each format is a file here: what it writes, and how what was written is loaded again. Knows model folders, nothing of
searches, studies or MLflow.
"""
