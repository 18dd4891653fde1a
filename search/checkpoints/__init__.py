"""What trainings leave to go on from: where it lies, on this machine or in a store."""
