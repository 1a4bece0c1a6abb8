"""Where benchmarks come from: `benchmarks.<name>.source`."""
