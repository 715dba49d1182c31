"""Key states of robot demonstrations against what the simulator knows: errors, times, successes."""
