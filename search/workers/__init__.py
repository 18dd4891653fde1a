"""Who trains: a Ray cluster, its workers, their faults. Only here Ray is imported."""
