"""How a stage runs: params, work folders, tracking, devices. It can change no out, so no stage depends on it."""
