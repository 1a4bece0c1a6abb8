"""How a stage runs: params, work folders, times, tracking, devices. It can change no out, so no stage depends on it."""
