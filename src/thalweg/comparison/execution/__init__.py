"""Run trainings: the pool of processes, and the speed that is measured on the way."""
