"""The ground floor: what every stage stands on. A stage depends on it as a whole (dvc.yaml)."""
