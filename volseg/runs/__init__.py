"""What every run needs: its folder, checkpoints, log, budget, signals, and the processes it runs in."""
