"""What every command stands on: configs, command line, run folders, checkpoints, devices."""
